"""POSIX access control lists: stored as extended attributes, tied to the permission bits.

The kernel checks them; what is left to a file system is that a list and the bits of the mode
never contradict each other, and that new files inherit the default list of their directory
(acl(5), and the `posix_acl` code of Linux for the arithmetic).
"""

import struct
from typing import Final, NamedTuple

from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.ids import is_directory
from piperfs.fs.api import Caller, SetAttr
from piperfs.fs.attributes import Attributes
from piperfs.fs.files import Clock
from piperfs.fs.inodes import Node
from piperfs.fs.xattrs import Xattrs

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"
VERSION: Final = 2
_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NOBODY: Final = 0xFFFFFFFF


class Entry(NamedTuple):
    """One line of a list."""

    tag: int
    permissions: int
    id: int


def decode(raw: bytes) -> list[Entry]:
    """Raises FsError (invalid) for what is no list."""
    body = len(raw) - _HEADER.size
    if body < 0 or body % _ENTRY.size or _HEADER.unpack_from(raw)[0] != VERSION:
        raise FsError(ErrorKind.INVALID)
    entries = [Entry(*fields) for fields in _ENTRY.iter_unpack(raw[_HEADER.size :])]
    tags = [entry.tag for entry in entries]
    if entries and any(tags.count(tag) != 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER)):
        raise FsError(ErrorKind.INVALID)
    if {USER, GROUP} & set(tags) and tags.count(MASK) != 1:
        raise FsError(ErrorKind.INVALID)
    return entries


def encode(entries: list[Entry]) -> bytes:
    return _HEADER.pack(VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def mode_of(entries: list[Entry]) -> int:
    """The permission bits that a list stands for: the mask, if any, is the group's."""
    bits = {entry.tag: entry.permissions & 7 for entry in entries}
    group = bits.get(MASK, bits[GROUP_OBJ])
    return bits[USER_OBJ] << 6 | group << 3 | bits[OTHER]


def with_mode(entries: list[Entry], mode: int) -> list[Entry]:
    """The list after a chmod."""
    has_mask = any(entry.tag == MASK for entry in entries)
    group_tag = MASK if has_mask else GROUP_OBJ
    shifts = {USER_OBJ: 6, group_tag: 3, OTHER: 0}
    return [
        Entry(e.tag, mode >> shifts[e.tag] & 7, e.id) if e.tag in shifts else e for e in entries
    ]


def restrict(entries: list[Entry], mode: int) -> list[Entry]:
    """A default list as the access list of a new file made with `mode`."""
    return with_mode(entries, mode_of(entries) & mode)


def is_minimal(entries: list[Entry]) -> bool:
    """Whether the list says no more than permission bits do, or nothing at all."""
    return len(entries) in (0, 3)


class Acls:
    """Keeps lists and modes together."""

    def __init__(self, xattrs: Xattrs, attributes: Attributes, clock: Clock) -> None:
        self._xattrs = xattrs
        self._attributes = attributes
        self._clock = clock

    def concerns(self, name: bytes) -> bool:
        return name in (ACCESS, DEFAULT)

    def inherit(
        self, parent: Node, mode: int, umask: int, *, is_dir: bool
    ) -> tuple[int, dict[bytes, bytes]]:
        """Permission bits and lists of a new file; the umask counts without a default list."""
        raw = self._find(parent, DEFAULT)
        if raw is None:
            return mode & ~umask, {}
        default = decode(raw)
        access = restrict(default, mode)
        lists = {} if is_minimal(access) else {ACCESS: encode(access)}
        if is_dir:
            lists[DEFAULT] = raw
        return (mode & ~0o777) | (mode_of(access) & 0o777), lists

    def _find(self, node: Node, name: bytes) -> bytes | None:
        try:
            return self._xattrs.get(node, name)
        except FsError:
            return None

    def store(self, node: Node, lists: dict[bytes, bytes]) -> None:
        for name, raw in lists.items():
            self._xattrs.set(node, name, raw, 0)

    def set(self, node: Node, name: bytes, raw: bytes, caller: Caller) -> None:
        """Set a list, and the mode that goes with an access list."""
        entries = decode(raw)
        if name == DEFAULT:
            if not is_directory(node.inode):
                raise FsError(ErrorKind.ACCESS)
            self._put_or_remove(node, name, raw if entries else b"")
            return
        changed = self._put_or_remove(node, name, b"" if is_minimal(entries) else raw)
        if entries:
            row = self._attributes.row(node)
            keeps = self._attributes.may_keep_group(row, caller)
            kept = row.mode & (0o7000 if keeps else 0o5000)
            mode = kept | mode_of(entries)
            if changed or mode != row.mode:
                self._attributes.set(node, SetAttr(mode=mode), self._clock.now_ns())

    def remove(self, node: Node, name: bytes) -> None:
        """Remove a list; one that is not there is no error."""
        self._put_or_remove(node, name, b"")

    def _put_or_remove(self, node: Node, name: bytes, raw: bytes) -> bool:
        """Whether there is anything else than before."""
        if raw:
            self._xattrs.set(node, name, raw, 0)
        elif self._find(node, name) is not None:
            self._xattrs.remove(node, name)
        else:
            return False
        return True

    def follow_mode(self, node: Node, mode: int) -> None:
        """A chmod changes the list too."""
        raw = self._find(node, ACCESS)
        if raw is not None:
            changed = encode(with_mode(decode(raw), mode))
            if changed != raw:
                self._xattrs.set(node, ACCESS, changed, 0)
