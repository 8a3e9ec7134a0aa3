"""Sealing: what leaves this computer is encrypted, authenticated and the same for the same bytes.

The nonce-free construction makes the key of each object out of its own contents: a keyed hash
over context and payload is the synthetic initialisation vector, a second keyed hash of that is a
one-time key. Equal contents give equal objects, which is the deduplication; a cloned machine can
repeat no nonce, since there is none; and an object commits to its key and message.

Object: version (1 byte), epoch (16), siv (32), ciphertext with tag. Version 2 is padded: where a
member holds what it cannot read, sizes are rounded so that they say little (Padmé: at most 12 %).
"""

from collections.abc import Mapping
from typing import Final, Self

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from piperfs.core.errors import NoKeyError, PeerError
from piperfs.core.ids import ChunkId, EpochId, VolumeId

PLAIN: Final = b"\x01"
PADDED: Final = b"\x02"
VERSIONS: Final = (PLAIN, PADDED)
PREFIX_BYTES: Final = 17
SIV_BYTES: Final = 32
OVERHEAD_BYTES: Final = PREFIX_BYTES + SIV_BYTES + 16
NONCE: Final = bytes(12)  # right because each key encrypts one message

CHUNK: Final = b"chunk"
NODE: Final = b"node"
BODIES: Final = b"bodies"


class EpochSealer:
    """Seals and opens objects of one epoch of one volume."""

    def __init__(self, volume: VolumeId, epoch: EpochId, secret: bytes) -> None:
        assert len(secret) == 32
        assert len(epoch) == 16
        self.epoch = epoch
        self._siv_key = blake3(secret, derive_key_context="piperfs seal siv v1").digest()
        self._enc_key = blake3(secret, derive_key_context="piperfs seal encryption v1").digest()
        self._context = volume + epoch

    def seal(
        self, kind: bytes, payload: bytes, associated: bytes = b"", *, pad: bool = False
    ) -> bytes:
        """Seal a payload; opening needs the same kind and associated data."""
        version = PADDED if pad else PLAIN
        payload = add_padding(payload) if pad else payload
        ad = self._associated(version, kind, associated)
        siv = self._siv(ad, payload)
        ciphertext = self._cipher(siv).encrypt(NONCE, payload, ad)
        return b"".join((version, self.epoch, siv, ciphertext))

    def open(self, kind: bytes, sealed: bytes, associated: bytes = b"") -> bytes:
        """Open an object of this epoch. Raises PeerError if it is not exactly as sealed."""
        version = sealed[:1]
        ad = self._associated(version, kind, associated)
        siv = sealed[PREFIX_BYTES : PREFIX_BYTES + SIV_BYTES]
        try:
            ciphertext = memoryview(sealed)[PREFIX_BYTES + SIV_BYTES :]
            payload = self._cipher(siv).decrypt(NONCE, ciphertext, ad)
        except (InvalidTag, ValueError) as error:
            raise PeerError("a sealed object does not open: it was changed or swapped") from error
        if self._siv(ad, payload) != siv:
            raise PeerError("a sealed object carries the wrong synthetic vector")
        return remove_padding(payload) if version == PADDED else payload

    def _associated(self, version: bytes, kind: bytes, associated: bytes) -> bytes:
        return b"".join((kind, version, self._context, associated))

    def _siv(self, ad: bytes, payload: bytes) -> bytes:
        hasher = blake3(len(ad).to_bytes(4, "big"), key=self._siv_key)
        hasher.update(ad)
        hasher.update(payload)
        return hasher.digest()

    def _cipher(self, siv: bytes) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(blake3(siv, key=self._enc_key).digest())


def padded_length(length: int) -> int:
    """The length that Padmé rounds up to: its low bits, more of them the longer it is, are zero.

    After Nikitin and others, "Reducing Metadata Leakage from Encrypted Files" (PETS 2019).
    """
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (length + mask) & ~mask


