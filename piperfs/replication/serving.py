"""Giving one peer the chunks it asks for: what a reader there waits for before everything else.

Neither kind is read from the store before there is room to send it, so a peer that asks for much
costs a list of names. What is asked for in vain is remembered, and the peer told when it comes.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Final

import trio

from piperfs.core.errors import PeerError
from piperfs.core.ids import ChunkId
from piperfs.core.limits import KIB, MIB
from piperfs.protocol import messages as m
from piperfs.replication.channel import Channel
from piperfs.store.chunks import ChunkStore

CHUNKS_BYTES: Final = 640 * KIB  # of one message
SERVED_AT_ONCE: Final = 4  # chunks
URGENT_QUEUED_MAX: Final = 1 * MIB  # waits to be sent before a reader's chunks join it
LACKING_MAX: Final = 16_384  # chunks asked for in vain that are remembered
HAVE_PAUSE_S: Final = 0.05


class Serving:
    """What one peer asked for."""

    def __init__(self, channel: Channel, chunks: ChunkStore) -> None:
        self._channel = channel
        self._chunks = chunks
        self._asked = _Queue()
        self._asked_urgently = _Queue()
        self._lacking: set[ChunkId] = set()  # what it asked for and was not here
        self._arrived = _Queue()  # and is here now

    async def run(self) -> None:
        """Serve for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve_readers)
            nursery.start_soon(self._serve_background)
            nursery.start_soon(self._tell_of_arrivals)

    def chunk_arrived(self, chunk: ChunkId) -> None:
        """A chunk came that the peer may have asked for in vain."""
        if chunk in self._lacking:
            self._lacking.discard(chunk)
            self._arrived.add((chunk,))

    def note(self, want: m.Want) -> None:
        queue = self._asked_urgently if want.urgent else self._asked
        if len(queue.chunks) + len(want.chunks) > 2 * m.ITEMS_MAX:
            raise PeerError("it asks for too many chunks at once")
        if want.urgent:
            self._asked.remove(want.chunks)
        queue.add(want.chunks)

    def _send_chunks(self, wanted: Sequence[ChunkId], *, urgent: bool) -> None:
        chunks: list[tuple[ChunkId, bytes]] = []
        absent: list[ChunkId] = []
        size = 0
        for chunk in wanted:
            sealed = self._chunks.get(chunk)
            if sealed is None:
                absent.append(chunk)
                if len(self._lacking) < LACKING_MAX:
                    self._lacking.add(chunk)
                continue
            if chunks and size + len(sealed) > CHUNKS_BYTES:
                self._channel.send(m.Chunks(tuple(chunks)), urgent=urgent)
                chunks, size = [], 0
            chunks.append((chunk, sealed))
            size += len(sealed)
        self._channel.send(m.Chunks(tuple(chunks), tuple(absent)), urgent=urgent)

    async def _serve_readers(self) -> None:
        """Send what readers wait for, in front of everything else."""
        while True:
            part = await self._asked_urgently.take(SERVED_AT_ONCE)
            self._send_chunks(part, urgent=True)
            await self._channel.wait_for_room(URGENT_QUEUED_MAX, urgent=True)
            await trio.lowlevel.checkpoint()

    async def _serve_background(self) -> None:
        """Send what was asked for in the background, a little at a time."""
        while True:
            part = await self._asked.take(SERVED_AT_ONCE)
            self._send_chunks(part, urgent=False)
            await self._channel.wait_for_room()
            await trio.lowlevel.checkpoint()

    async def _tell_of_arrivals(self) -> None:
        """Say that chunks are here now that were not when the peer asked."""
        while True:
            part = await self._arrived.take(m.ITEMS_MAX)
            self._channel.send(m.Have(tuple(part)))
            await trio.sleep(HAVE_PAUSE_S)


class _Queue:
    """Chunks that somebody waits for, each once, in order."""

    def __init__(self) -> None:
        self.chunks: dict[ChunkId, None] = {}
        self._filled = trio.Event()

    def add(self, chunks: Sequence[ChunkId]) -> None:
        self.chunks.update(dict.fromkeys(chunks))
        self._filled.set()

    def remove(self, chunks: Sequence[ChunkId]) -> None:
        for chunk in chunks:
            self.chunks.pop(chunk, None)

    async def take(self, count: int) -> list[ChunkId]:
        """Some of them, once there are any."""
        while not self.chunks:
            self._filled = trio.Event()
            await self._filled.wait()
        taken = list(islice(self.chunks, count))
        self.remove(taken)
        return taken
