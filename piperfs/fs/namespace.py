"""Names: looking them up, giving them and taking them away.

Every method changes what it changes in one atomic operation, from local state alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from piperfs.core import limits
from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.ids import (
    DIRECTORY,
    FILE,
    HIDDEN,
    ORPHANS,
    SYMLINK,
    InodeId,
    LinkId,
    is_directory,
    is_file,
    is_symlink,
    make_inode_id,
)
from piperfs.core.record import Birth, ContentBody
from piperfs.fs import conflicts
from piperfs.fs.api import Caller
from piperfs.fs.attributes import Attributes, is_special, make_anonymous
from piperfs.fs.contents import Contents
from piperfs.fs.files import Clock, Files
from piperfs.fs.inodes import Inodes, Node
from piperfs.fs.owners import Owners
from piperfs.store.change import (
    Change,
    DeleteContent,
    KillLink,
    PutContent,
    PutLink,
    SetXattr,
)
from piperfs.store.directory import Found
from piperfs.store.rows import InodeRow, LocalRow, Place
from piperfs.store.store import Store

SETGID: Final = 0o2000
SPECIAL_LETTERS: Final = {0o010000: b"p", 0o140000: b"s", 0o060000: b"b", 0o020000: b"c"}
TYPE_MASK: Final = 0o170000
HIDDEN_NAME: Final = b".piperfs"  # of a directory in the root that is never listed


@dataclass(frozen=True, slots=True)
class Parts:
    """What the namespace works on."""

    store: Store
    inodes: Inodes
    files: Files
    attributes: Attributes
    owners: Owners
    clock: Clock
    entropy: Callable[[int], bytes]


class Namespace:
    """The operations on directories."""

    def __init__(self, parts: Parts) -> None:
        self._store = parts.store
        self._inodes = parts.inodes
        self._files = parts.files
        self._attributes = parts.attributes
        self._owners = parts.owners
        self._clock = parts.clock
        self._entropy = parts.entropy

    # Looking up

    def find(self, parent: Node, name: bytes) -> Found:
        """What a name stands for. Raises FsError (not found)."""
        found = self.look(parent, name)
        if found is None:
            raise FsError(ErrorKind.NOT_FOUND)
        return found

    def look(self, parent: Node, name: bytes) -> Found | None:
        if not is_directory(parent.inode):
            raise FsError(ErrorKind.NOT_A_DIRECTORY)
        if len(name) > limits.NAME_BYTES_MAX:
            raise FsError(ErrorKind.NAME_TOO_LONG)
        if parent.anonymous is not None:
            return None
        return self._store.lookup(parent.inode, name)

    def node_of(self, found: Found) -> Node:
        """The kernel's entry for what was found."""
        return self._inodes.open(found.inode, found if found.copy_of is not None else None)

    def own_file(self, node: Node) -> Node:
        """Make a conflict copy that is about to be changed a file of its own."""
        if node.inode in (HIDDEN, ORPHANS):
            raise FsError(ErrorKind.NOT_PERMITTED)
        if node.version is not None and node.version.copy_of is not None:
            original = node.version.copy_of
            self.apply(conflicts.settle(self._store, original))
            known = self._inodes.find(original)
            if known is not None:
                self._files.settle(known)
            node.version = None
        return node

    def apply(self, changes: list[Change]) -> None:
        if changes:
            self._store.apply_local(changes, self._clock.now_ns())

    def writable_directory(self, parent: Node) -> InodeId:
        if parent.anonymous is not None or parent.inode in (HIDDEN, ORPHANS):
            raise FsError(ErrorKind.NOT_FOUND)
        return parent.inode

    def source_directory(self, parent: Node) -> InodeId:
        """A directory that names may be taken from: nothing can be made among the orphans."""
        return parent.inode if parent.inode == ORPHANS else self.writable_directory(parent)

    def _claim(self, parent: Node, name: bytes) -> InodeId:
        """Check that a new entry may be made; returns the directory's inode id."""
        if self.look(parent, name) is not None:
            raise FsError(ErrorKind.EXISTS)
        self.require_name(parent, name)
        return self.writable_directory(parent)

    def require_name(self, parent: Node, name: bytes) -> None:
        """A kernel asks for proper names only; whoever else does must not make others."""
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            raise FsError(ErrorKind.INVALID)
        if name == HIDDEN_NAME and parent.inode == self._store.root:
            raise FsError(ErrorKind.EXISTS)

    # Making

    def _birth(self, parent: Node, mode: int, caller: Caller, born_ns: int = 0) -> Birth:
        row = self._attributes.row(parent)
        above = self._attributes.ownership(row)
        group = self._owners.group_name(above.gid if above.mode & SETGID else caller.gid)
        owner = self._owners.user_name(caller.uid)
        return Birth(mode, owner, group, self._store.replica, born_ns)

    def _new_id(self, letter: int) -> InodeId:
        return make_inode_id(letter, self._entropy(15))

    def make_file(self, parent: Node, name: bytes, mode: int, caller: Caller) -> Node:
        """An empty regular file; `mode` has its umask applied already."""
        directory = self._claim(parent, name)
        now = self._store.tick(self._clock.now_ns())
        birth = self._birth(parent, mode & 0o7777, caller, now)
        body = ContentBody(alive=True, size=0, mtime_ns=now, birth=birth)
        return self._bring_to_life(self._new_id(FILE), directory, name, body)

    def _bring_to_life(
        self, inode: InodeId, directory: InodeId, name: bytes, body: ContentBody
    ) -> Node:
        link = LinkId(self._entropy(16))
        changes = (PutContent(inode, body), PutLink(link, directory, name, inode))
        self._store.apply_local(changes, self._clock.now_ns(), body.birth.born_ns)
        return self._inodes.open(inode)

    def make_symlink(self, parent: Node, name: bytes, target: bytes, caller: Caller) -> Node:
        if len(target) > limits.SYMLINK_BYTES_MAX:
            raise FsError(ErrorKind.NAME_TOO_LONG)
        if not target:
            raise FsError(ErrorKind.NOT_FOUND)
        if b"\0" in target:
            raise FsError(ErrorKind.INVALID)
        directory = self._claim(parent, name)
        now = self._store.tick(self._clock.now_ns())
        birth = self._birth(parent, 0o777, caller, now)
        body = ContentBody(alive=True, size=0, mtime_ns=now, birth=birth, target=target)
        return self._bring_to_life(self._new_id(SYMLINK), directory, name, body)

    def make_directory(self, parent: Node, name: bytes, mode: int, caller: Caller) -> Node:
        directory = self._claim(parent, name)
        if self._attributes.row(parent).subdirs >= limits.LINKS_PER_INODE_MAX:
            raise FsError(ErrorKind.TOO_MANY_LINKS)
        parent_mode = self._attributes.ownership(self._attributes.row(parent))[2]
        birth = self._birth(parent, (mode & 0o1777) | (parent_mode & SETGID), caller)
        inode = self._new_id(DIRECTORY)
        self.apply([PutLink(LinkId(inode), directory, name, inode, birth)])
        return self._inodes.open(inode)

    def make_special(self, parent: Node, name: bytes, mode: int, rdev: int, caller: Caller) -> Node:
        """A fifo, socket or device node, which stays on this computer."""
        letter = SPECIAL_LETTERS.get(mode & TYPE_MASK)
        if letter is None or not 0 <= rdev < 1 << 32:
            raise FsError(ErrorKind.INVALID)
        directory = self._claim(parent, name)
        birth = self._birth(parent, mode & 0o7777, caller)
        inode = InodeId(letter + self._entropy(15))
        now = self._store.tick(self._clock.now_ns())
        place = Place(LinkId(self._entropy(16)), directory, name, now, self._store.replica)
        row = InodeRow(
            birth.mode, birth.owner, birth.group, self._store.replica,
            mtime_ns=now, ctime_ns=now, links=(place,), rdev=rdev, born_ns=now,
        )  # fmt: skip
        self._store.put_special(inode, row)
        return self._inodes.open(inode)

    def make_unnamed(self, parent: Node, mode: int, caller: Caller, *, linkable: bool) -> Node:
        """A file for O_TMPFILE: it exists in memory until it is linked."""
        self.writable_directory(parent)
        birth = self._birth(parent, mode & 0o7777, caller)
        now = self._store.tick(self._clock.now_ns())
        row = InodeRow(
            birth.mode, birth.owner, birth.group, self._store.replica,
            mtime_ns=now, ctime_ns=now, born_ns=now,
        )  # fmt: skip
        node = self._inodes.open(self._new_id(FILE))
        anonymous = make_anonymous(row, now, LocalRow())
        anonymous.birth, anonymous.linkable, anonymous.contents = birth, linkable, Contents([])
        self._inodes.detach(node, anonymous)
        return node

    def link(self, node: Node, parent: Node, name: bytes) -> Node:
        """Another name for a file or symlink."""
        if is_directory(node.inode):
            raise FsError(ErrorKind.NOT_PERMITTED)
        directory = self._claim(parent, name)
        if node.anonymous is not None:
            return self._link_unnamed(node, directory, name)
        row = self._attributes.row(self.own_file(node))
        if not row.links:
            raise FsError(ErrorKind.NOT_FOUND)
        if len(row.links) >= limits.LINKS_PER_INODE_MAX:
            raise FsError(ErrorKind.TOO_MANY_LINKS)
        link = LinkId(self._entropy(16))
        if is_special(node.inode):
            now = self._store.tick(self._clock.now_ns())
            place = Place(link, directory, name, now, self._store.replica)
            self._store.move_special(node.inode, (*row.links, place), self._clock.now_ns())
        else:
            self.apply([PutLink(link, directory, name, node.inode)])
        return node

    def _link_unnamed(self, node: Node, directory: InodeId, name: bytes) -> Node:
        """Give a file of O_TMPFILE its first name, and all that it holds, at once."""
        anonymous = node.anonymous
        if anonymous is None or not anonymous.linkable or anonymous.birth is None:
            raise FsError(ErrorKind.NOT_FOUND)
        self._files.save_nameless(node)
        row, contents = anonymous.row, anonymous.contents
        extents = [] if contents is None else contents.extents()
        birth = Birth(row.mode, row.owner, row.group, self._store.replica, row.born_ns)
        inode = node.inode
        changes: list[Change] = [
            self._files.put_extents(node, extents, row.mtime_ns, None, birth),
            PutLink(LinkId(self._entropy(16)), directory, name, inode),
        ]
        changes += [SetXattr(inode, key, value) for key, value in anonymous.xattrs.items()]
        self.apply(changes)
        self._store.put_local(inode, anonymous.local)
        self._inodes.attach(node, inode)
        self._files.repin(node)
        return node

    # Removing

    def unlink(self, parent: Node, name: bytes) -> None:
        found = self.find(parent, name)
        if is_directory(found.inode):
            raise FsError(ErrorKind.IS_A_DIRECTORY)
        self.source_directory(parent)
        if found.copy_of is not None:
            self._discard(found)
            return
        changes = conflicts.fix_losing_links(self._store, parent.inode, name)
        changes += self.removal(found)
        self.apply(changes)

    def _discard(self, found: Found) -> None:
        node = self._inodes.find(found.inode)
        if node is not None:
            self.make_anonymous(node)
        assert found.copy_of is not None
        self.apply(conflicts.discard(self._store, found))
        original = self._inodes.find(found.copy_of)
        if original is not None:
            self._files.settle(original)

    def removal(self, found: Found) -> list[Change]:
        """The changes that take one name of a file away; the last one takes the file along."""
        row = self._store.inode(found.inode)
        assert row is not None
        assert found.place is not None
        if is_special(found.inode):
            self._remove_special(found.inode, row, found.place.link)
            return []
        node = self._inodes.find(found.inode)
        pin = self._files.pin_of(node)
        if len(row.links) > 1:
            return [*self.keep_copies(found), KillLink(found.place.link, pin)]
        changes = conflicts.before_superseding(self._store, found.inode, pin)
        if node is not None:
            self.make_anonymous(node)
        return [*changes, DeleteContent(found.inode, pin)]

    def keep_copies(self, found: Found) -> list[Change]:
        """Conflict copies hang beside the first link; when that goes they become files."""
        row = self._store.inode(found.inode)
        if row is None or found.place is None or row.links[0].link != found.place.link:
            return []
        return conflicts.settle(self._store, found.inode)

    def make_anonymous(self, node: Node) -> None:
        row, local = self._attributes.row(node), self._attributes.local(node)
        anonymous = make_anonymous(row, self._store.tick(self._clock.now_ns()), local)
        anonymous.xattrs = dict(row.xattrs or self._store.xattrs(node.inode))
        if is_file(node.inode):
            anonymous.head = self._files.version(node)
        elif is_symlink(node.inode):
            anonymous.target = self._files.version(node).body.target
        self._inodes.detach(node, anonymous)
        self._files.make_anonymous(node)

    def _remove_special(self, inode: InodeId, row: InodeRow, link: LinkId) -> None:
        left = tuple(place for place in row.links if place.link != link)
        node = self._inodes.find(inode)
        if not left and node is not None:
            self.make_anonymous(node)
        self._store.move_special(inode, left, self._clock.now_ns())

    def rmdir(self, parent: Node, name: bytes) -> None:
        found = self.find(parent, name)
        if not is_directory(found.inode):
            raise FsError(ErrorKind.NOT_A_DIRECTORY)
        self.source_directory(parent)
        changes = self.directory_removal(found.inode)
        self.apply([*conflicts.fix_losing_links(self._store, parent.inode, name), *changes])

    def directory_removal(self, inode: InodeId) -> list[Change]:
        if not self._store.is_empty(inode):
            raise FsError(ErrorKind.NOT_EMPTY)
        node, members = self._inodes.find(inode), self._store.members(inode)
        if node is not None:
            self.make_anonymous(node)
        return [KillLink(LinkId(member)) for member in members]
