"""Extended attributes: stored by name, merged one by one, with the limits that Linux has.

`user.*` travels. `security.*` and `trusted.*` set here are kept and shown here; what a peer says
with them is kept as data and not shown, since the kernel and overlayfs would act on it. Names
under `user.piperfs.` are answered, not stored.
"""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from piperfs.core import limits
from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.ids import is_directory, is_file
from piperfs.fs.attributes import is_special
from piperfs.fs.files import Clock
from piperfs.fs.inodes import Node
from piperfs.store.change import SetXattr
from piperfs.store.store import Store

CREATE: Final = 1
REPLACE: Final = 2
VIRTUAL: Final = b"user.piperfs."
PREFIXES: Final = (b"user.", b"trusted.", b"security.")
OWN_WORD_ONLY: Final = (b"security.", b"trusted.")  # of no other replica
LISTS: Final = (b"system.posix_acl_access", b"system.posix_acl_default")


class Xattrs:
    """The extended attributes of inodes the kernel knows."""

    def __init__(
        self, store: Store, clock: Clock, virtual: dict[bytes, Callable[[Node], bytes]]
    ) -> None:
        self._store = store
        self._clock = clock
        self._virtual = virtual

    def get(self, node: Node, name: bytes) -> bytes:
        """Raises FsError (no attribute)."""
        _check_name(name)
        if name.startswith(VIRTUAL):
            answer = self._virtual.get(name[len(VIRTUAL) :])
            if answer is None:
                raise FsError(ErrorKind.NO_ATTRIBUTE)
            return answer(node)
        value = self._all(node).get(name)
        if value is None or not self._is_shown(node, name):
            raise FsError(ErrorKind.NO_ATTRIBUTE)
        return value

    def names(self, node: Node) -> list[bytes]:
        """Names in a stable order; virtual ones are not listed, so that copies leave them out."""
        return sorted(name for name in self._all(node) if self._is_shown(node, name))

    def _all(self, node: Node) -> dict[bytes, bytes]:
        if node.anonymous is not None:
            return node.anonymous.xattrs
        if is_special(node.inode):
            row = self._store.inode(node.inode)
            return {} if row is None else row.xattrs
        original = node.version.copy_of if node.version is not None else None
        return self._store.xattrs(original or node.inode)

    def _is_shown(self, node: Node, name: bytes) -> bool:
        is_own = node.anonymous is not None or is_special(node.inode)
        if is_own or not name.startswith(OWN_WORD_ONLY):
            return True
        return self._store.xattr_author(node.inode, name) == self._store.replica

    def set(self, node: Node, name: bytes, value: bytes, flags: int) -> None:
        self._check(node, name)
        if len(value) > limits.XATTR_VALUE_BYTES_MAX:
            raise FsError(ErrorKind.NO_SPACE)
        present = self._all(node)
        if name in present and flags & CREATE:
            raise FsError(ErrorKind.EXISTS)
        if name not in present and flags & REPLACE:
            raise FsError(ErrorKind.NO_ATTRIBUTE)
        if name not in present and len(present) >= limits.XATTRS_PER_INODE_MAX:
            raise FsError(ErrorKind.NO_SPACE)
        self._put(node, name, value)

    def remove(self, node: Node, name: bytes) -> None:
        """Raises FsError (no attribute)."""
        self._check(node, name)
        if name not in self._all(node):
            raise FsError(ErrorKind.NO_ATTRIBUTE)
        self._put(node, name, None)

    def _put(self, node: Node, name: bytes, value: bytes | None) -> None:
        now = self._clock.now_ns()
        if node.anonymous is None and not is_special(node.inode):
            self._store.apply_local([SetXattr(node.inode, name, value)], now)
            return
        values = {**self._all(node)}
        if value is None:
            del values[name]
        else:
            values[name] = value
        stamp = self._store.tick(now)
        if (anonymous := node.anonymous) is not None:
            anonymous.xattrs = values
            anonymous.row = replace(anonymous.row, ctime_ns=stamp)
        elif (row := self._store.inode(node.inode)) is not None:
            self._store.change_special(node.inode, replace(row, xattrs=values, ctime_ns=stamp))

    def _check(self, node: Node, name: bytes) -> None:
        _check_name(name)
        if name.startswith(VIRTUAL):
            raise FsError(ErrorKind.NOT_PERMITTED)
        if name.startswith(b"user.") and not (is_file(node.inode) or is_directory(node.inode)):
            raise FsError(ErrorKind.NOT_PERMITTED)
        if len(name) > limits.XATTR_NAME_BYTES_MAX:
            raise FsError(ErrorKind.RANGE)


def _check_name(name: bytes) -> None:
    if name in PREFIXES:
        raise FsError(ErrorKind.INVALID)
    if not name.startswith(PREFIXES) and name not in LISTS:
        raise FsError(ErrorKind.NOT_SUPPORTED)
