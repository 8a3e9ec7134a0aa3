"""Membership records: what an admin or a member signs about who belongs to a volume.

Each record names the heads of the graph that its author had seen, so the records form a hash
graph that nobody can reorder. The signed bytes are kept as they are; a record's id is their hash.
"""

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec
from blake3 import blake3

from piperfs.core.decoding import MALFORMED
from piperfs.core.errors import PeerError
from piperfs.core.identity import KEY_BYTES, Identity, PublicKeys, verify, wrap
from piperfs.core.ids import EpochId, ReplicaId, VolumeId
from piperfs.core.limits import (
    LABEL_CHARS_MAX,
    MEMBERSHIP_RECORD_BYTES_MAX,
    PARENTS_MAX,
    QUORUM_MAX,
)

CONTEXT: Final = b"piperfs membership v1\0"
JOIN_CONTEXT: Final = b"piperfs join v1\0"
RENEW_CONTEXT: Final = b"piperfs renew v1\0"
WRAP_INFO: Final = b"piperfs epoch key v1"
EPOCH_BYTES: Final = 16

Role: TypeAlias = Literal["admin", "writer", "reader", "store"]
RecordId: TypeAlias = bytes  # 32 bytes


class Wrap(msgspec.Struct, array_like=True, frozen=True):
    """An epoch key for one member."""

    member: ReplicaId
    sealed: bytes


class Genesis(msgspec.Struct, array_like=True, frozen=True, tag="genesis"):
    """Makes a volume and its first admin; its hash is the volume's id."""

    salt: bytes
    label: str
    keys: PublicKeys
    member_label: str
    wraps: tuple[Wrap, ...]
    quorum: int = 1  # how many of three or more admins it takes to remove a member or set a role


class Invite(msgspec.Struct, array_like=True, frozen=True, tag="invite"):
    """Lets one more device in: whoever proves to know the secret behind `proof_key`."""

    proof_key: bytes
    role: Role
    expires_ns: int


class Join(msgspec.Struct, array_like=True, frozen=True, tag="join"):
    """A device comes in; written by the member that admits it."""

    invite: RecordId
    keys: PublicKeys
    label: str
    proof: bytes
    wraps: tuple[Wrap, ...]  # epoch id and its key, wrapped; none for the role store


class Renew(msgspec.Struct, array_like=True, frozen=True, tag="renew"):
    """The author's device, of whose state there is a copy, goes on under other keys."""

    keys: PublicKeys
    proof: bytes  # by the new signing key
    wraps: tuple[Wrap, ...]  # as in a join


class SetRole(msgspec.Struct, array_like=True, frozen=True, tag="role"):
    """A member's role changes; of one who may not write any more operations count up to `cut`."""

    member: ReplicaId
    role: Role
    cut: int = 0


class Remove(msgspec.Struct, array_like=True, frozen=True, tag="remove"):
    """A member goes; its operations count up to the number `cut`."""

    member: ReplicaId
    cut: int


class Earlier(msgspec.Struct, array_like=True, frozen=True):
    """The key of an earlier epoch, sealed with a later one."""

    epoch: EpochId
    sealed: bytes


class Rotate(msgspec.Struct, array_like=True, frozen=True, tag="rotate"):
    """A new epoch, which opens the earlier ones.

    `previous` holds those that no other of them opens: one, unless two admins rotated at once.
    """

    wraps: tuple[Wrap, ...]
    previous: tuple[Earlier, ...]


Statement: TypeAlias = Genesis | Invite | Join | Renew | SetRole | Remove | Rotate


class Record(msgspec.Struct, array_like=True, frozen=True):
    """What is signed."""

    parents: tuple[RecordId, ...]
    author: ReplicaId
    time_ns: int
    statement: Statement


class SignedRecord(msgspec.Struct, array_like=True, frozen=True):
    """A record as it travels."""

    raw: bytes
    signature: bytes


