"""Who belongs to a volume: a hash graph of signed records, evaluated by `membership_rules.py`.

Records arrive in any order; one whose parents are unknown waits. A record is taken in only if its
author held the right to it by what it builds on. That is a function of the record and its past
alone, so all replicas agree on it, and nobody can fill the graph with records that count for
nothing.
"""

from collections.abc import Iterable, Iterator

from piperfs.core.errors import PeerError
from piperfs.core.identity import Identity, PublicKeys, verify
from piperfs.core.ids import ReplicaId, VolumeId
from piperfs.core.limits import (
    INTRODUCTION_RECORDS_MAX,
    MEMBERSHIP_PENDING_BYTES_MAX,
    MEMBERSHIP_PENDING_MAX,
    MEMBERSHIP_RECORDS_MAX,
    RENEWALS_MAX,
    SEQ_MAX,
)
from piperfs.core.membership_records import (
    Genesis,
    Join,
    Record,
    RecordId,
    Renew,
    Statement,
    author_record,
    decode_record,
    join_proof_message,
    renewal_proof_message,
    verify_record,
)
from piperfs.core.membership_rules import Counting, MembershipState, count
from piperfs.core.membership_votes import Node


class MembershipGraph:
    """All records of one volume that this replica knows."""

    def __init__(self, volume: VolumeId) -> None:
        self.volume = volume
        self._nodes: dict[RecordId, Node] = {}
        self._pending: dict[RecordId, tuple[Record, bytes]] = {}
        self._heads: set[RecordId] = set()
        self._everything = 0  # the bits of all records
        self._counting: Counting | None = None  # of all records
        self._state: MembershipState | None = None
        self._records: dict[RecordId, bytes] | None = None
        self._keys: dict[ReplicaId, PublicKeys] = {}

    def copy(self) -> "MembershipGraph":
        """The same records, to go on differently."""
        other = MembershipGraph(self.volume)
        other._nodes, other._pending = dict(self._nodes), dict(self._pending)
        other._heads, other._everything = set(self._heads), self._everything
        other._state, other._keys = self._state, dict(self._keys)
        return other

    def add(self, raw: bytes) -> list[RecordId]:
        """Take in a record; returns it and those that waited for it, or nothing.

        Raises:
            PeerError: it cannot be one of this volume, or its author had no right to it.
        """
        identity, record = decode_record(raw)
        if identity in self._nodes or identity in self._pending:
            return []
        if any(parent not in self._nodes for parent in record.parents):
            self._let_wait(identity, record, raw)
            return []
        self._insert(identity, record, raw)
        return [identity, *self._adopt_pending()]

    def _let_wait(self, identity: RecordId, record: Record, raw: bytes) -> None:
        """Keep a record until its parents come; what is too much comes again later."""
        size = len(raw) + sum(len(waiting) for _, waiting in self._pending.values())
        if len(self._pending) < MEMBERSHIP_PENDING_MAX and size <= MEMBERSHIP_PENDING_BYTES_MAX:
            self._pending[identity] = (record, raw)

    def _insert(self, identity: RecordId, record: Record, raw: bytes) -> None:
        if len(self._nodes) >= MEMBERSHIP_RECORDS_MAX:
            raise PeerError("the volume has more membership records than any should have")
        parents = [self._nodes[parent] for parent in record.parents]
        seen = 0
        for parent in parents:
            seen |= parent.seen | parent.bit
        depth = 1 + max((parent.depth for parent in parents), default=0)
        node = Node(identity, record, raw, depth, 1 << len(self._nodes), seen)
        past = self._past(node)
        self._check(node, past)
        if seen == self._everything:
            past.extend(node)
            self._counting = past
        else:
            self._counting = None
        self._nodes[identity] = node
        self._everything |= node.bit
        self._heads = (self._heads - set(record.parents)) | {identity}
        self._state = self._records = None
        if isinstance(record.statement, Genesis | Join | Renew):
            keys = record.statement.keys
            self._keys[keys.replica] = keys

    def _past(self, node: Node) -> Counting:
        """The evaluation of what a record builds on."""
        if node.seen == self._everything:
            return self._count()
        return count(other for other in self._nodes.values() if node.seen & other.bit)

    def keys_of(self, replica: ReplicaId) -> PublicKeys | None:
        """The keys of a device that was ever let in, be it removed or let in by nobody who might.

        What it signed says nothing any more, but that it was signed.
        """
        return self._keys.get(replica)

    def _count(self) -> Counting:
        if self._counting is None:
            self._counting = count(self._nodes.values())
        return self._counting

    def _check(self, node: Node, past: Counting) -> None:
        """Raises PeerError unless the author signed the record and had the right to."""
        statement = node.record.statement
        if isinstance(statement, Genesis):
            if node.identity != self.volume:
                raise PeerError("a membership record founds another volume")
            verify_record(node.raw, statement.keys.signing)
            return
        author = past.members.get(node.record.author)
        if author is None:
            raise PeerError("a membership record's author is unknown where it was written")
        verify_record(node.raw, author.keys.signing)
        fault = past.why_not(node)
        if fault is not None:
            raise PeerError(f"a membership record of {author.label} does not count: {fault}")
        if isinstance(statement, Join):
            self._check_join(node, statement, past)
        if isinstance(statement, Renew):
            self._check_renewal(node, statement, past)

    def _check_join(self, node: Node, join: Join, past: Counting) -> None:
        invitation = past.invitations.get(join.invite)
        if invitation is None or invitation.spent_by is not None:
            raise PeerError("a device was let in without an invite, or with a spent one")
        if join.keys.replica in past.members:
            raise PeerError("a device was let in twice")
        if node.record.time_ns > invitation.invite.expires_ns:
            raise PeerError("a device was let in after its invite had expired")
        message = join_proof_message(self.volume, join.invite, join.keys)
        verify(invitation.invite.proof_key, message, join.proof)

    def _check_renewal(self, node: Node, renewal: Renew, past: Counting) -> None:
        if renewal.keys.replica in past.members:
            raise PeerError("a device goes on under keys that are known already")
        if past.renewals_of(node.record.author) >= RENEWALS_MAX:
            raise PeerError("a device went on under other keys too often; invite it anew")
        message = renewal_proof_message(self.volume, node.record.author, renewal.keys)
        verify(renewal.keys.signing, message, renewal.proof)

    def _adopt_pending(self) -> list[RecordId]:
        """Take in what waited; drops what turns out not to belong here."""
        adopted: list[RecordId] = []
        ready = True
        while ready:
            ready = False
            for identity, (record, raw) in list(self._pending.items()):
                if all(parent in self._nodes for parent in record.parents):
                    del self._pending[identity]
                    ready = True
                    try:
                        self._insert(identity, record, raw)
                    except PeerError:
                        continue
                    adopted.append(identity)
        return adopted

    # Reading

    @property
    def heads(self) -> tuple[RecordId, ...]:
        """Records that no other names."""
        return tuple(sorted(self._heads))

    def records(self) -> dict[RecordId, bytes]:
        """All records whose parents are known, parents first."""
        if self._records is None:
            order = sorted(self._nodes.values(), key=lambda node: node.order)
            self._records = {node.identity: node.raw for node in order}
        return self._records

    def raw(self, identity: RecordId) -> bytes:
        """One record as signed."""
        return self._nodes[identity].raw

    def statements(self) -> Iterator[tuple[RecordId, Statement]]:
        """All statements, parents first."""
        for identity in self.records():
            yield identity, self._nodes[identity].record.statement

    def state(self) -> MembershipState:
        if self._state is None:
            self._state = MembershipState.of(self._count())
        return self._state

    def __contains__(self, identity: object) -> bool:
        return identity in self._nodes

    @property
    def label(self) -> str:
        """The volume's name."""
        genesis = self._nodes[self.volume].record.statement
        assert isinstance(genesis, Genesis)
        return genesis.label

    @property
    def founded_ns(self) -> int:
        """When its founder says that the volume was made."""
        return max(0, min(self._nodes[self.volume].record.time_ns, SEQ_MAX))

    def introduction(self, replica: ReplicaId) -> tuple[bytes, ...]:
        """The newest records by which a device went on as this member, oldest first."""
        found: list[bytes] = []
        for node in sorted(self._nodes.values(), key=lambda node: node.order, reverse=True):
            statement = node.record.statement
            if isinstance(statement, Renew) and statement.keys.replica == replica:
                found.insert(0, node.raw)
                replica = node.record.author
        return tuple(found[-INTRODUCTION_RECORDS_MAX:])

    # Authoring

    def author(self, identity: Identity, now_ns: int, statement: Statement) -> bytes:
        """Sign a statement on the current heads and take it in. Raises PeerError without right."""
        raw = author_record(identity, self.heads, now_ns, statement)
        self.add(raw)
        return raw


def graph_of(volume: VolumeId, records: Iterable[bytes]) -> MembershipGraph:
    """A graph of records that arrive together. Raises PeerError."""
    graph = MembershipGraph(volume)
    for raw in parents_first(records):
        graph.add(raw)
    return graph


def parents_first(records: Iterable[bytes]) -> list[bytes]:
    """Put records into an order in which each follows its parents. Raises PeerError."""
    known = {
        identity: (record, raw) for raw in records for identity, record in [decode_record(raw)]
    }
    lacking = {i: sum(p in known for p in record.parents) for i, (record, _) in known.items()}
    children: dict[RecordId, list[RecordId]] = {}
    for identity, (record, _) in known.items():
        for parent in record.parents:
            children.setdefault(parent, []).append(identity)
    ready = [identity for identity, count in lacking.items() if not count]
    ordered: list[bytes] = []
    while ready:
        identity = ready.pop()
        ordered.append(known[identity][1])
        for child in children.get(identity, ()):
            lacking[child] -= 1
            if not lacking[child]:
                ready.append(child)
    return ordered
