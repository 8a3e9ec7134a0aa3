"""Encryption at rest: every value of the metadata tables is one sealed cell.

LMDB has no checksums: a flipped bit comes back as a wrong value. An authenticated cipher bound to
table and key answers that and the theft of a disk at once, for about a microsecond a cell. Names
appear in no key either: directory entries are keyed by a keyed hash of the name, which also makes
their order stable while entries come and go.
"""

from collections.abc import Callable
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from piperfs.core.errors import StoreError

NONCE_BYTES: Final = 12


class Cells:
    """Seals and opens cells with the store's local key.

    Nonces are random: the store of a cloned machine must not repeat them, and 2^32 cells are
    far from the bound for 96 bits.
    """

    def __init__(self, local_key: bytes, entropy: Callable[[int], bytes]) -> None:
        assert len(local_key) == 32
        self._cipher = AESGCM(
            blake3(local_key, derive_key_context="piperfs store cells v1").digest()
        )
        self._name_key = blake3(local_key, derive_key_context="piperfs store names v1").digest()
        self._digest_key = blake3(local_key, derive_key_context="piperfs store dedup v1").digest()
        self._entropy = entropy

    def sealer(self, count: int) -> Callable[[bytes, bytes], bytes]:
        """A function that seals up to `count` values at once, as one commit does.

        It is given a place (table and key), which must be the same when the value is opened, and
        the value. Their nonces are drawn together, since asking the kernel for each costs as much
        as sealing.
        """
        drawn, encrypt = self._entropy(NONCE_BYTES * count), self._cipher.encrypt
        nonces = (drawn[at : at + NONCE_BYTES] for at in range(0, len(drawn), NONCE_BYTES))

        def seal(place: bytes, plain: bytes) -> bytes:
            nonce = next(nonces)
            return nonce + encrypt(nonce, plain, place)

        return seal

    def open(self, place: bytes, cell: bytes) -> bytes:
        """Open a cell. Raises StoreError if a bit of it, or of its key, is not as written."""
        try:
            return self._cipher.decrypt(cell[:NONCE_BYTES], cell[NONCE_BYTES:], place)
        except (InvalidTag, ValueError) as error:
            raise StoreError(
                f"the store holds a damaged value in {place[:12]!r}: run piperfs fsck"
            ) from error

    def name_hash(self, name: bytes) -> bytes:
        """16 bytes that stand for a name in the key of a directory entry."""
        return blake3(name, key=self._name_key).digest(length=16)

    def content_hash(self, plain: bytes) -> bytes:
        """32 bytes that stand for a chunk's plaintext in the deduplication table."""
        return blake3(plain, key=self._digest_key).digest()


def _derive(key: bytes, context: str) -> bytes:
    return blake3(key, derive_key_context=context).digest()
