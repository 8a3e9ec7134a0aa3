"""The store of one replica: one place to read its state, and the one write path into it.

Local changes and operations of peers both end as heads of records; the index follows, and a
commit makes both durable together. All methods but `write_frozen` belong to the event-loop
thread; nothing here waits.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from blake3 import blake3

from piperfs.core.clock import HybridClock
from piperfs.core.errors import ErrorKind, FsError, StoreError
from piperfs.core.ids import InodeId, ReplicaId, VolumeId, is_directory, root_of
from piperfs.core.names import Group
from piperfs.core.operation import Operation, Unseal, decode
from piperfs.core.record import AnyHead, ContentHead, Kind
from piperfs.store import ownership
from piperfs.store.ahead import Ahead
from piperfs.store.authors import Authors, Shown
from piperfs.store.blind import BlindWriter
from piperfs.store.cells import Cells
from piperfs.store.change import Change, Pin, chunks_of
from piperfs.store.changes import ChangeSet
from piperfs.store.chunks import ChunkStore, NodeChildren
from piperfs.store.directory import Directories, Found, Listed
from piperfs.store.engine import Engine
from piperfs.store.forks import Forks
from piperfs.store.index import Index
from piperfs.store.local import HalfMadeError, LocalWriter, Parts, Sealing
from piperfs.store.offences import Offences
from piperfs.store.oplog import END, OperationLog
from piperfs.store.records import Records
from piperfs.store.remote import Applied, RemoteWriter
from piperfs.store.rows import InodeRow, LocalRow, PeerRow, Place
from piperfs.store.schema import Tables
from piperfs.store.signing import Signer, signing
from piperfs.store.waiting import Waiting
from piperfs.store.withdrawal import Withdrawal

_pack = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose store it is."""

    volume: VolumeId
    replica: ReplicaId
    signer: Signer
    sealing: Sealing


