"""A flush: turns what was written into chunks, touching no more of the file than it must.

Whole chunks that nobody wrote to stay as they are. A run of changed pieces is cut anew from the
border of a chunk before it until the new borders meet old ones again. The work runs on a frozen
snapshot, in a thread if it is large, and has no effect until `finish` on the loop thread.
"""

from collections import deque
from typing import Final

from piperfs.core.chunking import cut
from piperfs.core.ids import ChunkId
from piperfs.core.limits import CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, MIB
from piperfs.core.manifest import Extent
from piperfs.fs.contents import Piece, chunks_of, piece_bytes
from piperfs.fs.reader import ChunkReader
from piperfs.fs.working_copy import Snapshot
from piperfs.store import codec
from piperfs.store.chunks import ChunkStore

REMEMBERED_MAX: Final = 4  # chunks of one flush; who writes again soon writes there again
BATCH_BYTES: Final = 4 * MIB  # cut at a time; bounds the memory of a flush


class Flush:
    """One flush of one file: `execute` anywhere, then `finish` on the loop thread."""

    def __init__(self, snapshot: Snapshot, reader: ChunkReader, chunks: ChunkStore) -> None:
        self._pieces = snapshot.pieces
        self._changed = snapshot.changed
        self._tail = snapshot.tail
        self._reader = reader
        self._chunks = chunks
        self._new: list[tuple[ChunkId, bytes, bytes]] = []  # id, sealed, digest
        self._reused: set[ChunkId] = set()
        self._replaced: set[ChunkId] = set()
        self._last: deque[tuple[ChunkId, bytes]] = deque(maxlen=REMEMBERED_MAX)
        self._deduplicate = True
        self.pieces: list[Piece] = []

    def execute(self) -> None:
        """Cut and seal. Raises MissingChunks if a chunk that was partly overwritten is absent."""
        self._new, self._reused = [], set()
        self._replaced.clear()
        self._last.clear()
        index = self._changed.start
        self.pieces = self._pieces[:index]
        while index < self._changed.stop:
            if self._stays(index):
                self.pieces.append(self._pieces[index])
                index += 1
            else:
                index = self._cut_run(self._begin_of_run(index))
        self.pieces += self._pieces[index:]

    def _stays(self, index: int) -> bool:
        """Whether a piece is a chunk or hole that nobody wrote to."""
        return self._pieces[index].is_whole_chunk or self._ends_run(index)

    def finish(self) -> list[Piece]:
        """Put the new chunks into the store; returns the file's pieces: chunks and holes."""
        if not all(self._chunks.has(chunk) for chunk in self._reused):
            self._deduplicate = False
            self.execute()
        for chunk, sealed, digest in self._new:
            self._chunks.peek(chunk)  # the same bytes have the same name: what is damaged goes
            self._chunks.put(chunk, sealed)
            self._chunks.remember_digest(digest, chunk)
        for chunk in self._reused:
            self._chunks.note(chunk, 0)  # a spill has them in no version yet
        self._reader.forget(self._replaced)
        for chunk, plain in self._last:
            self._reader.remember(chunk, plain)
        return self.pieces

    def chunks(self) -> list[ChunkId]:
        """What the snapshot is made of; its file may have been overwritten since."""
        return chunks_of(self._pieces)

    def _ends_run(self, index: int) -> bool:
        """Holes that are worth keeping separate data; small ones are stored as zeros."""
        piece = self._pieces[index]
        return piece.source is None and (piece.length >= CHUNK_BYTES_MIN or len(self._pieces) == 1)

    def _begin_of_run(self, index: int) -> int:
        """Include the chunk that ended only because the file did, so that appends grow it."""
        before = self._pieces[index - 1] if index else None
        if before is not None and self.pieces and isinstance(before.source, Extent):
            tail = before.source.chunk == self._tail and before.is_whole_chunk
            if tail and before.length < CHUNK_BYTES_MAX and self.pieces[-1] is before:
                self.pieces.pop()
                return index - 1
        return index

    def _cut_run(self, index: int) -> int:
        """Cut pieces anew from `index` on; returns the index of the first piece left alone."""
        buffer = bytearray()
        clean: dict[
            int, int
        ] = {}  # offset in the buffer -> index of a whole chunk that begins there
        started = index
        while True:
            index = self._feed(buffer, clean, index, started)
            final = index == len(self._pieces) or self._ends_run(index)
            position = 0
            for length in cut(buffer, final=final):
                self._emit(bytes(memoryview(buffer)[position : position + length]))
                position += length
                if position in clean:
                    return clean[position]
            if final:
                return index
            del buffer[:position]
            clean = {offset - position: i for offset, i in clean.items() if offset > position}

    def _feed(self, buffer: bytearray, clean: dict[int, int], index: int, started: int) -> int:
        """Add pieces: many changed ones, or one clean chunk to look for its border in."""
        limit = len(buffer) + BATCH_BYTES
        while index < len(self._pieces) and not self._ends_run(index):
            piece = self._pieces[index]
            whole = piece.is_whole_chunk and index > started
            if whole:
                clean[len(buffer)] = index
            buffer += piece_bytes(piece, self._reader.plain_anywhere)
            if isinstance(piece.source, Extent) and piece.source.chunk is not None:
                self._replaced.add(piece.source.chunk)
            index += 1
            if whole or len(buffer) >= limit:
                break
        return index

    def _emit(self, plain: bytes) -> None:
        digest = self._chunks.content_hash(plain)
        known = self._chunks.digest_anywhere(digest) if self._deduplicate else None
        if known is not None and self._chunks.get_anywhere(known) is not None:
            self._reused.add(known)  # it was read: what rests on it would be lost with it
            self._keep(Extent(len(plain), known))
            return
        chunk, sealed = self._reader.keyring.seal_chunk(codec.encode(plain))
        self._last.append((chunk, plain))
        self._new.append((chunk, sealed, digest))
        self._keep(Extent(len(plain), chunk))

    def _keep(self, extent: Extent) -> None:
        self.pieces.append(Piece(extent.length, extent))
