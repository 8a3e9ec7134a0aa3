"""The file system as a kernel adapter sees it: one synchronous method for each call.

Everything is answered from local state, at once. What cannot be raises `MissingChunks`; whoever
may wait fetches them and calls again, so every method can be repeated until it succeeds. No
binding, no event loop and no clock of its own.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Final

from piperfs.core import limits
from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.ids import HIDDEN, ORPHANS, ChunkId, InodeId, is_directory, is_file, is_symlink
from piperfs.core.sealing import Keyring
from piperfs.fs.acl import Acls
from piperfs.fs.api import Attr, Buffer, Caller, DirectoryEntry, Opened, SetAttr, StatFs
from piperfs.fs.attributes import Attributes
from piperfs.fs.contents import Piece, chunks_of, read_pieces
from piperfs.fs.directories import Listings
from piperfs.fs.files import Clock, Files, Handle
from piperfs.fs.flush import Flush
from piperfs.fs.inodes import Inodes, Node
from piperfs.fs.namespace import HIDDEN_NAME, Namespace, Parts
from piperfs.fs.owners import Owners
from piperfs.fs.ranges import Ranges
from piperfs.fs.reader import ChunkReader
from piperfs.fs.renames import Renames
from piperfs.fs.space import NEARLY_FULL_BYTES, Space
from piperfs.fs.xattrs import Xattrs
from piperfs.store.changes import ChangeSet
from piperfs.store.store import Store

O_ACCMODE: Final = 3
O_WRONLY: Final = 1
O_TRUNC: Final = 0o1000
O_EXCL: Final = 0o200
O_DSYNC: Final = 0o10000  # a part of O_SYNC
TYPE_MASK: Final = 0o170000
REGULAR: Final = 0o100000
BLOCK_BYTES: Final = 4096
ORPHANS_DIRECTORY: Final = b"orphans"


@dataclass(frozen=True, slots=True)
class World:
    """What the file system needs from outside."""

    clock: Clock
    entropy: Callable[[int], bytes]
    space: Callable[[], Space]
    owners: Owners


class Filesystem:
    """One mounted volume."""

    def __init__(self, store: Store, keyring: Keyring, world: World) -> None:
        self._store = store
        self._clock = world.clock
        self._space = world.space
        self._inodes = Inodes(store, world.entropy)
        self._reader = ChunkReader(store.chunks, keyring)
        self._files = Files(store, self._reader, self._inodes, world.clock)
        self._attributes = Attributes(store, self._inodes, self._files, world.owners)
        parts = Parts(
            store, self._inodes, self._files, self._attributes, world.owners, world.clock,
            world.entropy,
        )  # fmt: skip
        self._names = Namespace(parts)
        self._renames = Renames(parts, self._names)
        self._ranges = Ranges(self._files, self._require_space)
        self._listings = Listings(store, self._inodes, self._names, self._attributes)
        self._xattrs = Xattrs(store, world.clock, {b"conflict": self._conflict_of})
        self._acls = Acls(self._xattrs, self._attributes, world.clock)
        self.on_invalidate: Callable[[ChangeSet], None] = lambda _changes: None
        self._files.on_stale = self._report_stale

    def _report_stale(self, node: Node) -> None:
        self.on_invalidate(ChangeSet(content={node.inode}, attributes={node.inode}))

    def report(self, changes: ChangeSet) -> None:
        """Peers changed something: whoever caches it is told."""
        for inode in changes.content:
            node = self._inodes.find(inode)
            if node is not None:
                node.is_outdated = True
        self.on_invalidate(changes)

    def report_evicted(self, chunks: AbstractSet[ChunkId]) -> None:
        """Content of files went from this computer: they take up less room here."""
        holders = self._files.holders(chunks)
        if holders:
            self.on_invalidate(ChangeSet(attributes=holders))

    def known_ino(self, inode: InodeId) -> int | None:
        """The kernel's number of an inode, if the kernel has heard of it."""
        node = self._inodes.find(inode)
        return None if node is None else node.ino

    # Names

    def lookup(self, parent: int, name: bytes) -> Attr:
        """Attributes of an entry; counts a lookup of it."""
        directory = self._inodes.get(parent)
        if name == b"..":
            return self._looked_up(self._parent(directory))
        if name == b".":
            return self._looked_up(directory)
        if (hidden := self._hidden(directory, name)) is not None:
            return self._looked_up(hidden)
        return self._looked_up(self._names.node_of(self._names.find(directory, name)))

    def _looked_up(self, node: Node) -> Attr:
        attr = self._attributes.get(node)
        node.lookups += 1
        node.is_outdated = False
        return attr

    def _parent(self, node: Node) -> Node:
        row = self._attributes.row(node)
        return self._inodes.open(row.links[0].parent) if row.links else self._inodes.get(1)

    def _hidden(self, directory: Node, name: bytes) -> Node | None:
        """`/.piperfs`, which is never listed, and the directory of orphans in it."""
        if name == HIDDEN_NAME and directory.inode == self._store.root:
            return self._inodes.open(HIDDEN)
        if name == ORPHANS_DIRECTORY and directory.inode == HIDDEN:
            return self._inodes.open(ORPHANS)
        return None

    def forget(self, ino: int, count: int) -> None:
        """The kernel dropped `count` of its lookups."""
        gone = self._inodes.forget(ino, count)
        if gone is not None:
            self._files.forget(gone)

    def getattr(self, ino: int) -> Attr:
        node = self._inodes.get(ino)
        attr = self._attributes.get(node)
        node.is_outdated = False
        return attr

    def readlink(self, ino: int) -> bytes:
        node = self._inodes.get(ino)
        if not is_symlink(node.inode):
            raise FsError(ErrorKind.INVALID)
        if node.anonymous is not None:
            return node.anonymous.target
        return self._files.version(node).body.target

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Attr:
        self._store.require_right()
        directory = self._inodes.get(parent)
        if mode & TYPE_MASK in (REGULAR, 0):
            node, _ = self._make_file(directory, name, mode, caller)
            return self._looked_up(node)
        bits, acls = self._acls.inherit(directory, mode & 0o7777, caller.umask, is_dir=False)
        kind = mode & TYPE_MASK
        node = self._names.make_special(directory, name, kind | bits, rdev, caller)
        self._acls.store(node, acls)
        return self._looked_up(node)

    def _make_file(self, parent: Node, name: bytes, mode: int, caller: Caller) -> tuple[Node, int]:
        self._require_space(0)
        bits, acls = self._acls.inherit(parent, mode & 0o7777, caller.umask, is_dir=False)
        node = self._names.make_file(parent, name, bits, caller)
        self._acls.store(node, acls)
        return node, bits

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attr:
        self._require_space(0)
        directory = self._inodes.get(parent)
        bits, acls = self._acls.inherit(directory, mode & 0o7777, caller.umask, is_dir=True)
        node = self._names.make_directory(directory, name, bits, caller)
        self._acls.store(node, acls)
        return self._looked_up(node)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attr:
        self._require_space(0)
        directory = self._inodes.get(parent)
        return self._looked_up(self._names.make_symlink(directory, name, target, caller))

    def is_nameless(self, ino: int) -> bool:
        return self._inodes.get(ino).anonymous is not None

    def link(self, ino: int, parent: int, name: bytes) -> Attr:
        self._store.require_right()
        node = self._inodes.get(ino)
        return self._looked_up(self._names.link(node, self._inodes.get(parent), name))

    def unlink(self, parent: int, name: bytes) -> None:
        self._store.require_right()
        self._names.unlink(self._inodes.get(parent), name)

    def rmdir(self, parent: int, name: bytes) -> None:
        self._store.require_right()
        self._names.rmdir(self._inodes.get(parent), name)

    def rename(self, parent: int, old: bytes, new_parent: int, new: bytes, flags: int) -> None:
        self._store.require_right()
        source, target = self._inodes.get(parent), self._inodes.get(new_parent)
        self._renames.rename(source, old, target, new, flags)
        if source is not target:
            self._report_moved((source, old), (target, new))

    def _report_moved(self, *places: tuple[Node, bytes]) -> None:
        """What the kernel keeps of a directory's listing holds the number of the one above."""
        found = [self._names.look(*place) for place in places]
        moved = {each.inode for each in found if each is not None and is_directory(each.inode)}
        if moved:
            self.on_invalidate(ChangeSet(content=moved))

    # Attributes

    def setattr(self, ino: int, change: SetAttr, fh: int | None, caller: Caller) -> Attr:
        """Change attributes; a new size takes effect with the file's next flush."""
        del fh
        self._store.require_right()
        node, is_truncated = self._names.own_file(self._inodes.get(ino)), change.size is not None
        if change.size is not None:
            self._truncate(node, change.size)
            change = replace(change, size=None)
        change = replace(
            change, atime_ns=_clamped(change.atime_ns), mtime_ns=_clamped(change.mtime_ns)
        )
        if change != SetAttr() or not is_truncated:
            self._attributes.set(node, change, self._clock.now_ns(), caller)
        if change.mode is not None:
            self._acls.follow_mode(node, change.mode)
        return self._attributes.get(node)

    def _truncate(self, node: Node, size: int) -> None:
        _require_natural(size)
        if not is_file(node.inode):
            raise FsError(ErrorKind.INVALID)
        session, copy = self._files.edit(node)
        copy.truncate(size)
        self._files.changed(session)
        if not session.writers:
            self._files.flush_now(node)

    def statfs(self) -> StatFs:
        space = self._space()
        files = len(self._inodes)
        return StatFs(
            BLOCK_BYTES, space.total // BLOCK_BYTES, space.free // BLOCK_BYTES,
            max(0, space.available) // BLOCK_BYTES, files + (1 << 32), 1 << 32,
            limits.NAME_BYTES_MAX,
        )  # fmt: skip

    def getxattr(self, ino: int, name: bytes) -> bytes:
        return self._xattrs.get(self._inodes.get(ino), name)

    def listxattr(self, ino: int, caller: Caller) -> list[bytes]:
        """Names; those of `trusted.` are root's."""
        names = self._xattrs.names(self._inodes.get(ino))
        return [name for name in names if caller.uid == 0 or not name.startswith(b"trusted.")]

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
        self._store.require_right()
        node = self._names.own_file(self._inodes.get(ino))
        if self._acls.concerns(name):
            self._acls.set(node, name, value, caller)
        else:
            self._xattrs.set(node, name, value, flags)

    def removexattr(self, ino: int, name: bytes) -> None:
        self._store.require_right()
        node = self._names.own_file(self._inodes.get(ino))
        if self._acls.concerns(name):
            self._acls.remove(node, name)
        else:
            self._xattrs.remove(node, name)

    def _conflict_of(self, node: Node) -> bytes:
        if node.version is None or node.version.head is None:
            raise FsError(ErrorKind.NO_ATTRIBUTE)
        return node.version.head.replica.hex().encode()

    # Files

    def open(self, ino: int, flags: int) -> Opened:
        node = self._inodes.get(ino)
        if is_directory(node.inode):
            raise FsError(ErrorKind.IS_A_DIRECTORY)
        if not is_file(node.inode):
            raise FsError(ErrorKind.NOT_SUPPORTED)
        writes = flags & O_ACCMODE != 0
        if writes:
            self._require_known_size(node)
            node = self._names.own_file(node)
        reads, syncs = flags & O_ACCMODE != O_WRONLY, flags & O_DSYNC != 0
        handle = self._files.open(node, reads=reads, writes=writes, syncs=syncs)
        if flags & O_TRUNC:  # the kernel has checked that the caller may write
            self._truncate(node, 0)
        # The kernel keeps its pages: every change from elsewhere is invalidated exactly.
        return Opened(handle.fh, keep_cache=node.version is None)

    def _require_known_size(self, node: Node) -> None:
        """Let the kernel ask for attributes again before a writer builds on a version.

        It places an append by the size it knows, which may be that of the version before: what is
        written would lie on top of what another computer wrote. At ESTALE it looks the name up
        anew and tries once more.
        """
        if node.is_outdated and not node.is_retried:
            node.is_outdated, node.is_retried = False, True
            raise FsError(ErrorKind.STALE)
        node.is_retried = False

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[Attr, Opened]:
        """Make a file and open it; opens what is there already, unless O_EXCL forbids it."""
        directory = self._inodes.get(parent)
        found = self._names.look(directory, name)
        if found is not None:
            if flags & O_EXCL:
                raise FsError(ErrorKind.EXISTS)
            node = self._names.node_of(found)
            node.is_outdated = False  # the answer holds the attributes
            opened = self.open(node.ino, flags)
            return self._looked_up(node), opened
        node, _ = self._make_file(directory, name, mode, caller)
        handle = self._files.open(node, reads=True, writes=True, syncs=flags & O_DSYNC != 0)
        return self._looked_up(node), Opened(handle.fh, keep_cache=True)

    def tmpfile(self, parent: int, mode: int, flags: int, caller: Caller) -> tuple[Attr, Opened]:
        """A file without a name."""
        directory = self._inodes.get(parent)
        bits, acls = self._acls.inherit(directory, mode & 0o7777, caller.umask, is_dir=False)
        linkable = not flags & O_EXCL
        node = self._names.make_unnamed(directory, bits, caller, linkable=linkable)
        self._acls.store(node, acls)
        handle = self._files.open(node, reads=True, writes=True, syncs=flags & O_DSYNC != 0)
        return self._looked_up(node), Opened(handle.fh, keep_cache=True)

    def read(self, fh: int, offset: int, size: int) -> Buffer:
        """Up to `size` bytes. Raises MissingChunks."""
        return read_pieces(self._pieces(fh, offset, size), self._reader)

    def _pieces(self, fh: int, offset: int, size: int) -> list[Piece]:
        _require_natural(offset, size)
        return self._files.contents(self._files.handle(fh).node).slices(offset, size)

    def chunks_from(self, fh: int, offset: int, size: int) -> list[ChunkId]:
        """Chunks of a range that are not here: what reading ahead has to fetch."""
        return self._reader.absent(chunks_of(self._pieces(fh, offset, size)))

    def write(self, fh: int, offset: int, data: Buffer, *, by_mapping: bool = False) -> int:
        """Put bytes; they become a version with the next flush. Raises MissingChunks."""
        _require_natural(offset)
        handle = self._files.handle(fh)
        self._require_space(len(data), offset + len(data))
        session, copy = self._files.edit(handle.node)
        copy.write(offset, data)
        self._files.changed(session, by_mapping=by_mapping)
        return len(data)

    def _require_space(self, count: int, size: int = 0) -> None:
        """Refuse `count` bytes, of a file of `size`, that could not be saved.

        Raises FsError or StoreError.
        """
        self._store.require_right()
        if self._store.full is not None:
            raise FsError(self._store.full)
        available = self._space().available_for(size)
        available -= count + self._store.chunks.waiting_bytes
        if available < NEARLY_FULL_BYTES:
            available -= self._files.dirty_bytes()
        if available < 0:
            raise FsError(ErrorKind.NO_SPACE)

    def kill_suidgid(self, ino: int, caller: Caller) -> None:
        """Clear set-id bits, as a write by somebody without privileges does."""
        change = SetAttr(kill_suidgid=True)
        self._attributes.set(self._inodes.get(ino), change, self._clock.now_ns(), caller)

    def first_report(self, fh: int, failure: Exception) -> bool:
        """Whether whoever opened a file hears of a failure for the first time."""
        handle = self._files.handle(fh)
        if not handle.writes or handle.told is failure:
            return False
        handle.told = failure
        return True

    def release(self, fh: int) -> None:
        self._files.close(fh)

    def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        """Reserve, punch or zero a range."""
        self._ranges.fallocate(self._writable(fh).node, mode, offset, length)

    def _writable(self, fh: int) -> Handle:
        handle = self._files.handle(fh)
        if not handle.writes:
            raise FsError(ErrorKind.BAD_HANDLE)
        return handle

    def syncs(self, fh: int) -> bool:
        """Whether every change through a handle is to be durable when it returns."""
        return self._files.handle(fh).syncs

    def seek(self, fh: int, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE."""
        return self._ranges.seek(self._files.handle(fh).node, offset, whence)

    def unsaved_source(self, parent: int, name: bytes) -> int | None:
        """The file that a rename would move, if what was written to it is not saved yet."""
        found = self._names.look(self._inodes.get(parent), name)
        node = None if found is None else self._inodes.find(found.inode)
        session = None if node is None else self._files.session(node)
        if node is None or session is None or not (session.is_dirty or session.flush):
            return None
        return node.ino

    def copy_range(
        self, fh_in: int, offset_in: int, fh_out: int, offset_out: int, size: int
    ) -> int:
        """Copy by sharing chunks; returns the number of bytes."""
        _require_natural(offset_in, offset_out, size)
        self._store.require_right()
        source, target = self._files.handle(fh_in).node, self._writable(fh_out).node
        return self._ranges.copy(source, offset_in, target, offset_out, size)

    @property
    def has_absent(self) -> bool:
        """Whether any content at all is missing here."""
        return self._store.chunks.want_count > 0

    # Flushing

    def dirty_bytes(self, ino: int) -> int:
        """Roughly how many bytes of a file are in memory only; none of one that is gone."""
        node = self._inodes.numbered(ino)
        session = None if node is None else self._files.session(node)
        return 0 if session is None or session.copy is None else session.copy.dirty_bytes

    def dirty_inos(self) -> list[tuple[int, float]]:
        """Files with unsaved changes, and for how many seconds they have had them."""
        now = self._clock.monotonic()
        return [
            (session.node.ino, now - session.dirty_since)
            for session in self._files.sessions()
            if session.dirty_since is not None and session.node.anonymous is None
        ]

    def begin_flush(self, ino: int, *, spill: bool = False) -> Flush | None:
        """Work to be executed, in a thread if it is large; None if there is nothing to do.

        Whoever flushes in the background may come when the file is closed and forgotten.
        """
        node = self._inodes.numbered(ino)
        return None if node is None else self._files.begin_flush(node, spill=spill)

    def finish_flush(self, ino: int, flush: Flush) -> None:
        self._files.finish_flush(self._inodes.get(ino), flush)

    def abandon_flush(self, ino: int, flush: Flush) -> None:
        self._files.abandon_flush(self._inodes.get(ino), flush)

    def uncommitted_bytes(self) -> int:
        """Bytes of chunks that wait for the disk."""
        return self._store.chunks.uncommitted_bytes

    def in_use(self) -> list[tuple[ChunkId, int]]:
        """Chunks that open files need, with their heights; the collector spares them."""
        return self._files.in_use()

    # Directories

    def opendir(self, ino: int) -> int:
        node = self._inodes.get(ino)
        if not is_directory(node.inode):
            raise FsError(ErrorKind.NOT_A_DIRECTORY)
        return self._files.open(node, reads=True, writes=False).fh

    def readdir(self, fh: int, cookie: int, *, plus: bool, count: int) -> list[DirectoryEntry]:
        """Up to `count` entries after a cookie; with `plus` each counts a lookup."""
        return self._listings.after(self._files.handle(fh), cookie, plus=plus, count=count)

    def releasedir(self, fh: int) -> None:
        self._files.close(fh)


def _require_natural(*numbers: int) -> None:
    if min(numbers) < 0:
        raise FsError(ErrorKind.INVALID)


def _clamped(time_ns: int | None) -> int | None:
    """A time that can be stored; like local file systems, the nearest to the one asked for."""
    if time_ns is None:
        return None
    return max(-limits.TIME_NS_MAX, min(limits.TIME_NS_MAX, time_ns))
