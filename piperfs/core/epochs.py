"""Founding a volume, letting devices in, and the epoch keys that come along.

An epoch key is wrapped for each member that may read, and opens the keys of the epochs before it,
so a newcomer needs one wrap and old content is never sealed again.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from piperfs.core.errors import ExitCode, PeerError, UserError
from piperfs.core.identity import Identity, PublicKeys, SigningKey, verify
from piperfs.core.ids import EpochId, ReplicaId, VolumeId
from piperfs.core.membership import MembershipGraph
from piperfs.core.membership_records import (
    EPOCH_BYTES,
    WRAP_INFO,
    Earlier,
    Genesis,
    Join,
    RecordId,
    Renew,
    Rotate,
    Wrap,
    author_record,
    decode_record,
    epoch_of,
    join_proof_message,
    make_wraps,
    renewal_proof_message,
)
from piperfs.core.membership_rules import READING_ROLES

SECRET_BYTES: Final = 32


def found_volume(
    identity: Identity,
    entropy: Callable[[int], bytes],
    now_ns: int,
    label: str,
    member_label: str,
    *,
    quorum: int = 1,
) -> tuple[bytes, VolumeId]:
    """Make a volume; returns its genesis record and its id."""
    wraps = make_wraps(entropy(SECRET_BYTES), [identity.public])
    statement = Genesis(entropy(32), label, identity.public, member_label, wraps, quorum)
    raw = author_record(identity, (), now_ns, statement)
    return raw, VolumeId(decode_record(raw)[0])


def epoch_keys(graph: MembershipGraph, identity: Identity) -> dict[EpochId, bytes]:
    """All epoch keys that this device can open: wrapped for it, or opened by a later one."""
    found: dict[EpochId, bytes] = {}
    rotations: list[tuple[EpochId, Rotate]] = []
    for record, statement in graph.statements():
        if isinstance(statement, Rotate):
            rotations.append((epoch_of(record), statement))
        if isinstance(statement, Genesis | Rotate):
            for wrap in statement.wraps:
                _try_unwrap(found, epoch_of(record), wrap, wrap.sealed, identity)
        elif isinstance(statement, Join | Renew):
            for wrap in statement.wraps:
                epoch, sealed = EpochId(wrap.sealed[:EPOCH_BYTES]), wrap.sealed[EPOCH_BYTES:]
                _try_unwrap(found, epoch, wrap, sealed, identity)
    for epoch, rotate in reversed(rotations):
        if epoch in found:
            _open_previous(found, found[epoch], rotate)
    return found


def _try_unwrap(
    found: dict[EpochId, bytes], epoch: EpochId, wrap: Wrap, sealed: bytes, identity: Identity
) -> None:
    if wrap.member != identity.replica or epoch in found:
        return
    try:
        secret = identity.unwrap(sealed, WRAP_INFO)
    except PeerError:
        return
    if len(secret) == SECRET_BYTES:
        found[epoch] = secret


def _nonce(index: int) -> bytes:
    """Each epoch key seals few messages, all of them in the record that makes it."""
    return index.to_bytes(12, "big")


def _open_previous(found: dict[EpochId, bytes], secret: bytes, rotate: Rotate) -> None:
    cipher = ChaCha20Poly1305(secret)
    for index, earlier in enumerate(rotate.previous):
        try:
            key = cipher.decrypt(_nonce(index), earlier.sealed, earlier.epoch)
        except (InvalidTag, ValueError):
            continue
        if len(key) == SECRET_BYTES:
            found.setdefault(earlier.epoch, key)


def rotation(
    graph: MembershipGraph, keys: Mapping[EpochId, bytes], entropy: Callable[[int], bytes]
) -> Rotate:
    """A new epoch for those who are members now."""
    secret = entropy(SECRET_BYTES)
    members = [m.keys for m in graph.state().present() if m.role in READING_ROLES]
    cipher = ChaCha20Poly1305(secret)
    previous = tuple(
        Earlier(epoch, cipher.encrypt(_nonce(index), keys[epoch], epoch))
        for index, epoch in enumerate(_newest(graph, keys))
    )
    return Rotate(make_wraps(secret, members), previous)


def _newest(graph: MembershipGraph, known: Iterable[EpochId]) -> list[EpochId]:
    """Known epochs that no other known epoch opens."""
    known = set(known)
    opened = {
        earlier.epoch
        for record, statement in graph.statements()
        if isinstance(statement, Rotate) and epoch_of(record) in known
        for earlier in statement.previous
    }
    return sorted(known - opened)


def is_shared(graph: MembershipGraph, knows: Callable[[EpochId], bool]) -> bool:
    """Whether all present readers were given all keys that are known here.

    The key of an epoch that does not count, such as one whose author was removed meanwhile, may
    have been written with by others, and somebody who was left out of it may be a member after all.
    """
    held: dict[EpochId, set[ReplicaId]] = {}
    for record, statement in graph.statements():
        if isinstance(statement, Genesis | Rotate) and knows(epoch_of(record)):
            held[epoch_of(record)] = {wrap.member for wrap in statement.wraps}
        elif isinstance(statement, Join | Renew):
            for wrap in statement.wraps:
                held.get(EpochId(wrap.sealed[:EPOCH_BYTES]), set()).add(wrap.member)
    readers = {m.replica for m in graph.state().present() if m.role in READING_ROLES}
    return all(readers <= held[epoch] for epoch in _newest(graph, held))


def admit(
    graph: MembershipGraph, keys: Mapping[EpochId, bytes], request: "JoinRequest", now_ns: int
) -> Join:
    """The record that lets a device in. Raises UserError if its invite does not hold."""
    invite, spent_by = graph.state().invites.get(request.invite, (None, None))
    if invite is None:
        raise UserError("the ticket is not of this volume", ExitCode.REFUSED)
    if spent_by is not None and spent_by != request.replica:
        raise UserError("the ticket is spent: it lets one computer in", ExitCode.REFUSED)
    if now_ns > invite.expires_ns:
        raise UserError("the ticket has expired; ask for a new one", ExitCode.REFUSED)
    message = join_proof_message(graph.volume, request.invite, request.keys)
    verify(invite.proof_key, message, request.proof)
    wraps = _newest_wraps(graph, keys, request.keys) if invite.role in READING_ROLES else ()
    return Join(request.invite, request.keys, request.label, request.proof, wraps)


def _newest_wraps(
    graph: MembershipGraph, keys: Mapping[EpochId, bytes], device: PublicKeys
) -> tuple[Wrap, ...]:
    """The keys that open all others, for one device."""
    wraps: list[Wrap] = []
    for epoch in _newest(graph, keys):
        made = make_wraps(keys[epoch], [device])
        wraps += [Wrap(wrap.member, epoch + wrap.sealed) for wrap in made]
    return tuple(wraps)


def renewal(graph: MembershipGraph, identity: Identity, renewed: Identity) -> Renew:
    """The statement by which a device goes on under other keys."""
    message = renewal_proof_message(graph.volume, identity.replica, renewed.public)
    wraps = _newest_wraps(graph, epoch_keys(graph, identity), renewed.public)
    return Renew(renewed.public, renewed.sign(message), wraps)


@dataclass(frozen=True)
class JoinRequest:
    """What a device that holds a ticket's secret says to be let in."""

    invite: RecordId
    keys: PublicKeys
    label: str
    proof: bytes

    @property
    def replica(self) -> ReplicaId:
        return self.keys.replica


def request_join(
    volume: VolumeId, invite: RecordId, secret: bytes, identity: Identity, label: str
) -> JoinRequest:
    """Prove to know a ticket's secret."""
    message = join_proof_message(volume, invite, identity.public)
    return JoinRequest(invite, identity.public, label, SigningKey(secret).sign(message))
