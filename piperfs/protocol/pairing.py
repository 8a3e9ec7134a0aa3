"""SPAKE2 between two computers whose people share a short code: one guess for each run.

Neither end learns anything of the other's code but whether it is the same. The hash of the
server's certificate is part of both names, so whoever stands between two connections fails on
both. The client proves first that it knows the code: a server that was asked by a stranger has
then said nothing that could be tried out at leisure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from piperfs.core.errors import PeerError
from piperfs.core.pairing_code import PairingCode
from piperfs.protocol.handshake import Side

CONTEXT: Final = b"piperfs pairing v1\0"
NONCE: Final = bytes(12)  # each key seals one ticket


class Exchange:
    """One side of one run. Both steps cost some milliseconds: they belong into a thread."""

    def __init__(
        self, side: Side, code: PairingCode, binding: bytes, entropy: Callable[[int], bytes]
    ) -> None:
        from spake2 import SPAKE2_A, SPAKE2_B  # noqa: PLC0415 - few daemons ever pair

        kind = SPAKE2_A if side is Side.CLIENT else SPAKE2_B
        names = (CONTEXT + each.value + binding for each in (Side.CLIENT, Side.SERVER))
        self._run = kind(code.password, *names, entropy_f=entropy)
        self.share: bytes = self._run.start()

    def finish(self, share: bytes) -> "SharedKey":
        """The key that both ends have if their codes are the same. Raises PeerError."""
        try:
            return SharedKey(self._run.finish(share))
        except Exception as error:
            raise PeerError("its part of a pairing is malformed") from error


@dataclass(frozen=True, slots=True)
class SharedKey:
    """What both ends have; it is worth nothing until the other end has proved to have it."""

    secret: bytes

    def proof(self, side: Side) -> bytes:
        """What only somebody with the same key can say."""
        return self._derive(f"proof of the {side.value.decode()}")

    def is_proved_by(self, side: Side, proof: bytes) -> bool:
        return compare_digest(self.proof(side), proof)

    def seal(self, ticket: str) -> bytes:
        return self._cipher().encrypt(NONCE, ticket.encode(), None)

    def open(self, sealed: bytes) -> str:
        """Raises PeerError."""
        try:
            return self._cipher().decrypt(NONCE, sealed, None).decode()
        except (InvalidTag, ValueError) as error:
            raise PeerError("the ticket of a pairing does not open") from error

    def _cipher(self) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(self._derive("ticket"))

    def _derive(self, purpose: str) -> bytes:
        return blake3(self.secret, derive_key_context=f"piperfs pairing v1 {purpose}").digest()
