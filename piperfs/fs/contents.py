"""What a file holds: pieces of chunks, of memory, and holes, in order; and how to find a range.

Lists of pieces are long for large files, so a list is made once for each version and shared by
all who read it; whoever writes changes a copy (`working_copy.py`).
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from typing import Final, NamedTuple

from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.ids import ChunkId
from piperfs.core.manifest import Extent
from piperfs.fs.api import Buffer
from piperfs.fs.reader import ChunkReader

LENGTH: Final = itemgetter(0)  # of a piece or an extent
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


def pieces_of(extents: Iterable[Extent]) -> list[Piece]:
    """A file's extents as pieces."""
    return [Piece(e.length, None if e.chunk is None else e) for e in extents]


def extents_of(pieces: Iterable[Piece]) -> list[Extent]:
    """Pieces of which none is in memory, as extents."""
    return [p.source if isinstance(p.source, Extent) else Extent(p.length, None) for p in pieces]


class Contents:
    """The bytes of one version, or of a file that somebody writes to."""

    def __init__(self, pieces: list[Piece]) -> None:
        self._pieces = pieces
        self._starts: list[int] = list(accumulate(map(LENGTH, pieces), initial=0))
        self.size = self._starts.pop()

    def __len__(self) -> int:
        return len(self._pieces)

    def pieces(self) -> list[Piece]:
        """All pieces, in a list of its own."""
        return self._pieces.copy()

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

    def bytes_of(self, is_meant: Callable[[ChunkId], bool]) -> int:
        """How many bytes come from chunks that are meant."""
        found = 0
        for piece in self._pieces:
            source = piece.source
            if isinstance(source, Extent) and source.chunk and is_meant(source.chunk):
                found += piece.length
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

    def chunks(self) -> list[ChunkId]:
        """All chunks the pieces refer to."""
        return chunks_of(self._pieces)

    def extents(self) -> list[Extent]:
        """The pieces as extents; there must be none in memory."""
        return extents_of(self._pieces)


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
