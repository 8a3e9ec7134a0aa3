"""Making room in a replica that keeps only some of the content: `-o cache=SIZE`.

A chunk goes only while another member holds everything there is here, which says something about
the versions that show and are durable, and nothing about others: who joined later never had the
earlier versions and the deleted files. Never does one of a manifest go, since listing a file's
extents must not wait for the network, nor one that an open file needs. What was read or written
lately stays longest. What goes is noted as wanted: a reader fetches it again.

If what has to stay is more than there may be, all else goes; not at once again, or nothing that is
read would stay for long.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Final

from piperfs.core.ids import ChunkId
from piperfs.core.operation import header_of
from piperfs.core.record import is_alive, refs_of
from piperfs.store.chunks import InUse
from piperfs.store.oplog import lseq_key
from piperfs.store.store import Store

STEP_CHUNKS: Final = 64
STEP_ROWS: Final = 200
FILL: Final = 0.9  # of the limit, after making room
REST_S: Final = 600  # when that was not to be had, unless as much as that comes
END: Final = b"\xff" * 33


class Eviction:
    """Keeps the chunks of a store below a number of bytes."""

    def __init__(self, store: Store, limit_bytes: int) -> None:
        self._tables = store.tables
        self._chunks = store.chunks
        self._records = store.records
        self._log = store.log
        self._limit = limit_bytes
        self._rests_until = float("-inf")
        self._left_bytes = 0  # when the rest began
        self.evicted: set[ChunkId] = set()
        self.evicted_bytes = 0

    def is_due(self, now_s: float) -> bool:
        """Whether there is too much, and trying may help."""
        held = self._chunks.bytes_held()
        rests = now_s < self._rests_until and held <= self._left_bytes + self._limit * (1 - FILL)
        return held > self._limit and not rests

    def steps(self, in_use: InUse, allowed: Callable[[], bool], now_s: float = 0) -> Iterator[None]:
        """Make room, a step at a time; ends early when it is no longer `allowed`.

        Nobody else can have what no durable version refers to: chunks of open files, of what is
        not published or not durable yet, and what comes meanwhile.
        """
        self.evicted, self.evicted_bytes = set(), 0
        noted = self._chunks.begin_noting()
        excess = self._chunks.bytes_held() - int(self._limit * FILL)
        try:
            shown = yield from self._shown()
            unheld = (*in_use(), *self._records.unpublished_refs(), *self._undurable_refs())
            spared = self._below(unheld)
            for chunks in self._candidates():
                for chunk in chunks:
                    if excess <= 0 or not allowed():
                        return
                    if chunk in shown and chunk not in spared and chunk not in noted:
                        excess -= self._evict(chunk)
                yield
            self._left_bytes = self._chunks.bytes_held()
            self._rests_until = now_s + REST_S
        finally:
            self._chunks.end_noting()

    def _undurable_refs(self) -> Iterator[tuple[ChunkId, int]]:
        """Chunks of operations that a commit is about, or the next one will be."""
        first = lseq_key(self._log.durable_lseq + 1)
        for _, envelope in self._tables.envelope.scan(first, END):
            for write in header_of(envelope).writes:
                yield from ((ChunkId(chunk), 1) for chunk in write.refs)

    def _shown(self) -> Generator[None, None, set[ChunkId]]:
        """What versions that show refer to, as far as it is here."""
        found: set[ChunkId] = set()
        for rows in self._tables.content.pages(b"", END, STEP_ROWS):
            for _, heads in rows:
                for head in heads:
                    if is_alive(head):
                        found |= self._below(refs_of(head))
            yield
        return found

    def _below(self, refs: Iterable[tuple[ChunkId, int]]) -> set[ChunkId]:
        """These chunks and all that they list, as far as it is here."""
        found: set[ChunkId] = set()
        pending = list(refs)
        while pending:
            chunk, height = pending.pop()
            if chunk in found or not self._chunks.has(chunk):
                continue
            found.add(chunk)
            pending.extend(self._chunks.listed(chunk, height))
        return found

    def _candidates(self) -> Iterator[list[ChunkId]]:
        """Chunks that nobody used for long, then the others, the longest unused first."""
        used = self._chunks.lately_used()
        known = set(used)
        for keys in self._tables.chunk.durable_keys(b"", END, STEP_CHUNKS):
            yield [ChunkId(key) for key in keys if key not in known]
        for start in range(0, len(used), STEP_CHUNKS):
            yield used[start : start + STEP_CHUNKS]

    def _evict(self, chunk: ChunkId) -> int:
        sealed = self._chunks.peek(chunk)
        if sealed is None or self._chunks.node_children(sealed)[0] > 0:
            return 0
        self._chunks.drop(chunk)
        self._chunks.want(chunk, 0)
        self.evicted.add(chunk)
        self.evicted_bytes += len(sealed)
        return len(sealed)
