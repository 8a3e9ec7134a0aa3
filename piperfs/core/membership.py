"""Who belongs to a volume: a state that is a pure function of a set of signed records.

Records arrive in any order; one whose parents are unknown waits. The rules, evaluated in one
order that all replicas share (depth in the graph, then hash):

1. A record counts if its author held the right at the heads it names and was not removed at the
   same time: removal beats whatever it did not see.
2. Of two admins who remove each other the senior stands: earlier grant, then smaller id.
3. Of several removals of one member the largest cut counts.
4. An invite lets one device in: of two joins the one with the smaller hash stands.
5. The current epoch is, of those whose key no removed member holds, the deepest, then the largest.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from piperfs.core.errors import ExitCode, PeerError, UserError
from piperfs.core.identity import Identity, PublicKeys, SigningKey, verify
from piperfs.core.ids import EpochId, ReplicaId, VolumeId
from piperfs.core.limits import MEMBERSHIP_PENDING_MAX, SEQ_MAX
from piperfs.core.membership_records import (
    WRAP_INFO,
    Genesis,
    Invite,
    Join,
    Record,
    RecordId,
    Remove,
    Role,
    Rotate,
    SetRole,
    Statement,
    Wrap,
    author_record,
    decode_record,
    epoch_of,
    join_proof_message,
    make_wraps,
    verify_record,
)

NONCE: Final = bytes(12)  # each epoch key encrypts one message: the key before it
WRITING_ROLES: Final = frozenset(("admin", "writer"))
READING_ROLES: Final = frozenset(("admin", "writer", "reader"))


@dataclass(frozen=True, slots=True)
class Member:
    """A device that was let in."""

    replica: ReplicaId
    keys: PublicKeys
    label: str
    role: Role
    joined_ns: int
    grant: tuple[int, RecordId]  # depth and record: seniority
    cut: int | None = None  # operations up to this number count, since it was removed

    @property
    def removed(self) -> bool:
        return self.cut is not None


@dataclass(frozen=True)
class MembershipState:
    """What the records amount to."""

    members: Mapping[ReplicaId, Member]
    invites: Mapping[RecordId, tuple[Invite, ReplicaId | None]]  # with who spent it
    epochs: tuple[tuple[RecordId, Record], ...]
    current: EpochId
    is_clean: bool  # no removed member holds the current key

    def member(self, replica: ReplicaId) -> Member | None:
        return self.members.get(replica)

    def present(self) -> list[Member]:
        return [member for member in self.members.values() if not member.removed]

    def may_connect(self, replica: ReplicaId) -> bool:
        member = self.members.get(replica)
        return member is not None and not member.removed

    def may_write(self, replica: ReplicaId, seq: int) -> bool:
        """Whether an operation of a replica counts: a static rule, the same everywhere."""
        member = self.members.get(replica)
        if member is None:
            return False
        if member.cut is not None and seq > member.cut:
            return False
        return member.role in WRITING_ROLES


@dataclass(slots=True)
class _Node:
    record: Record
    raw: bytes
    depth: int
    ancestors: frozenset[RecordId]


class MembershipGraph:
    """All records of one volume that this replica knows."""

    def __init__(self, volume: VolumeId) -> None:
        self.volume = volume
        self._nodes: dict[RecordId, _Node] = {}
        self._pending: dict[RecordId, tuple[Record, bytes]] = {}
        self._state: MembershipState | None = None

    def add(self, raw: bytes) -> Literal["added", "pending", "known"]:
        """Take in a record. Raises PeerError if it cannot be one of this volume."""
        identity, record = decode_record(raw)
        if identity in self._nodes:
            return "known"
        if isinstance(record.statement, Genesis):
            if identity != self.volume:
                raise PeerError("a membership record founds another volume")
            verify_record(raw, record.statement.keys.signing)
        elif any(parent not in self._nodes for parent in record.parents):
            if len(self._pending) < MEMBERSHIP_PENDING_MAX:
                self._pending[identity] = (record, raw)
            return "pending"
        self._insert(identity, record, raw)
        self._adopt_pending()
        return "added"

    def _insert(self, identity: RecordId, record: Record, raw: bytes) -> None:
        parents = [self._nodes[parent] for parent in record.parents]
        ancestors = frozenset(record.parents).union(*(node.ancestors for node in parents))
        keys = self._keys_at(ancestors).get(record.author)
        if keys is None and not isinstance(record.statement, Genesis):
            raise PeerError("a membership record's author is unknown at its parents")
        if keys is not None:
            verify_record(raw, keys.signing)
        depth = 1 + max((node.depth for node in parents), default=0)
        self._nodes[identity] = _Node(record, raw, depth, ancestors)
        self._state = None

    def _keys_at(self, ancestors: Iterable[RecordId]) -> dict[ReplicaId, PublicKeys]:
        statements = (self._nodes[identity].record.statement for identity in ancestors)
        return {s.keys.replica: s.keys for s in statements if isinstance(s, Genesis | Join)}

    def _adopt_pending(self) -> None:
        progress = True
        while progress:
            progress = False
            for identity, (record, raw) in list(self._pending.items()):
                if all(parent in self._nodes for parent in record.parents):
                    del self._pending[identity]
                    progress = True
                    try:
                        self._insert(identity, record, raw)
                    except PeerError:
                        continue

    @property
    def heads(self) -> tuple[RecordId, ...]:
        """Records that no other names."""
        named = {parent for node in self._nodes.values() for parent in node.record.parents}
        return tuple(sorted(identity for identity in self._nodes if identity not in named))

    def records(self) -> dict[RecordId, bytes]:
        """All records whose parents are known, parents first."""
        order = sorted(self._nodes, key=lambda identity: (self._nodes[identity].depth, identity))
        return {identity: self._nodes[identity].raw for identity in order}

    def state(self) -> MembershipState:
        if self._state is None:
            self._state = _Evaluation(self._nodes, self.volume).run()
        return self._state

    def __contains__(self, identity: object) -> bool:
        return identity in self._nodes

    @property
    def label(self) -> str:
        """The volume's name."""
        genesis = self._nodes[self.volume].record.statement
        assert isinstance(genesis, Genesis)
        return genesis.label

    # Authoring

    def author(self, identity: Identity, now_ns: int, statement: Statement) -> bytes:
        """Sign a statement on the current heads and take it in."""
        raw = author_record(identity, self.heads, now_ns, statement)
        self.add(raw)
        return raw


