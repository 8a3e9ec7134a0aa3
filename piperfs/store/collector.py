"""Collection of chunks that no version needs any more.

Which chunks are needed is computed, not counted: marks are set from live versions, from superseded
ones inside the retention time, from those that wait for the clock or are held because of a fork,
and from open files; what has no mark goes. Counters would have to be right after every crash and
merge; a mark is right by construction. Both phases run in small steps between requests. What
becomes referenced while they run is noted by the chunk store and is marked too.

Nobody can tell what a damaged manifest node listed, so nothing goes until it came back from a peer.
For a node of an earlier version that is tried once: its data is gone with it if nobody has it.
"""

import enum
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from piperfs.core.errors import StoreError
from piperfs.core.ids import ChunkId
from piperfs.core.operation import decode_header
from piperfs.core.record import ContentHead, Kind, is_alive, refs_of
from piperfs.store.chunks import InUse
from piperfs.store.store import Store

DAY_NS: Final = 86_400 * 1_000_000_000
HOUR_NS: Final = 3_600 * 1_000_000_000
STEP_ROWS: Final = 200
END: Final = b"\xff" * 33
LONG_END: Final = b"\xff" * 57


@dataclass(frozen=True, slots=True)
class Retention:
    """For how long superseded and deleted versions are kept."""

    ns: int
    versions_min: int  # of each file that is still there, however old they are
    deleted_ns: int  # the last version of a file, after its deletion

    def needs(self, head: ContentHead, now_ns: int) -> bool:
        """Whether a head's chunks are kept; where bodies are unreadable, all are."""
        return is_alive(head) or head.hlc > now_ns - self.deleted_ns


RETENTION: Final = Retention(30 * DAY_NS, 10, 30 * DAY_NS)


class Reason(enum.Enum):
    """Why chunks are kept; of several reasons the first counts."""

    OPEN = "open"  # a program has the file open
    CURRENT = "current"  # of a version that shows, conflict copies included
    DELETED = "deleted"  # the last version of a file that was deleted not long ago
    AHEAD = "ahead"  # of an operation that waits for the clock
    HELD = "held"  # of an operation beyond a fork, which may count one day
    SUPERSEDED = "superseded"  # an earlier version, in history


PAST: Final = frozenset((Reason.DELETED, Reason.SUPERSEDED))


