"""Mutual proof of identity over a connection whose certificates prove nothing.

Both ends sign the hash of the server's throw-away certificate, both hellos as sent, and their own
role. Whoever stands between them shows another certificate, so the signatures do not fit; whoever
strips a feature changes a hello; and a signature for one connection fits no other.
"""

import enum
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from piperfs.core.errors import PeerError
from piperfs.core.identity import verify
from piperfs.core.ids import ReplicaId, VolumeId
from piperfs.protocol.messages import VERSION, Hello, encode

CONTEXT: Final = b"piperfs auth v1\0"
NONCE_BYTES: Final = 32


class Side(enum.Enum):
    """Who dialled."""

    CLIENT = b"client"
    SERVER = b"server"

    @property
    def other(self) -> "Side":
        return Side.SERVER if self is Side.CLIENT else Side.CLIENT


@dataclass(frozen=True, slots=True)
class Transcript:
    """What both ends agree to have said; `binding` is the hash of the server's certificate."""

    volume: VolumeId
    binding: bytes
    client: Hello
    server: Hello

    def message(self, side: Side) -> bytes:
        """What one side signs."""
        parts = (encode(self.client), encode(self.server))
        body = b"".join((self.volume, self.binding, *parts))
        return CONTEXT + side.value + blake3(body).digest()

    @property
    def digest(self) -> bytes:
        """The same on both ends, and on no other connection."""
        return blake3(self.message(Side.CLIENT)).digest()


def check_hello(hello: Hello, volume: VolumeId, own: ReplicaId) -> None:
    """Raises PeerError for a hello that cannot lead to a session."""
    if hello.version != VERSION:
        raise PeerError(f"it speaks protocol {hello.version}, this is {VERSION}; update one of us")
    if hello.volume != volume:
        raise PeerError("it belongs to another volume")
    if len(hello.nonce) != NONCE_BYTES or len(hello.replica) != 16:
        raise PeerError("its hello is malformed")
    if hello.replica == own:
        raise PeerError("it is this replica itself")


def check_proof(
    transcript: Transcript, side: Side, signing: bytes | None, signature: bytes
) -> None:
    """Raises PeerError unless `side` proves to be the member whose key this is."""
    if signing is None:
        raise PeerError("it is no member of the volume, or was removed")
    verify(signing, transcript.message(side), signature)