@dataclass(slots=True)
class _Evaluation:
    """One evaluation of the rules."""

    nodes: dict[RecordId, _Node]
    volume: VolumeId
    members: dict[ReplicaId, Member] = field(default_factory=dict)
    invites: dict[RecordId, tuple[Invite, ReplicaId | None]] = field(default_factory=dict)
    epochs: list[tuple[RecordId, Record]] = field(default_factory=list)
    accepted: set[RecordId] = field(default_factory=set)

    def run(self) -> MembershipState:
        order = sorted(self.nodes, key=lambda identity: (self.nodes[identity].depth, identity))
        removals = self._removals(order)
        for identity in order:
            if self._counts(identity, removals):
                self.accepted.add(identity)
                self._apply(identity, self.nodes[identity].record)
        current, is_clean = self._current_epoch()
        return MembershipState(
            dict(self.members), dict(self.invites), tuple(self.epochs), current, is_clean
        )

    def _removals(self, order: list[RecordId]) -> list[RecordId]:
        """Removals by authors who were admins at their own heads, mutual ones by seniority."""
        found = [i for i in order if isinstance(self.nodes[i].record.statement, Remove)]
        valid = [i for i in found if self._role_at(i) == "admin"]
        return [i for i in valid if not any(self._beats(other, i) for other in valid)]

    def _beats(self, other: RecordId, mine: RecordId) -> bool:
        """Whether another removal takes this one's author out first."""
        a, b = self.nodes[other], self.nodes[mine]
        first, second = a.record.statement, b.record.statement
        assert isinstance(first, Remove)
        assert isinstance(second, Remove)
        if other in b.ancestors or mine in a.ancestors or first.member != b.record.author:
            return False
        if second.member != a.record.author:
            return True
        return self._seniority(a.record.author) < self._seniority(b.record.author)

    def _seniority(self, replica: ReplicaId) -> tuple[int, bytes]:
        grants = [
            (node.depth, identity)
            for identity, node in self.nodes.items()
            if isinstance(node.record.statement, Genesis | Join)
            and node.record.statement.keys.replica == replica
        ]
        return min(grants, default=(1 << 60, b""))

    def _role_at(self, identity: RecordId) -> Role | None:
        """The role that a record's author had at the heads it names."""
        node = self.nodes[identity]
        role: Role | None = None
        for ancestor in sorted(node.ancestors, key=lambda i: (self.nodes[i].depth, i)):
            statement = self.nodes[ancestor].record.statement
            match statement:
                case Genesis() if statement.keys.replica == node.record.author:
                    role = "admin"
                case Join() if statement.keys.replica == node.record.author:
                    invite = self.nodes.get(statement.invite)
                    invited = invite.record.statement if invite else None
                    role = invited.role if isinstance(invited, Invite) else None
                case SetRole(member, given) if member == node.record.author and role is not None:
                    role = given
                case Remove(member) if member == node.record.author:
                    role = None
        return role

    def _counts(self, identity: RecordId, removals: list[RecordId]) -> bool:
        node = self.nodes[identity]
        if isinstance(node.record.statement, Genesis):
            return True
        if isinstance(node.record.statement, Remove):
            return identity in removals
        role = self._role_at(identity)
        if role is None or self._is_removed_meanwhile(identity, removals):
            return False
        if isinstance(node.record.statement, Join | Rotate):
            return role in READING_ROLES
        return role == "admin"

    def _is_removed_meanwhile(self, identity: RecordId, removals: list[RecordId]) -> bool:
        """Removed by a record that is neither before nor after this one."""
        node = self.nodes[identity]
        for removal in removals:
            statement = self.nodes[removal].record.statement
            assert isinstance(statement, Remove)
            if statement.member != node.record.author:
                continue
            if identity not in self.nodes[removal].ancestors:
                return True
        return False

    def _apply(self, identity: RecordId, record: Record) -> None:
        statement = record.statement
        grant = (self.nodes[identity].depth, identity)
        match statement:
            case Genesis():
                keys = statement.keys
                self.members[keys.replica] = Member(
                    keys.replica, keys, statement.member_label, "admin", record.time_ns, grant
                )
                self.epochs.append((identity, record))
            case Invite():
                self.invites[identity] = (statement, None)
            case Join():
                self._apply_join(statement, record, grant)
            case SetRole():
                member = self.members.get(statement.member)
                if member is not None and self._keeps_an_admin(member, statement.role):
                    self.members[member.replica] = replace(member, role=statement.role)
            case Remove():
                self._apply_removal(statement)
            case Rotate():
                self.epochs.append((identity, record))

    def _apply_join(self, join: Join, record: Record, grant: tuple[int, RecordId]) -> None:
        invite, spent_by = self.invites.get(join.invite, (None, None))
        replica = join.keys.replica
        if invite is None or spent_by is not None or replica in self.members:
            return
        if record.time_ns > invite.expires_ns:
            return
        try:
            message = join_proof_message(self.volume, join.invite, join.keys)
            verify(invite.proof_key, message, join.proof)
        except PeerError:
            return
        self.invites[join.invite] = (invite, replica)
        self.members[replica] = Member(
            replica, join.keys, join.label, invite.role, record.time_ns, grant
        )

    def _keeps_an_admin(self, member: Member, role: Role) -> bool:
        """The last admin stays one."""
        others = (
            other.role == "admin" and not other.removed and other.replica != member.replica
            for other in self.members.values()
        )
        return role == "admin" or member.role != "admin" or any(others)

    def _apply_removal(self, removal: Remove) -> None:
        member = self.members.get(removal.member)
        if member is None or not self._keeps_an_admin(member, "reader"):
            return
        cut = max(0, min(removal.cut, SEQ_MAX))
        self.members[member.replica] = replace(member, cut=max(cut, member.cut or 0))

    def _current_epoch(self) -> tuple[EpochId, bool]:
        holders: dict[RecordId, set[ReplicaId]] = {}
        for identity, record in self.epochs:
            assert isinstance(record.statement, Genesis | Rotate)
            holders[identity] = {wrap.member for wrap in record.statement.wraps}
        gone = {member.replica for member in self.members.values() if member.removed}
        latest = [identity for identity, _ in self.epochs]
        clean = [i for i in latest if not self._all_holders(i, holders[i]) & gone]
        choice = max(clean or latest, key=lambda i: (self.nodes[i].depth, i))
        return epoch_of(choice), bool(clean)

    def _all_holders(self, epoch: RecordId, first: set[ReplicaId]) -> set[ReplicaId]:
        """Members that got an epoch's key, those admitted while it was current included."""
        found = set(first)
        for identity in self.accepted:
            statement = self.nodes[identity].record.statement
            if isinstance(statement, Join) and epoch in self.nodes[identity].ancestors:
                found.update(wrap.member for wrap in statement.wraps)
        return found


