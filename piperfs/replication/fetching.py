"""Getting absent chunks: at once for a reader who waits, and all others in the background.

A chunk is asked of one peer at a time; one that does not have it is passed over until it says
something new. Readers' requests overtake everything else on both ends of the wire.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio
from blake3 import blake3

from piperfs.core.errors import ErrorKind, FsError, PeerError
from piperfs.core.ids import ChunkId
from piperfs.store.store import Store

WINDOW_CHUNKS: Final = 32  # asked of one peer in the background; about 4 MiB
GRACE_S: Final = 3  # how long a reader waits for a peer to turn up
RETRY_S: Final = 5
PREFETCH_MAX: Final = 256


class Source(Protocol):
    """A connected peer."""

    def want(self, chunks: tuple[ChunkId, ...], *, urgent: bool) -> None: ...


@dataclass(slots=True, eq=False)
class _Peer:
    source: Source
    asked: set[ChunkId] = field(default_factory=set)
    lacks: set[ChunkId] = field(default_factory=set)


class Fetcher:
    """What is wanted, from whom, and who waits for it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._peers: dict[Source, _Peer] = {}
        self._arrivals: dict[ChunkId, trio.Event] = {}
        self._changed = trio.Event()
        self._soon: dict[ChunkId, None] = {}  # asked for by readahead, in order
        self.on_complete: Callable[[], None] = lambda: None  # nothing is wanted any more
        self.received_bytes = 0
        self.received_chunks = 0

    # Peers

    def connect(self, source: Source) -> None:
        self._peers[source] = _Peer(source)
        self._signal()

    def disconnect(self, source: Source) -> None:
        self._peers.pop(source, None)
        self._signal()

    def hope_again(self, source: Source) -> None:
        """A peer said something new: it may have what it lacked."""
        peer = self._peers.get(source)
        if peer is not None and peer.lacks:
            peer.lacks.clear()
            self._signal()

    def wake(self) -> None:
        """There may be new wants."""
        self._signal()

    def _signal(self) -> None:
        self._changed.set()

    def receive(
        self, source: Source, chunks: Iterable[tuple[ChunkId, bytes]], absent: Iterable[ChunkId]
    ) -> None:
        """Take in what a peer sent. Raises PeerError for bytes that do not match their name."""
        peer = self._peers.get(source)
        for chunk, sealed in chunks:
            if blake3(sealed).digest() != chunk:
                raise PeerError("it sends a chunk that does not match its name")
            if peer is not None:
                peer.asked.discard(chunk)
            self._take(chunk, sealed)
        for chunk in absent:
            if peer is not None:
                peer.asked.discard(chunk)
                peer.lacks.add(chunk)
            self._wake_reader(chunk)
        self._signal()

    def _take(self, chunk: ChunkId, sealed: bytes) -> None:
        if self._store.chunks.is_wanted(chunk) or chunk in self._arrivals:
            self._store.chunks.put(chunk, sealed)
            self._store.on_dirty()
            self.received_bytes += len(sealed)
            self.received_chunks += 1
            if not self._store.chunks.want_count:
                self.on_complete()
        self._soon.pop(chunk, None)
        self._wake_reader(chunk)

    def _wake_reader(self, chunk: ChunkId) -> None:
        event = self._arrivals.pop(chunk, None)
        if event is not None:
            event.set()

    # Readers

    async def fetch(self, chunks: Iterable[ChunkId], deadline: float) -> None:
        """Return when all of `chunks` are here.

        Raises:
            FsError: no peer has one of them, or the deadline passed.
        """
        grace = min(deadline, trio.current_time() + GRACE_S)
        missing = [chunk for chunk in chunks if not self._store.chunks.has(chunk)]
        while missing:
            with trio.move_on_at(deadline):
                await self._fetch_round(missing, grace)
            missing = [chunk for chunk in missing if not self._store.chunks.has(chunk)]
            if missing and trio.current_time() >= deadline:
                raise FsError(ErrorKind.TIMED_OUT)

    async def _fetch_round(self, missing: list[ChunkId], grace: float) -> None:
        hopeless = self._ask_urgently(missing)
        if hopeless:
            if trio.current_time() >= grace:
                raise FsError(ErrorKind.UNREACHABLE)
            self._changed = trio.Event()
            with trio.move_on_at(grace):
                await self._changed.wait()
            return
        events = [self._arrivals.setdefault(chunk, trio.Event()) for chunk in missing]
        for event in events:
            await event.wait()

    def _ask_urgently(self, missing: list[ChunkId]) -> list[ChunkId]:
        """Ask the best peer for each chunk; returns those that no connected peer has."""
        wanted: dict[Source, list[ChunkId]] = {}
        hopeless = []
        for chunk in missing:
            able = [peer for peer in self._peers.values() if chunk not in peer.lacks]
            if not able:
                hopeless.append(chunk)
                continue
            best = min(able, key=lambda peer: len(peer.asked))
            best.asked.add(chunk)
            wanted.setdefault(best.source, []).append(chunk)
        for source, chunks in wanted.items():
            source.want(tuple(chunks), urgent=True)
        return hopeless

    def prefetch(self, chunks: Iterable[ChunkId]) -> None:
        """Fetch before the rest of the background, best effort."""
        for chunk in chunks:
            if len(self._soon) < PREFETCH_MAX and self._store.chunks.is_wanted(chunk):
                self._soon[chunk] = None
        self._signal()

    # Background

    async def run(self, *, fetch_all: bool) -> None:
        """Fetch what versions need, for ever."""
        while True:
            self._ask_in_background(fetch_all=fetch_all)
            self._changed = trio.Event()
            with trio.move_on_after(RETRY_S) as timeout:
                await self._changed.wait()
            if timeout.cancelled_caught:
                for peer in self._peers.values():
                    peer.lacks.clear()

    def _ask_in_background(self, *, fetch_all: bool) -> None:
        idle = [peer for peer in self._peers.values() if len(peer.asked) < WINDOW_CHUNKS]
        if not idle:
            return
        asked = {chunk for peer in self._peers.values() for chunk in peer.asked}
        limit = len(asked) + WINDOW_CHUNKS * len(idle) * 2
        known = self._store.chunks.wanted(limit) if fetch_all else []
        queue = [c for c in (*self._soon, *known) if c not in asked]
        for peer in idle:
            room = WINDOW_CHUNKS - len(peer.asked)
            chosen = [chunk for chunk in queue if chunk not in peer.lacks][:room]
            if chosen:
                peer.asked.update(chosen)
                taken = set(chosen)
                queue = [chunk for chunk in queue if chunk not in taken]
                peer.source.want(tuple(chosen), urgent=False)