_pack = msgspec.msgpack.Encoder().encode
_unpack_record = msgspec.msgpack.Decoder(Record).decode
_unpack_signed = msgspec.msgpack.Decoder(SignedRecord).decode


def record_id(raw: bytes) -> RecordId:
    """The id of a signed record: the hash of what is signed."""
    return blake3(_open(raw).raw).digest()


def epoch_of(record: RecordId) -> EpochId:
    """The epoch that a Genesis or Rotate record makes."""
    return EpochId(record[:EPOCH_BYTES])


def author_record(
    identity: Identity, parents: Sequence[RecordId], time_ns: int, statement: Statement
) -> bytes:
    """Sign a statement on top of the heads one knows."""
    raw = _pack(Record(tuple(sorted(parents)), identity.replica, time_ns, statement))
    return _pack(SignedRecord(raw, identity.sign(CONTEXT + raw)))


def _open(raw: bytes) -> SignedRecord:
    if len(raw) > MEMBERSHIP_RECORD_BYTES_MAX:
        raise PeerError("a membership record is too long")
    try:
        return _unpack_signed(raw)
    except MALFORMED as error:
        raise PeerError(f"a membership record does not decode: {error}") from error


def decode_record(raw: bytes) -> tuple[RecordId, Record]:
    """Decode and check what can be checked alone; the signature needs the author's key."""
    signed = _open(raw)
    try:
        record = _unpack_record(signed.raw)
    except MALFORMED as error:
        raise PeerError(f"a membership record does not decode: {error}") from error
    _check(record)
    return blake3(signed.raw).digest(), record


def verify_record(raw: bytes, signing: bytes) -> None:
    """Raises PeerError unless the key signed the record."""
    signed = _open(raw)
    verify(signing, CONTEXT + signed.raw, signed.signature)


def _require(condition: object, rule: str) -> None:
    if not condition:
        raise PeerError(f"a membership record breaks a rule: {rule}")


def _check(record: Record) -> None:
    statement = record.statement
    _require(len(record.author) == 16, "an author id has 16 bytes")
    _require(len(record.parents) <= PARENTS_MAX, "at most 64 parents")
    _require(all(len(parent) == 32 for parent in record.parents), "a parent id has 32 bytes")
    _require(list(record.parents) == sorted(set(record.parents)), "parents are sorted")
    is_genesis = isinstance(statement, Genesis)
    _require(is_genesis == (not record.parents), "genesis, and it alone, has no parents")
    if isinstance(statement, Genesis | Join | Renew):
        keys = statement.keys
        _require(len(keys.signing) == len(keys.sealing) == KEY_BYTES, "keys have 32 bytes")
    if isinstance(statement, Genesis):
        _require(statement.keys.replica == record.author, "the founder signs genesis")
        _require(len(statement.salt) == 32, "the salt has 32 bytes")
        _require(1 <= statement.quorum <= QUORUM_MAX, "a quorum is a number from 1 to 16")
        _require(len(statement.label) <= LABEL_CHARS_MAX, "a label has at most 100 characters")
    if isinstance(statement, Rotate):
        _require(
            all(len(each.epoch) == EPOCH_BYTES for each in statement.previous),
            "an epoch has 16 bytes",
        )
    if isinstance(statement, Join):
        _require(len(statement.label) <= LABEL_CHARS_MAX, "a label has at most 100 characters")


def join_proof_message(volume: VolumeId, invite: RecordId, keys: PublicKeys) -> bytes:
    """What the key behind an invite signs to let a device in."""
    return JOIN_CONTEXT + volume + invite + _pack(keys)


def renewal_proof_message(volume: VolumeId, author: ReplicaId, keys: PublicKeys) -> bytes:
    """What the new key of a device signs to take the place of the old one."""
    return RENEW_CONTEXT + volume + author + _pack(keys)


def make_wraps(secret: bytes, members: Sequence[PublicKeys]) -> tuple[Wrap, ...]:
    """An epoch key for each of several members."""
    return tuple(Wrap(keys.replica, wrap(secret, keys.sealing, WRAP_INFO)) for keys in members)