# Keys


def found_volume(
    identity: Identity, entropy: Callable[[int], bytes], now_ns: int, label: str, member_label: str
) -> tuple[bytes, VolumeId]:
    """Make a volume; returns its genesis record and its id."""
    wraps = make_wraps(entropy(32), [identity.public])
    statement = Genesis(entropy(32), label, identity.public, member_label, wraps)
    raw = author_record(identity, (), now_ns, statement)
    return raw, VolumeId(decode_record(raw)[0])


def epoch_keys(graph: MembershipGraph, identity: Identity) -> dict[EpochId, bytes]:
    """All epoch keys that this device can open: wrapped for it, or chained to by a newer one."""
    found: dict[EpochId, bytes] = {}
    records = [decode_record(raw) for raw in graph.records().values()]
    for record_id, record in records:
        statement = record.statement
        if isinstance(statement, Genesis | Rotate):
            _open_wraps(found, epoch_of(record_id), statement.wraps, identity)
        elif isinstance(statement, Join):
            for wrap in statement.wraps:
                if wrap.member == identity.replica:
                    _try_unwrap(found, EpochId(wrap.sealed[:16]), wrap.sealed[16:], identity)
    for record_id, record in reversed(records):
        if isinstance(record.statement, Rotate) and epoch_of(record_id) in found:
            _open_previous(found, found[epoch_of(record_id)], record.statement)
    return found


