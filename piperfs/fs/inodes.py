"""Kernel inode numbers and what stands behind each.

A number is derived from the inode id, so it is the same after every remount; the few that cannot
be (a replaced file takes over the number of the file that replaced it) are written down. An entry
lives as long as the kernel remembers the number. An inode whose last name is gone while somebody
still uses it becomes anonymous: it lives on in memory and is never told to anyone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec
from msgspec.structs import replace

from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.ids import InodeId
from piperfs.core.record import Birth, ContentHead
from piperfs.fs.api import ROOT_INO
from piperfs.fs.contents import Contents
from piperfs.store.directory import Found
from piperfs.store.rows import InodeRow, LocalRow
from piperfs.store.store import Store

INO_MASK: Final = (1 << 63) - 1


@dataclass(slots=True)
class Anonymous:
    """An inode that has no name any more, or not yet (O_TMPFILE).

    Its bytes are those of the version it had, or what was written without one.
    """

    row: InodeRow
    local: LocalRow = field(default_factory=LocalRow)
    head: ContentHead | None = None
    contents: Contents | None = None
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    birth: Birth | None = None
    linkable: bool = False


class Node(msgspec.Struct, eq=False, gc=False):
    """One inode the kernel knows.

    There may be millions, and they are in no cycle, so the garbage collector never looks at them.
    """

    ino: int
    inode: InodeId
    lookups: int = 0
    handles: int = 0
    anonymous: Anonymous | None = None
    version: Found | None = None  # a losing version shown as a conflict copy
    is_outdated: bool = False  # it changed elsewhere since the kernel was told its attributes
    is_retried: bool = False  # an open was sent back for that
    is_written: bool = False  # a session holds what may not be saved yet


class Inodes:
    """All inodes that the kernel knows, by number and by id.

    The id leads to the number, and the number to the entry; only entries that have another number
    than their id says are found by the id itself.
    """

    def __init__(self, store: Store, entropy: Callable[[int], bytes]) -> None:
        self._store = store
        self._entropy = entropy
        self._by_ino: dict[int, Node] = {}
        self._elsewhere: dict[InodeId, Node] = {}
        root = Node(ROOT_INO, store.root, lookups=1)
        self._by_ino[ROOT_INO] = self._elsewhere[store.root] = root

    def get(self, ino: int) -> Node:
        """Raises FsError (stale) for a number that was never given out."""
        node = self._by_ino.get(ino)
        if node is None:
            raise FsError(ErrorKind.STALE)
        return node

    def numbered(self, ino: int) -> Node | None:
        """The entry of a number, if the kernel still knows it."""
        return self._by_ino.get(ino)

    def find(self, inode: InodeId) -> Node | None:
        """The entry of an inode, if the kernel knows it."""
        node = self._by_ino.get(_derive(inode))
        if node is not None and node.inode == inode and node.anonymous is None:
            return node
        return self._elsewhere.get(inode)

    def number(self, inode: InodeId) -> int:
        """The kernel number of an inode, whether the kernel knows it or not.

        A listing and a lookup must give the same one, so a number that is taken, by a file that was
        replaced or is open without a name, is decided on here.
        """
        node = self.find(inode)
        if node is not None:
            return node.ino
        if inode == self._store.root:
            return ROOT_INO
        number = self._store.local(inode).ino or _derive(inode)
        if number in self._by_ino:
            number = self.fresh_number()
            self.write_down(inode, number)
        return number

    def open(self, inode: InodeId, version: Found | None = None) -> Node:
        """The entry of an inode, made if there is none; does not count a lookup."""
        node = self.find(inode)
        if node is None:
            node = Node(self.number(inode), inode)
            self._by_ino[node.ino] = node
            self._enter(node)
        node.version = version
        return node

    def _enter(self, node: Node) -> None:
        """Let the entry be found by its inode."""
        if node.ino != _derive(node.inode):
            self._elsewhere[node.inode] = node

    def _leave(self, node: Node) -> None:
        if self._elsewhere.get(node.inode) is node:
            del self._elsewhere[node.inode]

    def fresh_number(self) -> int:
        """A number that nothing uses."""
        number = 0
        while number <= ROOT_INO or number in self._by_ino:
            number = int.from_bytes(self._entropy(8), "big") & INO_MASK
        return number

    def write_down(self, inode: InodeId, number: int) -> None:
        self._store.put_local(inode, replace(self._store.local(inode), ino=number))

    def forget(self, ino: int, count: int) -> Node | None:
        """The kernel dropped `count` references; returns the entry if it is gone."""
        node = self._by_ino.get(ino)
        if node is None or ino == ROOT_INO:
            return None
        node.lookups = max(0, node.lookups - count)
        return self.drop_unused(node)

    def drop_unused(self, node: Node) -> Node | None:
        """Drop the entry if neither the kernel, a handle nor unsaved work refers to it."""
        if node.lookups or node.handles or node.is_written:
            return None
        self._by_ino.pop(node.ino, None)
        self._leave(node)
        return node

    def detach(self, node: Node, anonymous: Anonymous) -> None:
        """The inode's last name is gone: the number now stands for what is in memory."""
        node.anonymous = anonymous
        self._leave(node)

    def attach(self, node: Node, inode: InodeId) -> None:
        """The number now stands for another inode, which has no entry."""
        self._leave(node)
        node.inode, node.anonymous, node.version = inode, None, None
        self._enter(node)

    def named(self) -> list[Node]:
        """Every inode that the kernel knows and that has a name."""
        return [node for node in self._by_ino.values() if node.anonymous is None]

    def anonymous(self) -> Iterator[Anonymous]:
        """What only memory holds."""
        return (node.anonymous for node in self._by_ino.values() if node.anonymous)

    def __len__(self) -> int:
        return len(self._by_ino)


def _derive(inode: InodeId) -> int:
    number = int.from_bytes(inode[1:9], "big") & INO_MASK
    return number if number > ROOT_INO else number + 2
