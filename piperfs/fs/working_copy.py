"""The contents of a file that somebody writes to.

A write replaces pieces and copies nothing but the new bytes. While a flush works on a snapshot in
a thread, the buffers it reads are frozen and changes are journalled; when its chunks are there,
they take the place of the pieces, and the journal is replayed on top.
"""

from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.ids import ChunkId
from piperfs.core.limits import FILE_BYTES_MAX
from piperfs.core.manifest import Extent
from piperfs.fs.api import Buffer
from piperfs.fs.contents import Contents, Memory, Piece


class Snapshot(NamedTuple):
    """What a flush works on."""

    pieces: list[Piece]
    changed: range  # indices of the pieces that may have been written to
    tail: ChunkId | None  # the last chunk of the version before, which ended where the file did


class WorkingCopy(Contents):
    """A file's bytes while somebody writes to it."""

    def __init__(self, contents: Contents) -> None:
        super().__init__(contents.pieces())
        self.dirty_bytes = 0
        self.flushing_bytes = 0  # what a flush works on, which is in memory only until it is done
        self._tail = self._last_chunk()
        self._journal: list[Callable[[], None]] | None = None
        self._begin = self._end = -1  # of what changed since the last flush; all else is clean

    def _last_chunk(self) -> ChunkId | None:
        last = self._pieces[-1].source if self._pieces else None
        return last.chunk if isinstance(last, Extent) else None

    # Writing

    def write(self, offset: int, data: Buffer) -> None:
        """Put bytes at an offset, extending the file with a hole if need be."""
        length = len(data)
        if offset + length > FILE_BYTES_MAX:
            raise FsError(ErrorKind.TOO_BIG)
        if self._journal is not None:
            kept = bytes(data)
            self._journal.append(lambda: self._write(offset, kept))
        self._write(offset, data)

    def _write(self, offset: int, data: Buffer) -> None:
        self.dirty_bytes += len(data)
        self._touch(min(offset, self.size), offset + len(data))
        if self._append(offset, data) or self._overwrite(offset, data):
            return
        self._replace(offset, len(data), [Piece(len(data), Memory(bytearray(data)))])

    def _touch(self, begin: int, end: int) -> None:
        """Widen the range that the next flush looks at."""
        self._begin = begin if self._end < 0 else min(self._begin, begin)
        self._end = max(self._end, end)

    def _append(self, offset: int, data: Buffer) -> bool:
        """Grow the buffer at the end of the file, which is what most writes do."""
        if offset != self.size or not self._pieces:
            return False
        last = self._pieces[-1]
        memory = last.source
        if not isinstance(memory, Memory) or memory.frozen:
            return False
        if last.skip + last.length != len(memory.data):
            return False
        memory.data += data
        self._pieces[-1] = Piece(last.length + len(data), memory, last.skip)
        self.size += len(data)
        return True

    def _overwrite(self, offset: int, data: Buffer) -> bool:
        """Change bytes in place where one buffer holds them all."""
        index = bisect_right(self._starts, offset) - 1
        if index < 0 or offset + len(data) > self._starts[index] + self._pieces[index].length:
            return False
        piece = self._pieces[index]
        memory = piece.source
        if not isinstance(memory, Memory) or memory.frozen:
            return False
        begin = piece.skip + offset - self._starts[index]
        memory.data[begin : begin + len(data)] = data
        return True

    def truncate(self, size: int) -> None:
        """Cut the file off, or extend it with a hole."""
        if size > FILE_BYTES_MAX:
            raise FsError(ErrorKind.TOO_BIG)
        self._note(lambda: self._truncate(size))
        self._truncate(size)

    def _truncate(self, size: int) -> None:
        self.dirty_bytes += 1
        self._touch(min(size, self.size), max(size, self.size))
        if size > self.size:
            self._replace(self.size, size - self.size, [Piece(size - self.size)])
            return
        index = self._split(size)
        del self._pieces[index:], self._starts[index:]
        self.size = size

    def punch(self, offset: int, length: int) -> None:
        """Make a hole; the size stays."""
        length = min(length, self.size - offset)
        if length <= 0:
            return
        self._note(lambda: self._put(offset, length, [Piece(length)]))
        self._put(offset, length, [Piece(length)])

    def insert(self, offset: int, pieces: list[Piece]) -> None:
        """Overwrite a range with pieces of other files; the bytes are shared, not copied."""
        length = sum(piece.length for piece in pieces)
        if offset + length > FILE_BYTES_MAX:
            raise FsError(ErrorKind.TOO_BIG)
        self._note(lambda: self._put(offset, length, pieces))
        self._put(offset, length, pieces)

    def _put(self, offset: int, length: int, pieces: list[Piece]) -> None:
        self.dirty_bytes += 1
        self._touch(min(offset, self.size), offset + length)
        self._replace(offset, length, pieces)

    def _note(self, change: Callable[[], None]) -> None:
        if self._journal is not None:
            self._journal.append(change)

    def _replace(self, offset: int, length: int, pieces: list[Piece]) -> None:
        if offset > self.size:
            pieces = [Piece(offset - self.size), *pieces]
            offset, length = self.size, length + offset - self.size
        first = self._split(offset)
        after = self._split(offset + length) if offset + length < self.size else len(self._pieces)
        starts, position = [], offset
        for piece in pieces:
            starts.append(position)
            position += piece.length
        self._pieces[first:after] = pieces
        self._starts[first:after] = starts
        self.size = max(self.size, position)

    def _split(self, offset: int) -> int:
        """Make `offset` a border between pieces; returns the index of the piece after it."""
        if offset >= self.size:
            return len(self._pieces)
        index = bisect_right(self._starts, offset) - 1
        start, piece = self._starts[index], self._pieces[index]
        if start == offset:
            return index
        cut = offset - start
        self._pieces[index : index + 1] = [piece.part(0, cut), piece.part(cut, piece.length)]
        self._starts.insert(index + 1, offset)
        return index + 1

    # Flushing

    def snapshot(self) -> Snapshot:
        """Freeze what is there for a flush; changes from now on are journalled."""
        assert self._journal is None, "one flush at a time"
        self._journal = []
        self.dirty_bytes, self.flushing_bytes = 0, self.dirty_bytes
        changed = self._changed()
        for piece in self._pieces[changed.start : changed.stop]:
            if isinstance(piece.source, Memory):
                piece.source.frozen = True
        return Snapshot(self.pieces(), changed, self._tail)

    def _changed(self) -> range:
        """The pieces that lie in the changed range, in part at least, or border on it."""
        if self._end < 0:
            return range(0)
        first = max(0, bisect_right(self._starts, self._begin) - 2)
        return range(first, bisect_right(self._starts, self._end))

    def adopt(self, pieces: list[Piece]) -> None:
        """Take over what a flush made of the snapshot: chunks and holes."""
        journal, self._journal = self._journal, None
        assert journal is not None
        super().__init__(pieces)
        self._begin = self._end = -1
        self._tail = self._last_chunk()
        self.dirty_bytes = self.flushing_bytes = 0
        for change in journal:
            change()
        self.dirty_bytes = max(self.dirty_bytes, len(journal))

    def abandon(self) -> None:
        """A flush failed: what it worked on is still to be flushed."""
        if self._journal is not None:
            self._journal = None
            self.dirty_bytes, self.flushing_bytes = max(1, self._memory_bytes()), 0

    def _memory_bytes(self) -> int:
        return sum(p.length for p in self._pieces if isinstance(p.source, Memory))
