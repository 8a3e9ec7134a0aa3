"""Extended attributes: stored by name, merged one by one, with the limits that Linux has.

`user.*` and `trusted.*` travel. `security.*` set here is kept and shown here; what a peer says
about security is kept as data and not shown. Names under `user.piperfs.` are answered, not stored.
"""

from collections.abc import Callable
from typing import Final

from piperfs.core import limits
from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.ids import is_directory, is_file
from piperfs.fs.files import Clock
from piperfs.fs.inodes import Node
from piperfs.store.change import SetXattr
from piperfs.store.store import Store

CREATE: Final = 1
REPLACE: Final = 2
VIRTUAL: Final = b"user.piperfs."
STORED: Final = (b"user.", b"trusted.", b"security.", b"system.posix_acl_")


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
        original = node.version.copy_of if node.version is not None else None
        return self._store.xattrs(original or node.inode)

    def _is_shown(self, node: Node, name: bytes) -> bool:
        if not name.startswith(b"security.") or node.anonymous is not None:
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
        if node.anonymous is None:
            self._store.apply_local([SetXattr(node.inode, name, value)], self._clock.now_ns())
        elif value is None:
            del node.anonymous.xattrs[name]
        else:
            node.anonymous.xattrs[name] = value

    def _check(self, node: Node, name: bytes) -> None:
        if not name.startswith(STORED):
            raise FsError(ErrorKind.NOT_SUPPORTED)
        if name.startswith(VIRTUAL):
            raise FsError(ErrorKind.NOT_PERMITTED)
        if name.startswith(b"user.") and not (is_file(node.inode) or is_directory(node.inode)):
            raise FsError(ErrorKind.NOT_PERMITTED)
        if node.inode[0] not in b"dfl":
            raise FsError(ErrorKind.NOT_SUPPORTED)
        if len(name) > limits.XATTR_NAME_BYTES_MAX:
            raise FsError(ErrorKind.RANGE)
