"""Ranges of a file: holes, reservations, and copies that share chunks instead of bytes."""

from collections.abc import Callable
from typing import Final

from piperfs.core import limits
from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.ids import is_file
from piperfs.fs.contents import Memory, Piece
from piperfs.fs.files import Files
from piperfs.fs.inodes import Node

SEEK_DATA: Final = 3
SEEK_HOLE: Final = 4
KEEP_SIZE: Final = 1
PUNCH_HOLE: Final = 2
ZERO_RANGE: Final = 16


class Ranges:
    """Operations on byte ranges of regular files."""

    def __init__(self, files: Files, require_space: Callable[[int, int], None]) -> None:
        self._files = files
        self._require_space = require_space  # for bytes of a file of a size; raises FsError

    def fallocate(self, node: Node, mode: int, offset: int, length: int) -> None:
        """Sizes and holes are made; space is asked for, but not reserved.

        Nothing is overwritten in place, so what is reserved now would not be what is used later.
        """
        if offset < 0 or length <= 0:
            raise FsError(ErrorKind.INVALID)
        if mode not in (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE):
            raise FsError(ErrorKind.NOT_SUPPORTED)
        if offset + length > limits.FILE_BYTES_MAX:
            raise FsError(ErrorKind.TOO_BIG)
        punches = mode & (PUNCH_HOLE | ZERO_RANGE)
        if punches:
            self._require_space(0, 0)
        else:
            self._require_space(self._missing(node, offset, length), offset + length)
        session, copy = self._files.edit(node)
        if punches:
            copy.punch(offset, length)
        if not mode & KEEP_SIZE and offset + length > copy.size:
            copy.truncate(offset + length)
        self._files.changed(session)

    def _missing(self, node: Node, offset: int, length: int) -> int:
        """How many bytes of a range are not there yet."""
        there = self._files.contents(node).slices(offset, length)
        return length - sum(piece.length for piece in there if piece.source is not None)

    def seek(self, node: Node, offset: int, whence: int) -> int:
        """Raises FsError (no data beyond).

        What a program stored through a mapping is in the kernel's pages only, and nothing tells of
        mappings but the open handle behind them: while somebody writes, a hole may be data.
        """
        contents = self._files.contents(node)
        if offset < 0 or offset >= contents.size:
            raise FsError(ErrorKind.NO_DATA_BEYOND)
        if whence not in (SEEK_DATA, SEEK_HOLE):
            raise FsError(ErrorKind.INVALID)
        session = self._files.session(node)
        if session is not None and session.writers:
            return offset if whence == SEEK_DATA else contents.size
        if whence == SEEK_HOLE:
            return contents.next_hole(offset)
        found = contents.next_data(offset)
        if found is None:
            raise FsError(ErrorKind.NO_DATA_BEYOND)
        return found

    def copy(self, source: Node, offset: int, target: Node, offset_out: int, size: int) -> int:
        """Insert the source's pieces into the target; only unsaved bytes are really copied."""
        if not is_file(source.inode) or not is_file(target.inode):
            raise FsError(ErrorKind.INVALID)
        pieces = [_own(piece) for piece in self._files.contents(source).slices(offset, size)]
        length = sum(piece.length for piece in pieces)
        if source is target and offset < offset_out + length and offset_out < offset + length:
            raise FsError(ErrorKind.INVALID)
        if length:
            session, copy = self._files.edit(target)
            copy.insert(offset_out, pieces)
            self._files.changed(session)
        return length


def _own(piece: Piece) -> Piece:
    """A piece that shares no buffer with the file it comes from."""
    if not isinstance(piece.source, Memory):
        return piece
    data = piece.source.data[piece.skip : piece.skip + piece.length]
    return Piece(piece.length, Memory(data))
