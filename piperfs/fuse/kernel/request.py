"""One request of the kernel, decoded as far as every request is alike.

A request is a window into the buffer that the device was read into, which the next read
overwrites. Whoever answers later keeps a `detached` copy. The kernel is trusted, since nobody else
can write to the descriptor; a request that is too short raises `struct.error` all the same.
"""

from struct import Struct

from piperfs.fs.api import Caller
from piperfs.fuse.kernel.layout import IN_HEADER

BODY = IN_HEADER.size


class Request:
    """Header fields by name, and access to the structure and the names behind them."""

    __slots__ = ("_frame", "gid", "ino", "length", "opcode", "pid", "uid", "unique")

    def __init__(self, frame: memoryview) -> None:
        self._frame = frame
        (
            self.length, self.opcode, self.unique, self.ino,
            self.uid, self.gid, self.pid, _, _,
        ) = IN_HEADER.unpack_from(frame)  # fmt: skip

    def fields(self, layout: Struct) -> tuple[int, ...]:
        """The values of the structure that the request begins with."""
        return layout.unpack_from(self._frame, BODY)

    def rest(self, layout: Struct) -> memoryview:
        """What follows the structure: data to write, or the value of an attribute."""
        return self._frame[BODY + layout.size : self.length]

    def name(self, layout: Struct | None = None) -> bytes:
        """The one name that follows the structure."""
        start = BODY + (layout.size if layout else 0)
        return bytes(self._frame[start : self.length - 1])

    def names(self, layout: Struct | None = None) -> tuple[bytes, bytes]:
        """The two names, or the name and the text, that follow the structure."""
        first, _, second = self.name(layout).partition(b"\0")
        return first, second

    def caller(self, umask: int = 0) -> Caller:
        return Caller(self.uid, self.gid, self.pid, umask)

    def detached(self) -> "Request":
        """A copy that stays valid while the device is read again."""
        return Request(memoryview(bytes(self._frame[: self.length])))
