"""Moving names. Every move is one atomic operation.

A rename over an existing file makes the moved file a new version of the file that was there,
since that is how programs save; so an edit made on another computer at the same time meets it as
a version, not as a stranger. The kernel's number of the moved file stands for that file from then
on, and the replaced bytes live on, nameless, for whoever has them open.
"""

from msgspec.structs import replace

from piperfs.core import resolve
from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.ids import FILE, SYMLINK, InodeId, LinkId, is_directory
from piperfs.core.names import copy_link
from piperfs.core.record import PENDING, Birth
from piperfs.fs import conflicts
from piperfs.fs.api import RENAME_EXCHANGE, RENAME_NOREPLACE
from piperfs.fs.attributes import is_special
from piperfs.fs.inodes import Node
from piperfs.fs.namespace import Namespace, Parts
from piperfs.store.change import (
    Change,
    DeleteContent,
    MoveLink,
    PutContent,
    PutLink,
    SetAttributes,
    SetXattr,
)
from piperfs.store.directory import Found
from piperfs.store.rows import InodeRow, Place


class Renames:
    """rename(2) in all its forms."""

    def __init__(self, parts: Parts, names: Namespace) -> None:
        self._names = names
        self._store = parts.store
        self._inodes = parts.inodes
        self._files = parts.files
        self._attributes = parts.attributes
        self._owners = parts.owners
        self._clock = parts.clock

    def rename(self, source: Node, old: bytes, target: Node, new: bytes, flags: int) -> None:
        """Move a name, replacing what the new one stood for. Raises FsError, MissingChunks."""
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == 3:
            raise FsError(ErrorKind.INVALID)
        self._names.require_name(target, new)
        moved = self._names.find(source, old)
        there = self._names.look(target, new)
        directory = self._names.writable_directory(target)
        if flags & RENAME_EXCHANGE:
            self._names.writable_directory(source)
        else:
            self._names.source_directory(source)
        self._check_move(moved, there, directory, flags)
        if moved.copy_of is not None:
            moved = self._named(self._names.own_file(self._names.node_of(moved)), source, old)
        if there is not None and there.copy_of is not None:
            there = self._named(self._names.own_file(self._names.node_of(there)), target, new)
        if flags & RENAME_EXCHANGE:
            assert there is not None
            self._exchange(moved, source.inode, old, there, directory, new)
        elif there is None or there.inode != moved.inode:
            self._move(moved, source.inode, old, there, directory, new)

    def _named(self, node: Node, parent: Node, name: bytes) -> Found:
        found = self._names.find(parent, name)
        assert found.inode == node.inode, "a copy keeps its id and name when it becomes a file"
        return found

    def _check_move(
        self, moved: Found, there: Found | None, directory: InodeId, flags: int
    ) -> None:
        if there is not None and flags & RENAME_NOREPLACE:
            raise FsError(ErrorKind.EXISTS)
        if there is None and flags & RENAME_EXCHANGE:
            raise FsError(ErrorKind.NOT_FOUND)
        if is_directory(moved.inode) and self._is_below(directory, moved.inode):
            raise FsError(ErrorKind.INVALID)
        if there is None:
            return
        if flags & RENAME_EXCHANGE:
            return
        if is_directory(there.inode) and not is_directory(moved.inode):
            raise FsError(ErrorKind.IS_A_DIRECTORY)
        if is_directory(moved.inode) and not is_directory(there.inode):
            raise FsError(ErrorKind.NOT_A_DIRECTORY)
        other = is_directory(there.inode) and there.inode != moved.inode
        if other and not self._store.is_empty(there.inode):
            raise FsError(ErrorKind.NOT_EMPTY)

    def _is_below(self, directory: InodeId, ancestor: InodeId) -> bool:
        inode = directory
        while inode != self._store.root:
            if inode == ancestor or ancestor in self._store.members(inode):
                return True
            row = self._store.inode(inode)
            if row is None or not row.links:
                return False
            inode = row.links[0].parent
        return False

    def _exchange(
        self, moved: Found, source: InodeId, old: bytes, there: Found, target: InodeId, new: bytes
    ) -> None:
        if is_directory(there.inode) and self._is_below(source, there.inode):
            raise FsError(ErrorKind.INVALID)
        self._names.apply([*self._moves(moved, target, new), *self._moves(there, source, old)])

    def _moves(self, found: Found, directory: InodeId, name: bytes) -> list[Change]:
        """The changes that put a link elsewhere. Special nodes move at once."""
        assert found.place is not None
        if not is_special(found.inode) and not found.place.replica:  # nobody put it here
            return [self._first_link(found.inode, directory, name)]
        if is_directory(found.inode):
            return [
                MoveLink(LinkId(member), directory, name)
                for member in self._store.members(found.inode)
            ]
        if not is_special(found.inode):
            return [MoveLink(found.place.link, directory, name)]
        row = self._store.inode(found.inode)
        assert row is not None
        now = self._store.tick(self._clock.now_ns())
        place = Place(found.place.link, directory, name, now, self._store.replica)
        links = tuple(place if p.link == place.link else p for p in row.links)
        self._store.move_special(found.inode, links, self._clock.now_ns())
        return []

    def _first_link(self, inode: InodeId, directory: InodeId, name: bytes) -> Change:
        """Name what no record names, with the link that every replica would choose."""
        if not is_directory(inode):
            return PutLink(copy_link(inode), directory, name, inode)
        row = self._store.inode(inode)
        assert row is not None
        birth = Birth(row.mode, row.owner, row.group, self._store.replica)
        return PutLink(LinkId(inode), directory, name, inode, birth)

    def _move(
        self,
        moved: Found,
        source: InodeId,
        old: bytes,
        there: Found | None,
        directory: InodeId,
        new: bytes,
    ) -> None:
        if there is not None and self._can_become_version(moved, there):
            self._replace_content(moved, source, old, there)
            return
        changes = conflicts.fix_losing_links(self._store, source, old)
        if there is not None:
            removal = (
                self._names.directory_removal(there.inode)
                if is_directory(there.inode)
                else self._names.removal(there)
            )
            changes += removal
        self._names.apply(
            [*changes, *self._names.keep_copies(moved), *self._moves(moved, directory, new)]
        )

    def _can_become_version(self, moved: Found, there: Found) -> bool:
        """Whether the moved file's content can go on as a version of the file it replaces."""
        if moved.inode[0] != there.inode[0] or moved.inode[0] not in (FILE, SYMLINK):
            return False
        rows = (self._store.inode(moved.inode), self._store.inode(there.inode))
        return all(row is not None and len(row.links) == 1 for row in rows)

    def _replace_content(self, moved: Found, source: InodeId, old: bytes, there: Found) -> None:
        """Rename a file over another: new content for that one, deletion of this one."""
        mover = self._names.node_of(moved)
        self._files.flush_now(mover)
        atime_ns = self._attributes.get(mover).atime_ns
        content = self._files.version(mover)
        replaced = self._inodes.find(there.inode)
        there_pin, moved_pin = self._files.pin_of(replaced), self._files.pin_of(mover)
        seen = there_pin.heads if there_pin else self._store.contents(there.inode)
        before = resolve.current_content(seen)
        body = replace(
            content.body,
            mtime_ns=self._attributes.row(mover).mtime_ns,
            birth=before.body.birth,
            base=resolve.digest_of(before),
            directories=(),
            links_seen={},
        )
        changes = conflicts.fix_losing_links(self._store, source, old)
        changes += conflicts.before_superseding(self._store, moved.inode, moved_pin)
        changes += conflicts.before_superseding(self._store, there.inode, there_pin)
        adjust = self._adjustments(moved.inode, there.inode)
        was_published = content.operation != PENDING
        if replaced is not None:
            self._names.make_anonymous(replaced)
        self._files.release_pin(mover)
        changes.append(PutContent(there.inode, body, content.refs, there_pin, replaces=True))
        changes += [*adjust, DeleteContent(moved.inode, moved_pin)]
        self._names.apply(changes)
        self._take_over(mover, moved.inode, there.inode, atime_ns, was_published=was_published)

    def _take_over(
        self, mover: Node, gone: InodeId, inode: InodeId, atime_ns: int, *, was_published: bool
    ) -> None:
        """The kernel's number of the moved file stands for the replaced file's inode now."""
        if was_published:
            self._inodes.write_down(gone, self._inodes.fresh_number())
        self._inodes.write_down(inode, mover.ino)
        kept = self._store.local(inode)
        self._store.put_local(inode, replace(kept, atime_ns=atime_ns, ctime_ns=0))
        self._inodes.attach(mover, inode)
        self._files.repin(mover)

    def _adjustments(self, source: InodeId, target: InodeId) -> list[Change]:
        """What makes the target's attributes and extended attributes those of the source."""
        new, old = self._store.inode(source), self._store.inode(target)
        assert new is not None
        assert old is not None
        changes: list[Change] = []
        owner = new.owner if self._is_own(new) else self._owners.user_name(self._owners.uid)
        group = new.group if self._is_own(new) else self._owners.group_name(self._owners.gid)
        mode = None if new.mode == old.mode else new.mode
        if (owner, group) == (old.owner, old.group) and self._is_own(new) == self._is_own(old):
            if mode is not None:
                changes.append(SetAttributes(target, mode))
        else:
            changes.append(SetAttributes(target, mode, owner, group))
        wanted, present = self._store.xattrs(source), self._store.xattrs(target)
        changes += [
            SetXattr(target, name, value)
            for name, value in wanted.items()
            if present.get(name) != value
        ]
        changes += [SetXattr(target, name, None) for name in present if name not in wanted]
        return changes

    def _is_own(self, row: InodeRow) -> bool:
        return row.owner_set_by in (self._store.replica, b"")