def _open_wraps(
    found: dict[EpochId, bytes], epoch: EpochId, wraps: Iterable[Wrap], identity: Identity
) -> None:
    for wrap in wraps:
        if wrap.member == identity.replica:
            _try_unwrap(found, epoch, wrap.sealed, identity)


def _try_unwrap(
    found: dict[EpochId, bytes], epoch: EpochId, sealed: bytes, identity: Identity
) -> None:
    try:
        secret = identity.unwrap(sealed, WRAP_INFO)
    except PeerError:
        return
    if len(secret) == 32:
        found.setdefault(epoch, secret)


def _open_previous(found: dict[EpochId, bytes], secret: bytes, rotate: Rotate) -> None:
    try:
        before = ChaCha20Poly1305(secret).decrypt(NONCE, rotate.previous, rotate.before)
    except (InvalidTag, ValueError):
        return
    found.setdefault(rotate.before, before)


def rotation(
    graph: MembershipGraph, keys: Mapping[EpochId, bytes], entropy: Callable[[int], bytes]
) -> Rotate:
    """A new epoch for those who are members now."""
    state = graph.state()
    secret = entropy(32)
    members = [m.keys for m in state.present() if m.role in READING_ROLES]
    before = state.current
    previous = ChaCha20Poly1305(secret).encrypt(NONCE, keys[before], before)
    return Rotate(make_wraps(secret, members), before, previous)


def admit(
    graph: MembershipGraph,
    keys: Mapping[EpochId, bytes],
    request: "JoinRequest",
    now_ns: int,
) -> Join:
    """The record that lets a device in. Raises UserError if its invite does not hold."""
    invite, spent_by = graph.state().invites.get(request.invite, (None, None))
    if invite is None:
        raise UserError("the ticket is not of this volume", ExitCode.REFUSED)
    if spent_by is not None and spent_by != request.keys.replica:
        raise UserError("the ticket is spent: it lets one computer in", ExitCode.REFUSED)
    if now_ns > invite.expires_ns:
        raise UserError("the ticket has expired; ask for a new one", ExitCode.REFUSED)
    verify(
        invite.proof_key,
        join_proof_message(graph.volume, request.invite, request.keys),
        request.proof,
    )
    wraps: tuple[Wrap, ...] = ()
    if invite.role in READING_ROLES:
        current = graph.state().current
        made = make_wraps(keys[current], [request.keys])
        wraps = tuple(Wrap(wrap.member, current + wrap.sealed) for wrap in made)
    return Join(request.invite, request.keys, request.label, request.proof, wraps)


@dataclass(frozen=True)
class JoinRequest:
    """What a device that holds a ticket's secret says to be let in."""

    invite: RecordId
    keys: PublicKeys
    label: str
    proof: bytes

    @cached_property
    def replica(self) -> ReplicaId:
        return self.keys.replica


def request_join(
    volume: VolumeId, invite: RecordId, secret: bytes, identity: Identity, label: str
) -> JoinRequest:
    """Prove to know a ticket's secret."""
    message = join_proof_message(volume, invite, identity.public)
    return JoinRequest(invite, identity.public, label, SigningKey(secret).sign(message))