def add_padding(payload: bytes) -> bytes:
    """A one bit and zeros, up to the rounded length."""
    return (payload + b"\x80").ljust(padded_length(len(payload) + 1), b"\0")


def remove_padding(padded: bytes) -> bytes:
    """What was padded. Raises PeerError."""
    payload = padded.rstrip(b"\0")
    if payload[-1:] != b"\x80":
        raise PeerError("a sealed object is padded wrongly")
    return payload[:-1]


class Keyring:
    """All epochs this replica has a key for; new objects are sealed in the current one.

    Thread-safe: a new epoch replaces the tables as a whole.
    """

    def __init__(self, volume: VolumeId, keys: Mapping[EpochId, bytes], current: EpochId) -> None:
        self._volume = volume
        self.pads = False  # somebody who cannot read may look at the sizes
        self._sealers: dict[EpochId, EpochSealer] = {}
        self._current: EpochSealer | None = None
        if keys:
            self.update(keys, current)

    @classmethod
    def empty(cls, volume: VolumeId) -> Self:
        """A keyring that opens and seals nothing until it is given keys."""
        return cls(volume, {}, EpochId(b""))

    def update(self, keys: Mapping[EpochId, bytes], current: EpochId) -> None:
        """Take over new epochs; `current` must be one of `keys`."""
        self._sealers = {
            epoch: self._sealers.get(epoch) or EpochSealer(self._volume, epoch, secret)
            for epoch, secret in keys.items()
        }
        self._current = self._sealers[current]

    @property
    def epoch(self) -> EpochId:
        """The epoch that new objects are sealed in."""
        return self._writer().epoch

    def _writer(self) -> EpochSealer:
        if self._current is None:
            raise PeerError("this replica has no key to write with")
        return self._current

    def knows(self, epoch: EpochId) -> bool:
        return epoch in self._sealers

    def seal_chunk(self, payload: bytes) -> tuple[ChunkId, bytes]:
        """Seal a chunk's payload; returns the chunk's id and the object."""
        sealed = self._writer().seal(CHUNK, payload, pad=self.pads)
        return ChunkId(blake3(sealed).digest()), sealed

    def open_chunk(self, sealed: bytes) -> bytes:
        """Open a chunk of any known epoch. Raises PeerError."""
        return self._sealer_of(sealed).open(CHUNK, sealed)

    def seal_node(self, clear: bytes, plain: bytes) -> bytes:
        """Seal the lengths of a manifest node, bound to its clear part."""
        return self._writer().seal(NODE, plain, clear, pad=self.pads)

    def open_node(self, clear: bytes, sealed: bytes) -> bytes:
        """Open the lengths of a manifest node. Raises PeerError."""
        return self._sealer_of(sealed).open(NODE, sealed, clear)

    def seal_bodies(self, header: bytes, plain: bytes) -> bytes:
        """Seal the bodies of an operation, bound to its header."""
        return self._writer().seal(BODIES, plain, header, pad=self.pads)

    def unseal_bodies(self, epoch: EpochId, header: bytes, sealed: bytes) -> bytes:
        """Open the bodies of an operation. Raises PeerError."""
        if sealed[1:PREFIX_BYTES] != epoch:
            raise PeerError("an operation's bodies are sealed for another epoch than it says")
        return self._sealer_of(sealed).open(BODIES, sealed, header)

    def _sealer_of(self, sealed: bytes) -> EpochSealer:
        if sealed[:1] not in VERSIONS or len(sealed) < OVERHEAD_BYTES:
            raise PeerError("a sealed object is too short or of an unknown version")
        return self._sealer(EpochId(sealed[1:PREFIX_BYTES]))

    def _sealer(self, epoch: EpochId) -> EpochSealer:
        sealer = self._sealers.get(epoch)
        if sealer is None:
            raise NoKeyError(f"no key for epoch {epoch.hex()[:12]} is known here")
        return sealer
