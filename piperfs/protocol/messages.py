"""Everything that two replicas say to each other, as typed values.

Decoding checks types, sizes and ranges before anything is believed, so that whoever handles a
message can use every id as a key and every number as a position; what it claims is still his to
check. A message of an unknown kind ends the connection.
"""

from typing import Annotated, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from piperfs.core import limits
from piperfs.core.decoding import MALFORMED
from piperfs.core.errors import PeerError
from piperfs.core.ids import ChunkId, OperationId, ReplicaId, StoreId, VolumeId
from piperfs.core.limits import (
    ADDRESS_CHARS_MAX,
    ADDRESSES_MAX,
    FRAME_BYTES_MAX,
    SEQ_MAX,
    TICKET_CHARS_MAX,
)

VERSION: Final = 1
ITEMS_MAX: Final = limits.MESSAGE_ITEMS_MAX
MEMBER_IDS_MAX: Final = limits.MESSAGE_MEMBER_IDS_MAX
PEERS_MAX: Final = limits.MESSAGE_PEERS_MAX

T = TypeVar("T")

Bytes16: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=16)]
Bytes32: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
Share: TypeAlias = Annotated[bytes, Meta(min_length=33, max_length=33)]  # of SPAKE2
Signature: TypeAlias = Annotated[bytes, Meta(min_length=64, max_length=64)]
Chunk: TypeAlias = Annotated[ChunkId, Meta(min_length=32, max_length=32)]
Operation: TypeAlias = Annotated[OperationId, Meta(min_length=32, max_length=32)]
Replica: TypeAlias = Annotated[ReplicaId, Meta(min_length=16, max_length=16)]
Number: TypeAlias = Annotated[int, Meta(ge=0, le=SEQ_MAX)]
Border: TypeAlias = Annotated[bytes, Meta(max_length=33)]
Text: TypeAlias = Annotated[str, Meta(max_length=300)]
Address: TypeAlias = Annotated[str, Meta(max_length=ADDRESS_CHARS_MAX)]
Items: TypeAlias = Annotated[tuple[T, ...], Meta(max_length=ITEMS_MAX)]
Addresses: TypeAlias = Annotated[tuple[Address, ...], Meta(max_length=ADDRESSES_MAX)]


class Hello(msgspec.Struct, array_like=True, frozen=True, tag="hello"):
    """The first message each way; every byte of it is covered by both signatures."""

    version: int
    volume: Annotated[VolumeId, Meta(min_length=32, max_length=32)]
    replica: Replica
    nonce: Bytes32
    joining: bool = False
    features: tuple[Text, ...] = ()
    introduction: tuple[bytes, ...] = ()  # records by which the replica went on under other keys


class Auth(msgspec.Struct, array_like=True, frozen=True, tag="auth"):
    """Proof of identity over both hellos and the certificate of the connection."""

    signature: Signature


class Welcome(msgspec.Struct, array_like=True, frozen=True, tag="welcome"):
    """The server is content with the client's proof; large frames may follow."""


class Join(msgspec.Struct, array_like=True, frozen=True, tag="join"):
    """A device that holds a ticket asks to be let in."""

    invite: Bytes32
    signing: Bytes32
    sealing: Bytes32
    label: Text
    proof: Signature


class Admitted(msgspec.Struct, array_like=True, frozen=True, tag="admitted"):
    """Membership records for a new device; the last message has no more to come."""

    records: tuple[bytes, ...]
    more: bool


class Refused(msgspec.Struct, array_like=True, frozen=True, tag="refused"):
    """Why the connection ends, for a person."""

    reason: Text


class Pair(msgspec.Struct, array_like=True, frozen=True, tag="pair"):
    """In the place of a hello: a computer without a ticket, whose user was told a short code."""

    version: int
    nameplate: Annotated[str, Meta(max_length=4)]  # the word of the code that is no secret
    share: Share


class PairShare(msgspec.Struct, array_like=True, frozen=True, tag="pair-share"):
    """The server's part of the exchange."""

    share: Share


class PairProof(msgspec.Struct, array_like=True, frozen=True, tag="pair-proof"):
    """The client has come to a key, which is the server's if their codes are the same."""

    proof: Bytes32


class PairTicket(msgspec.Struct, array_like=True, frozen=True, tag="pair-ticket"):
    """The server has the same key, and under it a ticket for the client."""

    proof: Bytes32
    sealed: Annotated[bytes, Meta(max_length=TICKET_CHARS_MAX + 16)]


class State(msgspec.Struct, array_like=True, frozen=True, tag="state"):
    """Where a replica stands; repeated now and then."""

    store: Annotated[StoreId, Meta(min_length=16, max_length=16)]
    durable_lseq: Number
    cursor_store: Annotated[StoreId, Meta(max_length=16)]  # the receiver's, to which it belongs
    cursor_lseq: Number
    seen_seq: Number  # highest number of the receiver's operations that is durable here
    digest: Bytes32
    operations: Number
    wall_ns: int
    addresses: Addresses = ()
    keeps_all: bool = True  # it fetches all content, and may count as a copy


