"""Signing this replica's operations when they are committed, in the committing thread."""

from collections.abc import Callable
from typing import Protocol

import msgspec

from piperfs.core.ids import VolumeId
from piperfs.core.operation import Envelope, signed_bytes

_pack = msgspec.msgpack.Encoder().encode


class Signer(Protocol):
    """The replica's signing key."""

    def sign(self, message: bytes) -> bytes: ...


def signing(volume: VolumeId, signer: Signer) -> Callable[[Envelope], bytes]:
    """Encode an envelope, signing it first if it is our own new one.

    The newest one goes into two tables, and is signed once.
    """
    unsigned, signed = None, b""

    def encode(envelope: Envelope) -> bytes:
        nonlocal unsigned, signed
        if envelope.signature:
            return _pack(envelope)
        if envelope is not unsigned:
            message = signed_bytes(volume, envelope.id)
            signature = signer.sign(message)
            unsigned = envelope
            signed = _pack(Envelope(envelope.header, envelope.sealed, signature))
        return signed

    return encode
