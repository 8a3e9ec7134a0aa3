"""The remote half of the one write path: verified operations in, merged heads and index out.

Applying is idempotent and the order does not matter: an operation that is known, or whose writes
are all covered, changes nothing. One that claims to know what its authors are not known to have
written waits until they are. One that meets a damaged value is left out as a whole, and the rest
goes on; where only the index is damaged, which follows from the records, it is merged unseen.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from piperfs.core.errors import StoreError
from piperfs.core.forks import Fork
from piperfs.core.ids import ChunkId, InodeId, LinkId, OperationId, ReplicaId
from piperfs.core.merge import insert
from piperfs.core.operation import Operation, Write, decode_envelope
from piperfs.core.record import PENDING, AnyHead, ContentBody, Kind, LinkBody, XattrBody
from piperfs.core.resolve import current_content
from piperfs.obs.log import get_logger
from piperfs.store.ahead import Ahead
from piperfs.store.authors import Shown
from piperfs.store.chunks import ChunkStore
from piperfs.store.forks import Forks
from piperfs.store.local import Parts, is_version
from piperfs.store.oplog import dot_key
from piperfs.store.waiting import Unproved, Waiting

log = get_logger("store")


@dataclass(slots=True)
class Applied:
    """What a batch came to.

    `unattested` claim to know writes that nobody has shown; `held` lie beyond a fork; `ahead` are
    dated too far ahead, and wait; `crowded` are too, and there was no room for them; `damaged` met
    a damaged value here, and were left out; `forks` are proofs that the batch made.
    """

    merged: int = 0
    known: int = 0
    unattested: int = 0
    held: int = 0
    ahead: int = 0
    crowded: int = 0
    damaged: int = 0
    forks: list[Fork] = field(default_factory=list)


def shown_by(operation: Operation) -> Shown:
    """What an operation proves of its author."""
    return Shown(operation.replica, operation.seq, decode_envelope(operation.envelope))


class RemoteWriter:
    """Merges operations of other replicas, or our own coming back after a loss."""

    is_blind = False

    def __init__(self, parts: Parts, chunks: ChunkStore, ahead: Ahead) -> None:
        self._ahead = ahead
        self._parts = parts
        self._chunks = chunks
        self.forks = Forks(parts.tables, parts.log)
        self.found: list[Fork] = []  # proofs that nobody was told of yet
        self.waiting = Waiting()
        self.damaged: set[OperationId] = set()  # what met a damaged value

    def apply_all(
        self, operations: Iterable[Operation], now_ns: int, sender: ReplicaId | None
    ) -> Applied:
        """Merge verified operations.

        What nobody sent just now, being due or taken over, does not wait for the clock.
        """
        applied = Applied()
        for operation in operations:
            with self._noticing_damage(operation) as met:
                outcome = self._apply_new(operation, now_ns, sender)
            outcome = "damaged" if met else outcome
            setattr(applied, outcome, getattr(applied, outcome) + 1)
        applied.forks, self.found = self.found, []
        return applied

    def _apply_new(self, operation: Operation, now_ns: int, sender: ReplicaId | None) -> str:
        """Merge one operation; returns the field of `Applied` that counts it."""
        if self._parts.log.has(operation.id):
            return "known"
        self.note_newest([shown_by(operation)], now_ns)
        return self._apply(operation, now_ns, sender)

    def adopt(self, operation: Operation, now_ns: int) -> None:
        """Merge an operation that an earlier store of this replica had taken in."""
        self.note_newest([shown_by(operation)], now_ns)
        if not self._parts.log.has(operation.id):
            self.reapply(operation, now_ns)

    def note_newest(self, shown: Iterable[Shown], now_ns: int) -> bool:
        """Authors have counted this far: what waited for it may take effect. Whether it is new."""
        fresh = [each.replica for each in shown if self._parts.authors.note(each)]
        for author in fresh:
            self.settle(author, now_ns)
        return bool(fresh)

    def settle(self, author: ReplicaId, now_ns: int) -> None:
        """Try again what waited for an author to count further."""
        for each in self.waiting.take(author):  # their own authors' numbers are noted
            with self._noticing_damage(each.operation):
                self._apply(each.operation, now_ns, each.sender)

    @contextmanager
    def _noticing_damage(self, operation: Operation) -> Iterator[list[StoreError]]:
        """Go on after a damaged value, and remember it; what is caught is given back."""
        met: list[StoreError] = []
        try:
            yield met
        except StoreError as error:
            met.append(error)
            if not self.damaged:
                log.warning("store.damage_met", error=str(error))
            self.damaged.add(operation.id)

    def _apply(self, operation: Operation, now_ns: int, sender: ReplicaId | None) -> str:
        dot = dot_key(operation.replica, operation.seq)
        if self.forks.stops(dot):
            return self._hold(operation, dot)
        fork = self.forks.find(operation)
        if fork is not None:
            self.found.append(fork)
        lacks = self._parts.authors.lacking(operation.claims)
        if lacks is not None:
            self.waiting.add(Unproved(operation, sender, lacks))
            return "unattested"
        if sender is not None and self._ahead.is_early(operation, now_ns):
            return self._put_off(operation, sender)
        return "merged" if self.reapply(operation, now_ns) else "known"

    def _put_off(self, operation: Operation, sender: ReplicaId) -> str:
        """Keep an operation until the clock passes it, and its content while somebody has it."""
        if not self._ahead.add(operation, sender):
            return "crowded"
        self._want_all(operation)
        return "ahead"

    def _hold(self, operation: Operation, dot: bytes) -> str:
        """Keep what lies beyond a fork for whoever decides about it, and its content likewise."""
        if self.forks.hold(dot, operation.id, operation.envelope):
            self._want_all(operation)
        return "held"

    def _want_all(self, operation: Operation) -> None:
        for write in operation.writes:
            for chunk in write.refs:
                self._chunks.want(ChunkId(chunk), 1)

    def reapply(self, operation: Operation, now_ns: int) -> bool:
        """Merge an operation, be it known in part; tells whether one of its writes is new."""
        self._meet_damage(operation)
        released: list[tuple[AnyHead, bool]] = []
        former = {w.key: self._targets(w.key) for w in operation.writes if w.kind is Kind.LINK}
        fresh = [w for w in operation.writes if self._merge(operation, w, released)]
        if not fresh:
            return False
        envelope = decode_envelope(operation.envelope)
        dot = dot_key(operation.replica, operation.seq)
        self._parts.log.append(operation.id, dot, envelope, len(fresh))
        for lost, keep in released:
            lost_dot = dot_key(lost.replica, lost.seq)
            self._parts.log.release(lost.operation, lost_dot, now_ns, keep=keep)
            if lost.refs:
                self._chunks.doubt()
        for write in fresh:
            self._parts.clock.observe(write.hlc, now_ns)
            self._want(write)
        with self._noticing_damage(operation):
            for write in fresh:
                self._parts.index.note_moments(operation.head(write))
                self._refresh(write, former.get(write.key, set()))
        return True

    def _meet_damage(self, operation: Operation) -> None:
        """Read what merging changes, but for the index: raises StoreError before any change."""
        log_, tables = self._parts.log, self._parts.tables
        tables.operation.get(operation.id)
        log_.meet(dot_key(operation.replica, operation.seq))
        for write in operation.writes:
            for head in self._parts.records.heads(write.kind, write.key):
                if head.operation != PENDING:
                    log_.meet(dot_key(head.replica, head.seq))

    def _want(self, write: Write) -> None:
        """Want the chunks of a version."""
        if isinstance(write.body, ContentBody) and write.body.alive:
            for chunk in write.refs:
                self._chunks.want(ChunkId(chunk), write.body.height)

    def _merge(
        self, operation: Operation, write: Write, released: list[tuple[AnyHead, bool]]
    ) -> bool:
        """Merge one write into its record; tells whether it became a head."""
        before = self._parts.records.heads(write.kind, write.key)
        head = operation.head(write)
        merged = insert(before, head)
        if head not in merged or head in before:
            return False
        self._parts.records.put(write.kind, write.key, merged)
        released.extend(
            (lost, is_version(write.kind, lost, operation.replica, write.hlc))
            for lost in before
            if lost not in merged and lost.operation != PENDING
        )
        return True

    def _targets(self, link: bytes) -> set[InodeId]:
        """Inodes that the heads of a link record name."""
        return {head.body.target for head in self._parts.records.links(link)}

    def _refresh(self, write: Write, former: set[InodeId]) -> None:
        """Evaluate anew what a write concerns; `former` are its link's targets until now."""
        index = self._parts.index
        body = write.body
        if isinstance(body, LinkBody):
            for target in former | self._targets(write.key):
                index.refresh(target, [LinkId(write.key)])
                self._want_shown(target)
        elif isinstance(body, XattrBody):
            index.refresh_xattr(body.inode, write.key)
        else:
            index.refresh(InodeId(write.key))
        if isinstance(body, ContentBody):
            index.note_content(InodeId(write.key))
            self._want_shown(InodeId(write.key))

    def _want_shown(self, inode: InodeId) -> None:
        """A deleted file that a rename or a new link kept shows the version it was deleted at."""
        contents = self._parts.records.contents(inode)
        winner = current_content(contents) if contents else None
        if winner is None or winner.body.alive:
            return
        row = self._parts.tables.inode.get(inode)
        if row is not None and row.links:
            for chunk in winner.refs:
                self._chunks.want(ChunkId(chunk), winner.body.height)
