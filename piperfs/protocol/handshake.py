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
from piperfs.core.membership_rules import Member
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


class Fault(enum.Enum):
    """Why a greeting fails; the values are labels of a metric."""

    VERSION = "version"
    VOLUME = "volume"
    MALFORMED = "malformed"
    ITSELF = "itself"
    STRANGER = "stranger"
    REMOVED = "removed"
    PROOF = "proof"  # a man in the middle, a replay, a changed hello, a forwarded proof
    TICKET = "ticket"
    PAIRING = "pairing"  # a wrong or old code
    SLOW = "slow"
    DECLINED = "declined"  # the other end refuses us


class HandshakeError(PeerError):
    """A greeting that leads to no session."""

    def __init__(self, fault: Fault, reason: str, proved: ReplicaId | None = None) -> None:
        super().__init__(reason)
        self.fault = fault
        self.proved = proved  # who it was, if he proved it


def check_hello(hello: Hello, volume: VolumeId, own: ReplicaId) -> None:
    """Raises HandshakeError for a hello that cannot lead to a session."""
    if hello.version != VERSION:
        raise HandshakeError(
            Fault.VERSION,
            f"it speaks protocol {hello.version}, this is {VERSION}; update one of us",
        )
    if hello.volume != volume:
        raise HandshakeError(Fault.VOLUME, "it belongs to another volume")
    if len(hello.nonce) != NONCE_BYTES or len(hello.replica) != 16:
        raise HandshakeError(Fault.MALFORMED, "its hello is malformed")
    if hello.replica == own:
        raise HandshakeError(Fault.ITSELF, "it is this replica itself")


def check_proof(transcript: Transcript, side: Side, signing: bytes, signature: bytes) -> None:
    """Raises HandshakeError unless `side` proves to hold the key, on this very connection."""
    try:
        verify(signing, transcript.message(side), signature)
    except PeerError as error:
        raise HandshakeError(
            Fault.PROOF, "its proof does not fit: somebody may stand between us"
        ) from error


def check_member(transcript: Transcript, side: Side, member: Member | None, proof: bytes) -> None:
    """Raises HandshakeError unless `side` proves to be this member, and still is one."""
    if member is None:
        raise HandshakeError(Fault.STRANGER, "it is no member of the volume")
    check_proof(transcript, side, member.keys.signing, proof)
    if member.removed:
        raise HandshakeError(
            Fault.REMOVED, f"{member.label} was removed from the volume", member.replica
        )
