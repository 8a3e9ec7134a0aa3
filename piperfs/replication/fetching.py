"""Getting absent chunks: at once for a reader who waits, and all others in the background.

A chunk is asked of one peer at a time; one that does not have it is passed over until it says
that it has. A reader who waits long asks the next peer too, and a peer that sends nothing of what
it was asked for gives its share back. Readers' requests overtake everything else on both ends of
the wire, and little is asked for while the disk here cannot keep up.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio
from blake3 import blake3

from piperfs.core.errors import ErrorKind, FsError, PeerError
from piperfs.core.ids import ChunkId
from piperfs.core.limits import MIB, SEALED_CHUNK_BYTES_MAX
from piperfs.store.store import Store

WINDOW_CHUNKS: Final = 32  # asked of one peer in the background; about 4 MiB
GRACE_S: Final = 3  # how long a reader waits for a peer to turn up
ANSWER_S: Final = 2  # a reader's chunk that takes longer is asked of another peer as well
STALL_S: Final = 20  # a peer that sends nothing for so long is asked for nothing more meanwhile
RETRY_S: Final = 5
RETRY_MAX_S: Final = 60  # where nobody has what is wanted
UNCOMMITTED_BYTES_MAX: Final = 32 * MIB
LACKS_MAX: Final = 100_000
PREFETCH_MAX: Final = 256


class Source(Protocol):
    """A connected peer."""

    def want(self, chunks: tuple[ChunkId, ...], *, urgent: bool) -> None: ...


@dataclass(slots=True, eq=False)
class _Peer:
    source: Source
    asked: set[ChunkId] = field(default_factory=set)  # in the background
    urgent: dict[ChunkId, float] = field(default_factory=dict)  # for readers, and when
    lacks: set[ChunkId] = field(default_factory=set)
    heard: float = 0.0  # when it last sent something of what it was asked for

    def drop(self, chunk: ChunkId) -> None:
        """It has answered for a chunk."""
        self.asked.discard(chunk)
        self.urgent.pop(chunk, None)


class Fetcher:
    """What is wanted, from whom, and who waits for it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._peers: dict[Source, _Peer] = {}
        self._readers: Counter[ChunkId] = Counter()  # how many wait for a chunk
        self._arrivals: dict[ChunkId, trio.Event] = {}
        self._changed = trio.Event()
        self._soon: dict[ChunkId, None] = {}  # asked for by readahead, in order
        self.on_arrival: Callable[[ChunkId], None] = lambda _chunk: None
        self.on_complete: Callable[[], None] = lambda: None  # nothing is wanted any more
        self.is_stuck = False  # whether nobody who is connected has any of what is wanted
        self.keeps_all = True  # whether this replica means to hold all content
        self.received_bytes = 0
        self.received_chunks = 0

    # Peers

    def connect(self, source: Source) -> None:
        self._peers[source] = _Peer(source)
        self._signal()

    def disconnect(self, source: Source) -> None:
        peer = self._peers.pop(source, None)
        for chunk in peer.urgent if peer is not None else ():
            self._wake_reader(chunk)
        self._signal()

    def hope_again(self, source: Source, chunks: Iterable[ChunkId]) -> None:
        """A peer has these chunks now that it lacked."""
        peer = self._peers.get(source)
        if peer is not None and peer.lacks:
            peer.lacks.difference_update(chunks)
            self._signal()

    def wake(self) -> None:
        """There may be new wants."""
        self._signal()

    def _signal(self) -> None:
        """Wake all who wait for a change; whoever comes later waits for the next one."""
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def receive(
        self, source: Source, chunks: Iterable[tuple[ChunkId, bytes]], absent: Iterable[ChunkId]
    ) -> None:
        """Take in what a peer sent. Raises PeerError for bytes that do not match their name."""
        peer = self._peers.get(source) or _Peer(source)
        for chunk, sealed in chunks:
            if len(sealed) > SEALED_CHUNK_BYTES_MAX:
                raise PeerError(f"it sends a chunk of {len(sealed)} bytes")
            if blake3(sealed).digest() != chunk:
                raise PeerError("it sends a chunk that does not match its name")
            peer.heard = trio.current_time()
            peer.drop(chunk)
            self._take(chunk, sealed)
        for chunk in absent:
            peer.heard = trio.current_time()
            peer.drop(chunk)
            if len(peer.lacks) < LACKS_MAX:
                peer.lacks.add(chunk)
            self._store.chunks.defer(chunk)
            self._wake_reader(chunk)
        self._signal()

    def _take(self, chunk: ChunkId, sealed: bytes) -> None:
        if self._store.chunks.is_wanted(chunk) or chunk in self._readers:
            self._store.chunks.put(chunk, sealed)
            self._store.on_dirty()
            self.received_bytes += len(sealed)
            self.received_chunks += 1
            self.is_stuck = False
            self.on_arrival(chunk)
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
        self._readers.update(missing)
        try:
            await self._fetch(missing, deadline, grace)
        finally:
            self._readers.subtract(missing)
            self._readers += Counter()  # forgets those that nobody reads
            for chunk in missing:
                if chunk not in self._readers:
                    self._arrivals.pop(chunk, None)

    async def _fetch(self, missing: list[ChunkId], deadline: float, grace: float) -> None:
        while missing:
            with trio.move_on_at(deadline):
                await self._fetch_round(missing, grace)
            missing = [chunk for chunk in missing if not self._store.chunks.has(chunk)]
            if missing and trio.current_time() >= deadline:
                raise FsError(ErrorKind.TIMED_OUT if self._peers else ErrorKind.UNREACHABLE)

    async def _fetch_round(self, missing: list[ChunkId], grace: float) -> None:
        """Wait for chunks until something arrives, fails or takes too long."""
        changed = self._changed
        events = [self._arrivals.setdefault(chunk, trio.Event()) for chunk in missing]
        if self._ask_urgently(missing):
            if trio.current_time() >= grace:
                raise FsError(ErrorKind.UNREACHABLE)
            with trio.move_on_at(grace):
                await changed.wait()
            return
        with trio.move_on_after(ANSWER_S):
            await trio.lowlevel.checkpoint()
            for event in events:
                await event.wait()

    def _ask_urgently(self, missing: list[ChunkId]) -> list[ChunkId]:
        """Ask the best peer for each chunk; returns those that no connected peer has.

        Each peer is asked once; the next one as soon as the last was asked long ago.
        """
        wanted: dict[Source, list[ChunkId]] = {}
        hopeless = []
        now = trio.current_time()
        for chunk in missing:
            asked = [peer.urgent[chunk] for peer in self._peers.values() if chunk in peer.urgent]
            if self._store.chunks.has(chunk) or (asked and now - max(asked) < ANSWER_S):
                continue
            able = [
                peer
                for peer in self._peers.values()
                if chunk not in peer.lacks and chunk not in peer.urgent
            ]
            if able:
                best = min(able, key=lambda peer: len(peer.asked) + len(peer.urgent))
                best.urgent[chunk] = now
                wanted.setdefault(best.source, []).append(chunk)
            elif not asked:
                hopeless.append(chunk)
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
        self.keeps_all = fetch_all
        pause, left = float(RETRY_S), -1
        while True:
            changed = self._changed
            self._give_up_on_silent()
            self._ask_in_background(fetch_all=fetch_all)
            with trio.move_on_after(pause) as timeout:
                await changed.wait()
            if timeout.cancelled_caught:
                for peer in self._peers.values():
                    peer.lacks.clear()
                is_owed = any(peer.asked for peer in self._peers.values())
                self.is_stuck = left == self._store.chunks.want_count and not is_owed
                pause = min(2 * pause, RETRY_MAX_S) if self.is_stuck else float(RETRY_S)
                left = self._store.chunks.want_count

    def _give_up_on_silent(self) -> None:
        """Give others what a peer was asked for and does not send."""
        late = trio.current_time() - STALL_S
        for peer in self._peers.values():
            if peer.asked and peer.heard < late:
                peer.lacks |= peer.asked
                peer.asked.clear()

    def _ask_in_background(self, *, fetch_all: bool) -> None:
        chunks = self._store.chunks
        if chunks.waiting_bytes > UNCOMMITTED_BYTES_MAX or not chunks.has_room():
            return  # the disk is behind, or the rest of it is for what is written here
        idle = [peer for peer in self._peers.values() if len(peer.asked) < WINDOW_CHUNKS]
        if not idle:
            return
        asked = {c for peer in self._peers.values() for c in (*peer.asked, *peer.urgent)}
        limit = len(asked) + WINDOW_CHUNKS * len(idle) * 2
        known = chunks.wanted(limit) if fetch_all else []
        queue = [c for c in (*self._soon, *known) if c not in asked]
        for peer in idle:
            room = WINDOW_CHUNKS - len(peer.asked)
            chosen = [chunk for chunk in queue if chunk not in peer.lacks][:room]
            if chosen:
                peer.heard = peer.heard if peer.asked else trio.current_time()
                peer.asked.update(chosen)
                taken = set(chosen)
                queue = [chunk for chunk in queue if chunk not in taken]
                peer.source.want(tuple(chosen), urgent=False)