class Store:
    """Records, index, log and chunks of one replica over one engine."""

    def __init__(
        self,
        engine: Engine,
        identity: Identity,
        local_key: bytes,
        entropy: Callable[[int], bytes],
        node_children: NodeChildren,
        *,
        is_blind: bool = False,
    ) -> None:
        self.volume, self.replica = identity.volume, identity.replica
        self.root = root_of(identity.volume)
        self.engine = engine
        self._cells = Cells(local_key, entropy)
        self.is_blind = is_blind
        self.tables = Tables(
            engine, self._cells, signing(identity.volume, identity.signer), is_blind=is_blind
        )
        ownership.claim(self.tables, identity.volume, identity.replica)
        self.store_id = ownership.store_id(self.tables, entropy)
        self.records = Records(self.tables)
        clock = HybridClock(int.from_bytes(self.tables.meta.get(b"hlc") or b"", "big"))
        self.log = OperationLog(self.tables)
        self.chunks = ChunkStore(self.tables, node_children, self._cells.content_hash)
        index = Index(self.tables, self._cells, self.root, self.records)
        self._directories = Directories(self.tables, index, self.root, self.records)
        self.authors = Authors(self.tables)
        self.offences = Offences(self.tables)
        parts = Parts(self.tables, self.records, index, self.log, self.authors, clock)
        self._parts = parts
        self._local = LocalWriter(self.replica, parts, identity.sealing)
        writer = BlindWriter if is_blind else RemoteWriter
        self.ahead = Ahead(self.tables.ahead)
        self._remote = writer(parts, self.chunks, self.ahead)
        self._frozen_lseq = 0
        self.full: ErrorKind | None = None  # why the last commit found no room, until one does
        self.on_change: Callable[[ChangeSet], None] = _ignore  # what peers changed
        self.may_write: Callable[[], bool] = lambda: True  # whether local changes would count
        self.on_dirty: Callable[[], None] = _do_nothing  # there is something to commit

    def change_owner(self, replica: ReplicaId) -> None:
        """With the next commit this is another replica's store; it must be opened anew then."""
        assert not self._local.waiting, "whatever is pending has this replica's name in it"
        ownership.hand_over(self.tables, self.volume, replica)

    # Reading

    def inode(self, inode: InodeId) -> InodeRow | None:
        return self.tables.inode.get(inode)

    def heads(self, kind: Kind, key: bytes) -> tuple[AnyHead, ...]:
        return self.records.heads(kind, key)

    def contents(self, inode: InodeId) -> tuple[ContentHead, ...]:
        return self.records.contents(inode)

    def lookup(self, directory: InodeId, name: bytes) -> Found | None:
        return self._directories.lookup(directory, name)

    def arranged(self, directory: InodeId, name: bytes) -> Group:
        return self._directories.arranged(directory, name)

    def conflict_entries(self, directory: InodeId) -> dict[bytes, Found]:
        """Conflict copies in a directory by the names they are shown under."""
        members = self.members(directory)
        if len(members) == 1 and directory not in self._parts.index.disputes.names:
            return {}
        return self._directories.conflict_entries(members)

    def list_directory(
        self,
        directory: InodeId,
        after_cookie: int,
        limit: int,
        copies: Sequence[Listed] | None = None,
    ) -> list[Listed]:
        return self._directories.list_directory(directory, after_cookie, limit, copies)

    def list_copies(self, directory: InodeId) -> list[Listed]:
        return self._directories.list_copies(directory)

    def is_empty(self, directory: InodeId) -> bool:
        return self._directories.is_empty(directory)

    def members(self, directory: InodeId) -> tuple[InodeId, ...]:
        return self._directories.members(directory)

    @property
    def founded_ns(self) -> int:
        """When the volume was made, as far as it is known here; its root's birth."""
        return self._parts.index.founded_ns

    def found(self, founded_ns: int) -> None:
        """Take over when the volume was made."""
        if not self.is_blind:
            self._parts.index.found(founded_ns)

    @property
    def shared_names(self) -> int:
        """How many names stand for several directories that act as one."""
        return self._parts.index.disputes.aliases

    def conflicts(self) -> Iterator[tuple[InodeId, bytes, bytes, Found]]:
        return self._directories.conflicts()

    @property
    def untold(self) -> Iterable[InodeId]:
        """Directories whose newest change no record tells before the next publication."""
        return self._local.untold

    def xattrs(self, inode: InodeId) -> dict[bytes, bytes]:
        row = self.tables.xattrs.get(inode)
        return {} if row is None else {name: value.value for name, value in row.values.items()}

    def xattr_author(self, inode: InodeId, name: bytes) -> ReplicaId | None:
        """The replica that set an extended attribute last."""
        row = self.tables.xattrs.get(inode)
        value = None if row is None else row.values.get(name)
        return None if value is None else value.replica

    def local(self, inode: InodeId) -> LocalRow:
        return self.tables.local.get(inode) or LocalRow()

    def put_local(self, inode: InodeId, row: LocalRow) -> None:
        self.tables.local.put(inode, row)

    # Writing

    def pin(self, inode: InodeId) -> Pin:
        return self._local.pin(inode)

    def unpin(self, inode: InodeId) -> None:
        self._local.unpin(inode)
        self.chunks.doubt()

    def apply_local(self, changes: Sequence[Change], now_ns: int, stamp: int | None = None) -> None:
        """Apply what one system call changes, atomically; it is durable after a commit.

        `stamp`, from `tick`, dates them earlier: at the last write to a file flushed later.
        """
        self._apply(changes, now_ns, stamp)
        self._forget_changes()

    def apply_command(self, changes: Sequence[Change], now_ns: int) -> None:
        """Apply what a command changes, so that it can be undone; no cache knows of it yet."""
        self._apply(changes, now_ns, None, keep=True)
        for chunk, height in chunks_of(changes):
            self.chunks.want(chunk, height)
        self._report()
        self.on_dirty()

    def _apply(
        self, changes: Sequence[Change], now_ns: int, stamp: int | None, *, keep: bool = False
    ) -> None:
        self.require_right()
        for chunk, height in chunks_of(changes):
            self.chunks.note(chunk, height)
        try:
            self._local.apply(changes, now_ns, stamp, keep=keep)
        except HalfMadeError as error:
            self.fail(str(error))
            raise
        self.chunks.doubt()

    def apply_remote(
        self, operations: Iterable[Operation], now_ns: int, sender: ReplicaId | None = None
    ) -> Applied:
        """Merge verified operations of other replicas; idempotent and in any order.

        What `sender` sent waits if it is dated too far ahead.
        """
        self.require_writable()
        applied = self._remote.apply_all(operations, now_ns, sender)
        self._after_remote()
        return applied

    @property
    def damage_met(self) -> int:
        """How many operations of peers met a damaged value here."""
        return len(self._remote.damaged)

    def adopt(self, operations: Iterable[Operation], now_ns: int) -> None:
        """Merge what an earlier store of this replica held."""
        for operation in operations:
            self._remote.adopt(operation, now_ns)
        self._after_remote()

    def note_newest(self, shown: Iterable[Shown], now_ns: int) -> None:
        """Learn how far authors have counted."""
        self.require_writable()
        if self._remote.note_newest(shown, now_ns):
            self._after_remote()

    def _after_remote(self) -> None:
        self.raise_last_seq(self.authors.highest(self.replica))  # after a loss others know more
        self._report()
        self.on_dirty()

    @property
    def waiting(self) -> Waiting:
        """Operations of peers that claim what nobody has shown."""
        return self._remote.waiting

    def withdraw(self, until: Mapping[ReplicaId, int], unseal: Unseal | None, now_ns: int) -> int:
        """Take out what authors wrote beyond a number; returns how many operations went."""
        self._remote.waiting.drop_beyond(until)
        count = Withdrawal(self._parts, self.chunks, self._remote).run(until, unseal, now_ns)
        self._report()
        self.on_dirty()
        return count

    @property
    def forks(self) -> Forks:
        """Authors that signed twice, and what is held of them."""
        return self._remote.forks

    def release(
        self, replica: ReplicaId, until: int, unseal: Unseal | None, now_ns: int
    ) -> tuple[int, int]:
        """Merge what was held of an author up to a number; returns how many came and went."""
        rows = self.forks.take(replica)
        counting = [decode(raw, unseal) for seq, raw in rows if seq <= until]
        self.apply_remote(counting, now_ns)
        self.chunks.doubt()
        return len(counting), len(rows) - len(counting)

    def recompute_times(self) -> None:
        """Directories are as new as the records at hand tell, since some were lost."""
        keys = (InodeId(key) for key, _ in self.tables.inode.scan(b"", b"\xff" * 17))
        self._parts.index.recompute_moments([key for key in keys if is_directory(key)])
        self._forget_changes()

    def put_special(self, inode: InodeId, row: InodeRow) -> None:
        """Add a fifo, socket or device node, which stays on this replica."""
        self._parts.index.attach_special(inode, row)
        self._touch((place.parent for place in row.links), row.ctime_ns)
        self._forget_changes()

    def move_special(self, inode: InodeId, links: tuple[Place, ...], now_ns: int) -> None:
        now, row = self._parts.clock.tick(now_ns), self.tables.inode.get(inode)
        before = row.links if row is not None else ()
        self._parts.index.move_special(inode, links, now)
        self._touch((place.parent for place in {*before} ^ {*links}), now)
        self._forget_changes()

    def _touch(self, directories: Iterable[InodeId], now: int) -> None:
        if self.may_write():
            self._local.touch(directories, now)

    def change_special(self, inode: InodeId, row: InodeRow) -> None:
        """Other attributes for such a node."""
        self._parts.index.change_special(inode, row)
        self.on_dirty()

    def _forget_changes(self) -> None:
        """Whoever makes a local change knows of it."""
        self._parts.index.changes = ChangeSet()
        self.on_dirty()

    def _report(self) -> None:
        changes = self._parts.index.changes
        if changes:
            self._parts.index.changes = ChangeSet()
            self.on_change(changes)

    def tick(self, now_ns: int) -> int:
        """A stamp for something that changes no record."""
        return self._parts.clock.tick(now_ns)

    @property
    def last_seq(self) -> int:
        """The highest sequence number of this replica's own operations."""
        return self._local.last_seq

    def highest_seq_of(self, replica: ReplicaId) -> int:
        """The highest number that a replica is known to have issued."""
        if replica == self.replica:
            return self._local.last_seq
        return self.authors.highest(replica)

    def raise_last_seq(self, seq: int) -> None:
        """Never use numbers up to `seq`: a peer has seen them, though this store has not."""
        self._local.last_seq = max(self._local.last_seq, seq)

    def put_last_seq(self, seq: int) -> None:
        """Never use numbers up to `seq`, after a repair that may have lost some."""
        self._local.last_seq = seq
        self.tables.meta.put(b"last_seq", seq.to_bytes(8, "big"))

    # Commit

    @property
    def is_failing(self) -> bool:
        """Whether nothing can be made durable any more until the next start."""
        return self.engine.is_failed

    def fail(self, reason: str) -> None:
        """Take no more writes; what can be read stays readable."""
        self.engine.fail(reason)

    def require_unbroken(self) -> None:
        """Raises StoreError, with the reason, when an earlier commit was the last."""
        self.engine.require_unbroken()

    def require_writable(self) -> None:
        """Raises StoreError when a change could never become durable."""
        if self.engine.is_failed:
            raise StoreError("the store is failing: nothing can be saved", ErrorKind.READ_ONLY)

    def require_right(self) -> None:
        """Like `require_writable`, for changes of our own: raises FsError if none would count."""
        self.require_writable()
        if not self.may_write():
            raise FsError(ErrorKind.READ_ONLY, "this computer may only read the volume")

    @property
    def has_uncommitted(self) -> bool:
        return bool(self._local.waiting) or any(table.changes for table in self.tables.all)

    @property
    def is_durable(self) -> bool:
        """Whether a crash could take back no operation and no chunk."""
        return self.log.durable_lseq == self.log.last_lseq and not self.chunks.waiting_bytes

    def freeze(self, now_ns: int) -> int:
        """Publish what is pending and set it aside for a commit; returns its last lseq."""
        self._local.publish(now_ns)
        self._parts.index.changes = ChangeSet()
        self._remote.settle(self.replica, now_ns)
        self._report()
        self.log.note_position()
        self.tables.meta.put(b"hlc", self._parts.clock.last.to_bytes(8, "big"))
        for table in self.tables.all:
            table.freeze()
        self.chunks.freeze()
        self._frozen_lseq = self.log.last_lseq
        return self._frozen_lseq

    def write_frozen(self) -> None:
        """Encode, sign and commit what was frozen. Runs in a worker thread. Raises StoreError."""
        self.engine.commit(
            {table.name: rows for table in self.tables.all if (rows := table.encode_frozen())}
        )

    def finish(self, *, committed: bool) -> None:
        """Let reads see the commit, or keep the changes for another try after a failure."""
        for table in self.tables.all:
            table.thaw(committed=committed)
        self.chunks.thaw(committed=committed)
        self.engine.refresh()
        if committed:
            self.log.note_durable(self._frozen_lseq)

    def commit(self, now_ns: int) -> None:
        """All three steps at once, for commands that run without an event loop."""
        try:
            self.freeze(now_ns)
            self.write_frozen()
        except BaseException as error:
            if not isinstance(error, StoreError):
                self.fail(repr(error))
            self.finish(committed=False)
            raise
        self.finish(committed=True)

    def snapshot_engine(self) -> Engine:
        """The newest commit as it is now, for another thread to read; close it soon."""
        return self.engine.snapshot()

    def renew_snapshot(self) -> None:
        """Of a store over a snapshot: look at the newest commit from now on."""
        self.engine.renew()
        for table in self.tables.all:
            table.forget_reads()

    def bytes_used(self) -> int:
        """Size of the store's file."""
        return self.engine.bytes_used()

    def close(self) -> None:
        self.engine.close()

    # Peers and digests

    def peer(self, replica: ReplicaId) -> PeerRow:
        return self.tables.peer.get(replica) or PeerRow()

    def durable_peer(self, replica: ReplicaId) -> PeerRow:
        """What a crash cannot take back of what is remembered of a peer."""
        return self.tables.peer.get_durable(replica) or PeerRow()

    def put_peer(self, replica: ReplicaId, row: PeerRow) -> None:
        self.tables.peer.put(replica, row)

    def peers(self) -> dict[ReplicaId, PeerRow]:
        return {ReplicaId(key): row for key, row in self.tables.peer.scan(b"", b"\xff" * 17)}

    def members_records(self) -> dict[bytes, bytes]:
        """The signed membership records by id."""
        return dict(self.tables.member.scan(b"", b"\xff" * 33))

    def put_member_record(self, record: bytes, raw: bytes) -> None:
        self.tables.member.put(record, raw)

    # Checking

    def keys(self, table: str) -> list[bytes]:
        """All durable keys of a table, without opening a value."""
        return list(self.engine.keys(table, b"", b"\xff" * 64))

    def raw_value(self, table: str, key: bytes) -> bytes | None:
        """A durable value as it lies on the disk."""
        return self.engine.get(table, key)

    def digest(self) -> bytes:
        """32 bytes that are equal on replicas that hold the same durable state."""
        count, total = self.log.fingerprint(b"", END)
        records = sorted(key for key, _ in self.tables.member.scan_durable(b"", b"\xff" * 33))
        return blake3(count.to_bytes(8, "big") + total + b"".join(records)).digest()


def _ignore(changes: ChangeSet) -> None:
    """Nobody holds caches."""


def _do_nothing() -> None:
    """Whoever changes the store commits it."""
