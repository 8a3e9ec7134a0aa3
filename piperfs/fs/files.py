"""Open files: handles, write sessions and the contents behind them.

The first open for writing pins the versions it sees. From then until the last writer closes, the
file shows these versions and its own changes; what other replicas write meanwhile stays beside it
and becomes a conflict copy if both changed. A file that nobody writes to shows the newest version
at every read, so that `tail -f` follows another computer.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from piperfs.core import manifest, resolve
from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.ids import ChunkId, InodeId, is_file
from piperfs.core.manifest import Extent
from piperfs.core.record import PENDING, Birth, ContentBody, ContentHead
from piperfs.fs import conflicts
from piperfs.fs.contents import LENGTH, Contents, extents_of, pieces_of
from piperfs.fs.flush import Flush
from piperfs.fs.inodes import Inodes, Node
from piperfs.fs.missing import MissingChunks
from piperfs.fs.reader import ChunkReader
from piperfs.fs.working_copy import WorkingCopy
from piperfs.store.change import Change, Pin, PutContent
from piperfs.store.directory import Listed
from piperfs.store.store import Store

VIEWED_PIECES_MAX: Final = 100_000  # of versions whose contents are kept between requests


@dataclass(slots=True, eq=False)
class Session:
    """What is known of a file while somebody writes to it."""

    node: Node
    writers: int = 0
    pin: Pin | None = None
    copy: WorkingCopy | None = None
    mtime_ns: int = 0
    is_timed: bool = False  # that time was asked for, and nobody wrote since
    stamp: int = 0  # of the last change; becomes the version's
    dirty_since: float | None = None
    flush: Flush | None = None
    spills: bool = False

    @property
    def is_dirty(self) -> bool:
        return self.dirty_since is not None


@dataclass(slots=True, eq=False)
class Handle:
    """One open(2)."""

    fh: int
    node: Node
    writes: bool
    reads: bool = True
    syncs: bool = False  # what is changed through it is to be durable at once (O_DSYNC, O_SYNC)
    told: Exception | None = None  # the failure of the disk that its owner has heard of
    copies: list[Listed] | None = None  # conflict copies that a listing shows


@dataclass(frozen=True, slots=True)
class Clock:
    """Wall time in ns, and a time that never jumps in seconds."""

    now_ns: Callable[[], int]
    monotonic: Callable[[], float]


class Files:
    """All open files of a mount."""

    def __init__(self, store: Store, reader: ChunkReader, inodes: Inodes, clock: Clock) -> None:
        self._store = store
        self._reader = reader
        self._inodes = inodes
        self._clock = clock
        self._handles: dict[int, Handle] = {}
        self._next_fh = 1
        self._sessions: dict[int, Session] = {}  # by kernel number
        self._views = _Views()
        self._nodes = manifest.Nodes(reader.keyring, store.chunks.has)
        self.on_stale: Callable[[Node], None] = lambda _node: None

    # Handles

    def open(self, node: Node, *, reads: bool, writes: bool, syncs: bool = False) -> Handle:
        handle = Handle(self._next_fh, node, writes, reads, syncs)
        self._next_fh += 1
        if writes:
            self._begin(node).writers += 1
        self._handles[handle.fh] = handle
        node.handles += 1
        return handle

    def handle(self, fh: int) -> Handle:
        found = self._handles.get(fh)
        if found is None:
            raise FsError(ErrorKind.BAD_HANDLE)
        return found

    def close(self, fh: int) -> None:
        """Close a handle; its file must have been flushed if it was the last that writes."""
        handle = self._handles.pop(fh, None)
        if handle is None:
            return
        node = handle.node
        node.handles -= 1
        session = self._sessions.get(node.ino)
        if session is not None:
            session.writers -= handle.writes
            self._end_if_idle(session)
        self._inodes.drop_unused(node)

    def session(self, node: Node) -> Session | None:
        return self._sessions.get(node.ino)

    def sessions(self) -> list[Session]:
        return list(self._sessions.values())

    def _begin(self, node: Node) -> Session:
        session = self._sessions.get(node.ino)
        if session is None:
            session = Session(node)
            if node.anonymous is None:
                session.pin = self._store.pin(node.inode)
            self._sessions[node.ino] = session
            node.is_written = node.anonymous is None
        return session

    def _end_if_idle(self, session: Session) -> None:
        """End a session that nobody writes in and that holds nothing unsaved."""
        if session.writers or session.flush is not None:
            return
        node = session.node
        if node.anonymous is None:
            if session.is_dirty:
                return
            self._keep_view(session)
            self._unpin(session)
        elif (node.handles or node.lookups) and not self._keep_anonymous(session):
            return
        self._sessions.pop(node.ino, None)
        node.is_written = False
        self._inodes.drop_unused(node)

    def forget(self, node: Node) -> None:
        """Nobody knows the inode any more: what is left of one without a name goes with it."""
        self._sessions.pop(node.ino, None)

    def _keep_view(self, session: Session) -> None:
        """What was written is what the next one reads; a long manifest need not be read back."""
        if session.copy is not None and session.pin is not None and session.pin.heads:
            head = resolve.current_content(session.pin.heads)
            if head.body.height:
                self._views.add(head, session.copy)

    def _unpin(self, session: Session) -> None:
        if session.pin is None:
            return
        shown = resolve.current_content(session.pin.heads) if session.pin.heads else None
        self._store.unpin(session.node.inode)
        session.pin = None
        now = self._store.contents(session.node.inode)
        if now and shown is not None and _mark(resolve.current_content(now)) != _mark(shown):
            self.on_stale(session.node)

    # Contents

    def version(self, node: Node) -> ContentHead:
        """The version a file shows, unsaved changes aside. Raises FsError if it has none."""
        if node.anonymous is not None and node.anonymous.head is not None:
            return node.anonymous.head
        if node.version is not None and node.version.head is not None:
            return node.version.head
        session = self._sessions.get(node.ino)
        heads: Sequence[ContentHead] = ()
        if session is not None and session.pin is not None:
            heads = session.pin.heads
        heads = heads or self._store.contents(node.inode)
        if not heads:
            raise FsError(ErrorKind.STALE)
        return resolve.current_content(heads)

    def contents(self, node: Node) -> Contents:
        """What a reader sees: the unsaved copy, or a saved version. Raises MissingChunks."""
        session = self._sessions.get(node.ino)
        if session is not None and session.copy is not None:
            return session.copy
        if node.anonymous is not None and node.anonymous.contents is not None:
            return node.anonymous.contents
        return self._view(self.version(node))

    def _view(self, head: ContentHead) -> Contents:
        found = self._views.find(head)
        if found is None:
            extents = self._reader.extents(manifest.of_version(head.body, head.refs))
            found = Contents(pieces_of(extents))
            self._views.add(head, found)
        return found

    def edit(self, node: Node) -> tuple[Session, WorkingCopy]:
        """The copy to change. Raises MissingChunks if the manifest is not here.

        A change without an open handle (truncate by name) begins a session of its own, which the
        next flush ends.
        """
        self._store.require_right()
        session = self._begin(node)
        if session.copy is None:
            session.copy = WorkingCopy(self.contents(node))
        return session, session.copy

    def dirty_bytes(self) -> int:
        """Roughly how many bytes of all files are in memory only."""
        copies = [s.copy for s in self._sessions.values() if s.copy is not None]
        return sum(copy.dirty_bytes + copy.flushing_bytes for copy in copies)

    def changed(self, session: Session, *, by_mapping: bool = False) -> None:
        """Contents were changed now; what comes of a mapping may have been stored long ago."""
        now = self._clock.now_ns()
        if not (by_mapping and session.is_timed):
            session.mtime_ns, session.is_timed = now, False
        session.stamp = self._store.tick(now)
        if session.dirty_since is None:
            session.dirty_since = self._clock.monotonic()

    def keep_dirty(self, session: Session) -> None:
        """Something about the unsaved version changed, though not its bytes."""
        session.dirty_since = self._clock.monotonic()

    # Flushing

    def begin_flush(self, node: Node, *, spill: bool = False) -> Flush | None:
        """What is to be cut and sealed; None if nothing is, or a flush is under way.

        A spill only frees memory: the chunks are kept and no version is made yet.
        """
        session = self._sessions.get(node.ino)
        if session is None or session.copy is None or session.flush is not None:
            return None
        if not session.is_dirty or (node.anonymous is not None and not spill):
            return None
        session.flush = Flush(session.copy.snapshot(), self._reader, self._store.chunks)
        session.spills = spill
        if not spill:
            session.dirty_since = None
        return session.flush

    def finish_flush(self, node: Node, flush: Flush) -> None:
        """Make the flushed contents a version."""
        session = self._sessions.get(node.ino)
        if session is None or session.flush is not flush or session.copy is None:
            return
        try:
            pieces = flush.finish()
        except Exception:
            self.abandon_flush(node, flush)
            raise
        again = session.dirty_since
        session.flush = None
        extents = extents_of(pieces)  # before what was written meanwhile is among the pieces
        session.copy.adopt(pieces)
        if node.anonymous is None and not session.spills:
            self.keep_dirty(session)  # until the version is made
            self._put(session, extents)
            session.dirty_since = again
        self._end_if_idle(session)

    def abandon_flush(self, node: Node, flush: Flush) -> None:
        """A flush failed or lacks chunks; what it was for is still to be done."""
        session = self._sessions.get(node.ino)
        if session is not None and session.flush is flush and session.copy is not None:
            session.flush = None
            session.copy.abandon()
            if session.dirty_since is None:
                session.dirty_since = self._clock.monotonic()

    def _put(self, session: Session, extents: list[Extent]) -> None:
        changes: list[Change] = []
        inode, pin = session.node.inode, session.pin
        if pin is not None:
            changes += conflicts.before_superseding(self._store, inode, pin)
        changes.append(self.put_extents(session.node, extents, session.mtime_ns, pin))
        self._store.apply_local(changes, self._clock.now_ns(), session.stamp)

    def put_extents(
        self,
        node: Node,
        extents: list[Extent],
        mtime_ns: int,
        pin: Pin | None,
        birth: Birth | None = None,
    ) -> PutContent:
        """The change that makes `extents` a file's new version, or the first of one just born."""
        chunks = self._store.chunks
        top = manifest.build(extents, self._nodes, chunks.put)
        size = sum(map(LENGTH, extents))
        birth = birth or self.version(node).body.birth
        body = ContentBody(True, size, mtime_ns, birth, top.height, top.lengths)  # noqa: FBT003
        return PutContent(node.inode, body, top.refs, pin)

    def flush_now(self, node: Node) -> None:
        """Flush on the spot, for calls that need the version and cannot wait."""
        flush = self.begin_flush(node)
        if flush is None:
            return
        try:
            flush.execute()
        except Exception:
            self.abandon_flush(node, flush)
            raise
        self.finish_flush(node, flush)

    def settle(self, node: Node) -> None:
        """All versions were settled: a session that shows the result builds on it."""
        session = self._sessions.get(node.ino)
        if session is None or session.pin is None or not session.pin.heads:
            return
        heads = self._store.contents(node.inode)
        shown, winner = (resolve.current_content(h) for h in (session.pin.heads, heads))
        if resolve.digest_of(shown) == resolve.digest_of(winner):
            session.pin.heads = heads

    def pin_of(self, node: Node | None) -> Pin | None:
        """The versions that a name's user knows, if an open file hides newer ones from them."""
        session = None if node is None else self._sessions.get(node.ino)
        pin = None if session is None else session.pin
        return Pin(pin.inode, pin.heads) if pin and conflicts.unseen(self._store, pin) else None

    def make_anonymous(self, node: Node) -> None:
        """The last name is gone: keep only memory, and let the store forget the session."""
        session = self._sessions.get(node.ino)
        if session is None:
            return
        if session.pin is not None:
            self._store.unpin(session.pin.inode)
            session.pin = None
        if session.flush is not None:
            self.keep_dirty(session)  # what it works on will be no version
        self._end_if_idle(session)

    def repin(self, node: Node) -> None:
        """The number stands for another inode now; its session goes on there."""
        session = self._sessions.get(node.ino)
        if session is not None and node.anonymous is None:
            session.pin = self._store.pin(node.inode)
            node.is_written = True

    def release_pin(self, node: Node) -> None:
        session = self._sessions.get(node.ino)
        if session is not None and session.pin is not None:
            self._store.unpin(session.pin.inode)
            session.pin = None

    def _keep_anonymous(self, session: Session) -> bool:
        """Keep what was written for who has the file open yet; False while chunks are missing."""
        try:
            self.save_nameless(session.node)
        except MissingChunks:
            return False
        return True

    def save_nameless(self, node: Node) -> None:
        """Bring what was written to a file without a name into chunks. Raises MissingChunks."""
        session, anonymous = self._sessions.get(node.ino), node.anonymous
        if session is None or anonymous is None or session.copy is None:
            return
        if session.flush is not None:
            self.abandon_flush(node, session.flush)
        try:
            flush = Flush(session.copy.snapshot(), self._reader, self._store.chunks)
            flush.execute()
            session.copy.adopt(flush.finish())
        except Exception:
            session.copy.abandon()
            raise
        anonymous.contents = session.copy
        anonymous.row = replace(
            anonymous.row, size=session.copy.size, data_bytes=session.copy.data_bytes,
            mtime_ns=session.mtime_ns or anonymous.row.mtime_ns,
            ctime_ns=max(session.stamp, anonymous.row.ctime_ns),
        )  # fmt: skip
        session.dirty_since = None

    def holders(self, chunks: AbstractSet[ChunkId]) -> set[InodeId]:
        """Files that the kernel knows and that show some of these chunks."""
        named = (node.inode for node in self._inodes.named() if is_file(node.inode))
        return {inode for inode in named if not chunks.isdisjoint(self._chunks_of(inode))}

    def _chunks_of(self, inode: InodeId) -> Sequence[ChunkId]:
        """The chunks of the newest version, as far as the list of them is here."""
        heads = self._store.contents(inode)
        if not heads:
            return ()
        head = resolve.current_content(heads)
        try:
            return self._view(head).chunks() if head.body.height else head.refs
        except MissingChunks:
            return ()

    def in_use(self) -> list[tuple[ChunkId, int]]:
        """Chunks that open files refer to and versions may not, with their heights."""
        nameless, sessions = list(self._inodes.anonymous()), self._sessions.values()
        heads = [a.head for a in nameless if a.head is not None]
        heads += [head for s in sessions if s.pin is not None for head in s.pin.heads]
        shown = (handle.node.version for handle in self._handles.values())
        heads += [found.head for found in shown if found is not None and found.head is not None]
        pieces: list[Contents | Flush] = [a.contents for a in nameless if a.contents is not None]
        pieces += [s.copy for s in sessions if s.copy is not None]
        pieces += [s.flush for s in sessions if s.flush is not None]
        saved = [(chunk, head.body.height) for head in heads for chunk in head.refs]
        return [*saved, *((chunk, 0) for each in pieces for chunk in each.chunks())]


class _Views:
    """Contents of saved versions, the last used ones, up to a number of pieces."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ...], Contents] = OrderedDict()
        self._pieces = 0

    def find(self, head: ContentHead) -> Contents | None:
        key = _shape(head)
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def add(self, head: ContentHead, contents: Contents) -> None:
        replaced = self._kept.pop(_shape(head), None)
        self._kept[_shape(head)] = contents
        self._pieces += 1 + len(contents) - (0 if replaced is None else 1 + len(replaced))
        while self._pieces > VIEWED_PIECES_MAX:
            _, dropped = self._kept.popitem(last=False)
            self._pieces -= 1 + len(dropped)


def _shape(head: ContentHead) -> tuple[object, ...]:
    """Equal for versions whose bytes are in the same chunks."""
    return (head.body.height, head.refs, head.body.lengths)


def _mark(head: ContentHead) -> tuple[object, ...]:
    """Tells versions apart."""
    if head.operation == PENDING:
        return (head.refs, head.body.lengths, head.body.target)
    return (head.operation, head.replica, head.refs)