class MemberIds(msgspec.Struct, array_like=True, frozen=True, tag="member-ids"):
    """Membership records that the sender has."""

    ids: Annotated[tuple[Bytes32, ...], Meta(max_length=MEMBER_IDS_MAX)]


class Members(msgspec.Struct, array_like=True, frozen=True, tag="members"):
    """Membership records that the receiver may lack, parents first."""

    records: tuple[bytes, ...]


class Fork(msgspec.Struct, array_like=True, frozen=True, tag="fork"):
    """Proof that a member signed two operations under one number: both envelopes."""

    one: bytes
    other: bytes


class Operations(msgspec.Struct, array_like=True, frozen=True, tag="operations"):
    """Operations in the sender's order, with small chunks that they refer to.

    Everything of the sender's store up to `upto` is now sent; 0 for a repair, which moves no
    cursor.
    """

    envelopes: Items[bytes]
    upto: Number
    chunks: Items[tuple[Chunk, bytes]] = ()


class Authors(msgspec.Struct, array_like=True, frozen=True, tag="authors"):
    """The newest operations of authors, which prove how far these have counted.

    They go in front of operations that claim to know as much, and need not be alive themselves.
    """

    newest: Items[bytes]


class Ack(msgspec.Struct, array_like=True, frozen=True, tag="ack"):
    """What is durable at the sender of this: operations, and operations with all content."""

    lseq: Number
    complete_lseq: Number


class Want(msgspec.Struct, array_like=True, frozen=True, tag="want"):
    """Chunks to send; those that a reader waits for come first."""

    chunks: Items[Chunk]
    urgent: bool


class Chunks(msgspec.Struct, array_like=True, frozen=True, tag="chunks"):
    """Chunks, and those that are not here."""

    chunks: Items[tuple[Chunk, bytes]]
    absent: Items[Chunk] = ()


class Have(msgspec.Struct, array_like=True, frozen=True, tag="have"):
    """Chunks that the receiver asked for in vain; they are here now."""

    chunks: Items[Chunk]


class Range(msgspec.Struct, array_like=True, frozen=True):
    """A range of operation ids: a fingerprint, or the ids themselves."""

    lower: Border
    upper: Border
    count: Number
    total: Bytes32
    ids: Items[Operation] | None = None


class Reconcile(msgspec.Struct, array_like=True, frozen=True, tag="reconcile"):
    """Ranges to compare; see `reconcile.py`."""

    ranges: Items[Range]


class WantOperations(msgspec.Struct, array_like=True, frozen=True, tag="want-operations"):
    """Operations to send, by id."""

    ids: Items[Operation]


class Peers(msgspec.Struct, array_like=True, frozen=True, tag="peers"):
    """Where other members were met."""

    peers: Annotated[tuple[tuple[Replica, Addresses], ...], Meta(max_length=PEERS_MAX)]


class Ping(msgspec.Struct, array_like=True, frozen=True, tag="ping"):
    """Asks for a pong."""

    token: int


class Pong(msgspec.Struct, array_like=True, frozen=True, tag="pong"):
    """Answers a ping."""

    token: int


Message: TypeAlias = (
    Hello
    | Auth
    | Welcome
    | Join
    | Admitted
    | Refused
    | Pair
    | PairShare
    | PairProof
    | PairTicket
    | State
    | MemberIds
    | Members
    | Fork
    | Operations
    | Authors
    | Ack
    | Want
    | Chunks
    | Have
    | Reconcile
    | WantOperations
    | Peers
    | Ping
    | Pong
)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


_REASONS: Final[dict[type, str]] = {
    Operations: "operations",
    Authors: "operations",
    WantOperations: "operations",
    Chunks: "content",
    Have: "content",
    Want: "content",
    Reconcile: "comparing",
    MemberIds: "members",
    Members: "members",
    Fork: "members",
}


def reason_of(message: Message) -> str:
    """What the bytes of a message are spent on."""
    return _REASONS.get(type(message), "keeping in touch")


def encode(message: Message) -> bytes:
    """A frame: four bytes of length, then the message."""
    body = _encode(message)
    assert len(body) <= FRAME_BYTES_MAX, f"{type(message).__name__} is too long"
    return len(body).to_bytes(4, "big") + body


def decode(body: bytes | bytearray | memoryview) -> Message:
    """The message of a frame. Raises PeerError."""
    try:
        message: Message = _decode(body)
        return message
    except MALFORMED as error:
        raise PeerError(f"a message does not decode: {error}") from error
