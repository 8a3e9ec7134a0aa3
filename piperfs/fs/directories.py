"""Listing directories: stable cookies, and attributes on the way for those who ask."""

from piperfs.core.errors import FsError
from piperfs.core.ids import HIDDEN, ORPHANS, InodeId
from piperfs.fs.api import ROOT_INO, DirectoryEntry
from piperfs.fs.attributes import Attributes, type_bits
from piperfs.fs.files import Handle
from piperfs.fs.inodes import Inodes, Node
from piperfs.fs.namespace import Namespace
from piperfs.store.store import Store

DOT, DOT_DOT = 1, 2
COOKIE_MAX = (1 << 63) - 1


class Listings:
    """Reads directories."""

    def __init__(
        self, store: Store, inodes: Inodes, names: Namespace, attributes: Attributes
    ) -> None:
        self._store = store
        self._inodes = inodes
        self._names = names
        self._attributes = attributes

    def after(self, handle: Handle, cookie: int, *, plus: bool, count: int) -> list[DirectoryEntry]:
        """Up to `count` entries beyond a cookie, `.` and `..` first."""
        node = handle.node
        if node.anonymous is not None or not 0 <= cookie <= COOKIE_MAX:
            return []
        entries = [] if cookie >= DOT_DOT else self._dots(node)[cookie:]
        if node.inode == HIDDEN:
            here = [] if cookie > DOT_DOT else [self._orphans(plus=plus)]
            return [*entries, *here]
        if handle.copies is None or cookie < DOT_DOT:  # it begins, perhaps anew
            handle.copies = self._store.list_copies(node.inode)
        listed = self._store.list_directory(node.inode, cookie, count, handle.copies)
        for position, name, inode in listed:
            if plus:
                entries += self._with_attributes(node, name, position)
            else:
                number = self._inodes.number(inode)
                entries.append(DirectoryEntry(name, number, type_bits(inode), position))
        return entries

    def _orphans(self, *, plus: bool) -> DirectoryEntry:
        child = self._inodes.open(ORPHANS)
        child.lookups += plus
        attr = self._attributes.get(child)
        return DirectoryEntry(b"orphans", child.ino, attr.mode, DOT_DOT + 1, attr if plus else None)

    def _dots(self, node: Node) -> list[DirectoryEntry]:
        mode = type_bits(node.inode)
        parent = self._parent_number(node.inode)
        here = DirectoryEntry(b".", node.ino, mode, DOT)
        return [here, DirectoryEntry(b"..", parent, mode, DOT_DOT)]

    def _parent_number(self, inode: InodeId) -> int:
        row = self._store.inode(inode)
        return self._inodes.number(row.links[0].parent) if row and row.links else ROOT_INO

    def _with_attributes(self, node: Node, name: bytes, cookie: int) -> list[DirectoryEntry]:
        try:
            child = self._names.node_of(self._names.find(node, name))
            attr = self._attributes.get(child)
        except FsError:
            return []  # gone meanwhile
        child.lookups += 1
        return [DirectoryEntry(name, child.ino, attr.mode, cookie, attr)]
