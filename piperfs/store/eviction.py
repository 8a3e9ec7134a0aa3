"""Making room in a replica that keeps only some of the content: `-o cache=SIZE`.

A chunk goes only while another member holds everything there is here, and never one of a manifest,
since listing a file's extents must not wait for the network, nor one that an open file needs. What
was read or written lately stays longest. What goes is noted as wanted: a reader fetches it again.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from piperfs.core.ids import ChunkId
from piperfs.store.store import Store

STEP_CHUNKS: Final = 64
FILL: Final = 0.9  # of the limit, after making room
END: Final = b"\xff" * 33


class Eviction:
    """Keeps the chunks of a store below a number of bytes."""

    def __init__(self, store: Store, limit_bytes: int) -> None:
        self._tables = store.tables
        self._chunks = store.chunks
        self._records = store.records
        self._limit = limit_bytes
        self.evicted: set[ChunkId] = set()
        self.evicted_bytes = 0

    @property
    def is_due(self) -> bool:
        return self._chunks.bytes_held() > self._limit

    def steps(self, in_use: Iterable[ChunkId], allowed: Callable[[], bool]) -> Iterator[None]:
        """Make room, a step at a time; ends early when it is no longer `allowed`.

        Nobody else can have what no published version refers to: chunks of open files, of what is
        not published yet, and what comes meanwhile.
        """
        spared = {*in_use, *(chunk for chunk, _ in self._records.unpublished_refs())}
        noted = self._chunks.begin_noting()
        excess = self._chunks.bytes_held() - int(self._limit * FILL)
        try:
            for chunks in self._candidates():
                for chunk in chunks:
                    if excess <= 0 or not allowed():
                        return
                    if chunk not in spared and chunk not in noted:
                        excess -= self._evict(chunk)
                yield
        finally:
            self._chunks.end_noting()

    def _candidates(self) -> Iterator[list[ChunkId]]:
        """Chunks that nobody used for long, then the others, the longest unused first."""
        used = self._chunks.lately_used()
        known = set(used)
        for keys in self._tables.chunk.durable_keys(b"", END, STEP_CHUNKS):
            yield [ChunkId(key) for key in keys if key not in known]
        for start in range(0, len(used), STEP_CHUNKS):
            yield used[start : start + STEP_CHUNKS]

    def _evict(self, chunk: ChunkId) -> int:
        sealed = self._chunks.get(chunk)
        if sealed is None or self._chunks.node_children(sealed)[0] > 0:
            return 0
        self._chunks.drop(chunk)
        self._chunks.want(chunk, 0)
        self.evicted.add(chunk)
        self.evicted_bytes += len(sealed)
        return len(sealed)