class Collector:
    """One collection: run `steps` to its end, a step at a time."""

    def __init__(self, store: Store, retention: Retention = RETENTION) -> None:
        self._tables = store.tables
        self._chunks = store.chunks
        self._records = store.records
        self._retention = retention
        self._marked: set[ChunkId] = set()
        self._past: set[ChunkId] = set()  # of those, what no version needs that shows
        self.lost: set[ChunkId] = set()  # damaged nodes; what they list would seem to be unused
        self.kept: Counter[Reason] = Counter()  # chunks
        self.freed_chunks = 0
        self.freed_bytes = 0

    def steps(self, now_ns: int, in_use: InUse) -> Iterator[None]:
        """Mark, then sweep.

        What was written last is in no table before it is published, and may be on the disk when the
        sweep comes by. What open files need is asked again before the sweep: a version that one was
        opened at meanwhile may have been superseded before its mark.
        """
        noted = self._chunks.begin_noting()
        self._chunks.is_doubtful = False
        try:
            self._mark_open(in_use)
            for chunk, height in list(self._records.unpublished_refs()):
                self._mark(chunk, height, Reason.CURRENT)
            yield from self._mark_live(now_ns)
            yield from self._mark_aside()
            yield from self._mark_history(now_ns)
            self._mark_open(in_use)
            yield from self._sweep(noted)
            # What never came of a version that is gone may be gone where it was made.
            needed = (self._marked - self._past) | noted.keys() | self.lost
            self._chunks.forget_wants(needed)
            if self.freed_chunks:
                yield from self._forget_digests()
        finally:
            self._chunks.end_noting()

    def _mark_open(self, in_use: InUse) -> None:
        for chunk, height in in_use():
            self._mark(chunk, height, Reason.OPEN)

    def _mark(self, chunk: ChunkId, height: int, reason: Reason) -> None:
        pending = [(chunk, height)]
        while pending:
            chunk, height = pending.pop()
            is_new = chunk not in self._marked
            if not is_new and (reason in PAST or chunk not in self._past):
                continue
            if reason in PAST:
                self._past.add(chunk)
            else:
                self._past.discard(chunk)
            if is_new:
                self._marked.add(chunk)
                self.kept[reason] += self._chunks.has(chunk)
            if height > 0:
                has_waited = self._chunks.is_lost(chunk)
                pending.extend(self._chunks.listed(chunk, height))
                if self._chunks.is_lost(chunk) and not (has_waited and reason in PAST):
                    self.lost.add(chunk)

    def _mark_live(self, now_ns: int) -> Iterator[None]:
        """Versions that are heads. A deletion holds its last version for the retention time."""
        for rows in self._tables.content.pages(b"", END, STEP_ROWS):
            for inode, heads in rows:
                shows = self._shows(inode)
                for head in heads:
                    if not shows and not self._retention.needs(head, now_ns):
                        continue
                    reason = Reason.CURRENT if shows or is_alive(head) else Reason.DELETED
                    for chunk, height in refs_of(head):
                        self._mark(chunk, height, reason)
            yield

    def _shows(self, inode: bytes) -> bool:
        """A rename or a new link may have kept a file that somebody deleted."""
        row = self._tables.inode.get(inode)
        return row is not None and bool(row.links)

    def _mark_aside(self) -> Iterator[None]:
        """What is kept apart: for the clock to pass it, or for somebody to decide about it."""
        for waiting in self._tables.ahead.pages(b"", LONG_END, STEP_ROWS):
            for _, row in waiting:
                self._mark_operation(row.envelope, Reason.AHEAD)
            yield
        for held in self._tables.held.pages(b"", LONG_END, STEP_ROWS):
            for _, envelope in held:
                self._mark_operation(envelope, Reason.HELD)
            yield

    def _mark_operation(self, envelope: bytes, reason: Reason) -> None:
        for write in decode_header(envelope).writes:
            for chunk in write.refs:
                self._mark(chunk, 1, reason)

    def _mark_history(self, now_ns: int) -> Iterator[None]:
        """Superseded versions, newest first; drops those that are old and have many younger."""
        versions: Counter[bytes] = Counter()
        keys: list[bytes] = []
        for rows in self._tables.history.pages(b"", LONG_END, STEP_ROWS):
            keys += [key for key, _ in rows]
            yield
        for index, key in enumerate(reversed(keys)):
            row = self._tables.history.get(key)
            if row is None:
                continue  # it was withdrawn meanwhile
            writes = [w for w in decode_header(row.envelope).writes if w.kind is Kind.CONTENT]
            versions.update(write.key for write in writes)
            recent = row.superseded_ns > now_ns - self._retention.ns
            if recent or any(self._is_among_last(write.key, versions, now_ns) for write in writes):
                for write in writes:
                    for chunk in write.refs:
                        self._mark(chunk, 1, Reason.SUPERSEDED)
            else:
                self._tables.history.delete(key)
            if index % STEP_ROWS == 0:
                yield

    def _is_among_last(self, inode: bytes, versions: Counter[bytes], now_ns: int) -> bool:
        """One of the last versions of a file that is still there, or that went not long ago."""
        heads = self._tables.content.get(inode) or ()
        is_there = self._shows(inode) or any(self._retention.needs(head, now_ns) for head in heads)
        return is_there and versions[inode] <= self._retention.versions_min

    def _sweep(self, noted: dict[ChunkId, int]) -> Iterator[None]:
        for keys in self._tables.chunk.durable_keys(b"", END, STEP_ROWS):
            yield
            for chunk, height in list(noted.items()):
                self._mark(chunk, height, Reason.CURRENT)
            if self.lost:
                return
            for chunk in map(ChunkId, keys):
                if chunk not in self._marked and chunk not in noted:
                    self.freed_bytes += self._chunks.drop(chunk)
                    self.freed_chunks += 1

    def _forget_digests(self) -> Iterator[None]:
        """Nothing can be found any more by the digest of a chunk that is gone."""
        digests = self._tables.digest
        for keys in digests.durable_keys(b"", END, STEP_ROWS):
            yield
            for key in keys:
                with suppress(StoreError):  # damage is for `fsck --repair`
                    chunk = digests.get(key)
                    if chunk is not None and not self._chunks.has(chunk):
                        digests.delete(key)
