"""The contents of an open file: pieces of chunks, of memory, and holes, in order.

A write replaces pieces and copies nothing but the new bytes. While a flush works on a snapshot in
a thread, the buffers it reads are frozen and changes are journalled; when its chunks are there,
they take the place of the pieces, and the journal is replayed on top.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.ids import ChunkId
from piperfs.core.limits import FILE_BYTES_MAX
from piperfs.core.manifest import Extent
from piperfs.fs.api import Buffer
from piperfs.fs.reader import ChunkReader

ZEROS: Final = bytes(128 * 1024)


@dataclass(slots=True, eq=False)
class Memory:
    """Bytes that were written and not yet flushed. Frozen ones are read by a flush."""

    data: bytearray
    frozen: bool = False


class Piece(NamedTuple):
    """`length` bytes of a source, from `skip` on; no source is a hole."""

    length: int
    source: Extent | Memory | None = None
    skip: int = 0

    @property
    def is_whole_chunk(self) -> bool:
        source = self.source
        return isinstance(source, Extent) and self.length == source.length

    def part(self, begin: int, end: int) -> "Piece":
        return Piece(end - begin, self.source, self.skip + begin if self.source else 0)


class Snapshot(NamedTuple):
    """What a flush works on."""

    pieces: tuple[Piece, ...]
    tail: ChunkId | None  # the last chunk of the version before, which ended where the file did


def pieces_of(extents: Iterable[Extent]) -> list[Piece]:
    """A file's extents as pieces."""
    return [Piece(e.length, None if e.chunk is None else e) for e in extents]


class WorkingCopy:
    """A file's bytes while somebody writes to it."""

    def __init__(self, extents: Sequence[Extent]) -> None:
        self._pieces: list[Piece] = []
        self._starts: list[int] = []
        self.size = 0
        self.dirty_bytes = 0
        self._tail: ChunkId | None = None
        self._journal: list[Callable[[], None]] | None = None
        self._load(extents)

    def _load(self, extents: Sequence[Extent]) -> None:
        self._pieces = pieces_of(extents)
        self._starts, self.size = [], 0
        for piece in self._pieces:
            self._starts.append(self.size)
            self.size += piece.length
        self._tail = extents[-1].chunk if extents else None

    # Reading

    def slices(self, offset: int, length: int) -> list[Piece]:
        """The pieces that make up a range, cut to it and to the end of the file."""
        end = min(offset + length, self.size)
        if offset >= end:
            return []
        found = []
        index = bisect_right(self._starts, offset) - 1
        while index < len(self._pieces) and self._starts[index] < end:
            start, piece = self._starts[index], self._pieces[index]
            found.append(piece.part(max(0, offset - start), min(piece.length, end - start)))
            index += 1
        return found

    @property
    def data_bytes(self) -> int:
        """How many bytes are not in holes."""
        return sum(piece.length for piece in self._pieces if piece.source is not None)

    def next_data(self, offset: int) -> int | None:
        """The first offset at or after `offset` that lies in data; None beyond the last."""
        return self._next(offset, want_hole=False)

    def next_hole(self, offset: int) -> int:
        """The first offset at or after `offset` that lies in a hole; the end counts as one."""
        found = self._next(offset, want_hole=True)
        return self.size if found is None else found

    def _next(self, offset: int, *, want_hole: bool) -> int | None:
        for index in range(max(0, bisect_right(self._starts, offset) - 1), len(self._pieces)):
            if (self._pieces[index].source is None) == want_hole:
                return max(offset, self._starts[index])
        return None

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
        if self._append(offset, data) or self._overwrite(offset, data):
            return
        self._replace(offset, len(data), [Piece(len(data), Memory(bytearray(data)))])

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
        self._note(lambda: self._replace(offset, length, [Piece(length)]))
        self.dirty_bytes += 1
        self._replace(offset, length, [Piece(length)])

    def insert(self, offset: int, pieces: list[Piece]) -> None:
        """Overwrite a range with pieces of other files; the bytes are shared, not copied."""
        length = sum(piece.length for piece in pieces)
        if offset + length > FILE_BYTES_MAX:
            raise FsError(ErrorKind.TOO_BIG)
        self._note(lambda: self._replace(offset, length, pieces))
        self.dirty_bytes += 1
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
        self.dirty_bytes = 0
        for piece in self._pieces:
            if isinstance(piece.source, Memory):
                piece.source.frozen = True
        return Snapshot(tuple(self._pieces), self._tail)

    def adopt(self, extents: Sequence[Extent]) -> None:
        """Take over the chunks that a flush made of the snapshot."""
        journal, self._journal = self._journal, None
        assert journal is not None
        self._load(extents)
        self.dirty_bytes = 0
        for change in journal:
            change()
        self.dirty_bytes = max(self.dirty_bytes, len(journal))

    def abandon(self) -> None:
        """A flush failed: what it worked on is still to be flushed."""
        if self._journal is not None:
            self._journal = None
            self.dirty_bytes = max(1, self._memory_bytes())

    def _memory_bytes(self) -> int:
        return sum(p.length for p in self._pieces if isinstance(p.source, Memory))

    def chunks(self) -> list[ChunkId]:
        """All chunks the copy refers to."""
        return chunks_of(self._pieces)


def chunks_of(pieces: Iterable[Piece]) -> list[ChunkId]:
    """The chunks that pieces are parts of."""
    extents = (piece.source for piece in pieces if isinstance(piece.source, Extent))
    return [extent.chunk for extent in extents if extent.chunk is not None]


def read_pieces(pieces: Sequence[Piece], reader: ChunkReader) -> bytes:
    """The bytes of pieces. Raises MissingChunks with all that are absent."""
    if len(pieces) > 1:
        reader.require(chunks_of(pieces))
    return b"".join([piece_bytes(piece, reader.plain) for piece in pieces])


def piece_bytes(piece: Piece, plain: Callable[[ChunkId], bytes]) -> Buffer:
    """The bytes of one piece. Raises what `plain` raises; FsError if a chunk is too short."""
    source = piece.source
    if source is None:
        return ZEROS[: piece.length] if piece.length <= len(ZEROS) else bytes(piece.length)
    if isinstance(source, Memory):
        return memoryview(source.data)[piece.skip : piece.skip + piece.length].tobytes()
    assert source.chunk is not None
    data = plain(source.chunk)
    if len(data) != source.length:
        raise FsError(ErrorKind.IO, "a chunk has another length than its manifest says")
    if piece.length == len(data):
        return data
    return memoryview(data)[piece.skip : piece.skip + piece.length]
