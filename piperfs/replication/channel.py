"""One connection as messages: urgent ones first, none larger than a frame, none unbounded.

The writer is a task of its own, so reading never waits for writing and two peers that both send
much cannot block each other.
"""

import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from piperfs.core.errors import DisconnectedError, PeerError
from piperfs.core.limits import (
    FRAME_BYTES_PER_S_MIN,
    FRAME_GRACE_S,
    MIB,
    QUEUED_BYTES_MAX,
)
from piperfs.protocol.framing import FrameReader
from piperfs.protocol.messages import Message, decode, encode, reason_of
from piperfs.replication.network import Link

READ_BYTES: Final = 256 * 1024
OUTBOX_BYTES_MAX: Final = 4 * MIB
SEND_BYTES: Final = 128 * 1024  # at once, so that a slow line shows progress
SEND_TIMEOUT_S: Final = 25  # for that much
SILENCE_MAX_S: Final = 20
SILENT: Final = "it fell silent"
STALLED: Final = "it takes nothing that is sent"
Frame: TypeAlias = tuple[str, bytes]  # why it is sent, for the metrics, and the bytes
Buffer: TypeAlias = bytes | bytearray | memoryview


class Channel:
    """Messages over a link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._stream = link.stream
        self._reader = FrameReader()
        self._urgent: deque[Frame] = deque()
        self._bulk: deque[Frame] = deque()
        self._queued = 0
        self._queued_urgent = 0
        self._has_output = trio.Event()
        self._has_room = trio.Event()  # shared by all who wait
        self.is_overrun = False
        self.received: Counter[str] = Counter()  # bytes by reason
        self.sent: Counter[str] = Counter()

    @property
    def address(self) -> str:
        return self._link.address

    @property
    def binding(self) -> bytes:
        return self._link.binding

    def trust(self) -> None:
        """The other end has proved who it is."""
        self._reader.trust()

    def send(self, message: Message, *, urgent: bool = True) -> None:
        """Queue a message; never fails, since others than the connection's own tasks call it.

        If the other end does not read what it asks for, the writer ends the connection.
        """
        frame = encode(message)
        self.is_overrun = self.is_overrun or self._queued + len(frame) > QUEUED_BYTES_MAX
        if not self.is_overrun:
            (self._urgent if urgent else self._bulk).append((reason_of(message), frame))
            self._queued += len(frame)
            self._queued_urgent += len(frame) if urgent else 0
        self._has_output.set()

    async def wait_for_room(
        self, queued_max: int = OUTBOX_BYTES_MAX, *, urgent: bool = False
    ) -> None:
        """Return when no more than so many bytes wait to be sent, urgent ones or all."""
        while (self._queued_urgent if urgent else self._queued) > queued_max:
            if self._has_room.is_set():
                self._has_room = trio.Event()
            await self._has_room.wait()

    async def run_writer(self) -> None:
        """Send what is queued, for ever. Raises PeerError when the connection ends."""
        with trio.CancelScope() as patience:  # one for all: each costs more than a small frame
            while True:
                await self._has_output.wait()
                self._has_output = trio.Event()
                if self.is_overrun:
                    raise PeerError("it asks for more than it reads")
                while self._urgent or self._bulk:
                    await self._send_some(patience)
                patience.deadline = math.inf
        raise DisconnectedError(STALLED)

    def _pop(self) -> Frame:
        if not self._urgent:
            return self._bulk.popleft()
        reason, frame = self._urgent.popleft()
        self._queued_urgent -= len(frame)
        return reason, frame

    async def _send_some(self, patience: trio.CancelScope) -> None:
        """Send as many frames as go at once; each part of them moves the deadline on."""
        frames = [self._pop()]
        size = len(frames[0][1])
        while (self._urgent or self._bulk) and size < SEND_BYTES:
            frames.append(self._pop())
            size += len(frames[-1][1])
        view = memoryview(frames[0][1] if len(frames) == 1 else b"".join(f for _, f in frames))
        try:
            for start in range(0, size, SEND_BYTES):
                patience.deadline = trio.current_time() + SEND_TIMEOUT_S
                await self._stream.send_all(view[start : start + SEND_BYTES])
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise DisconnectedError("the connection broke") from error
        for reason, frame in frames:
            self.sent[reason] += len(frame)
        self._queued -= size
        self._has_room.set()

    async def flush(self) -> None:
        """Send what is queued and urgent, now; for goodbyes."""
        with trio.CancelScope() as patience:
            while self._urgent:
                await self._send_some(patience)
        if patience.cancelled_caught:
            raise DisconnectedError(STALLED)

    def _take(self, body: Buffer) -> Message:
        message = decode(body)
        self.received[reason_of(message)] += len(body)
        return message

    async def run_reader(self, handle: Callable[[Message], Awaitable[None]]) -> None:
        """Hand every message over, for ever.

        Raises:
            PeerError: the connection ended, or the other end fell silent.
        """
        with trio.CancelScope() as patience:
            while True:
                messages = await self._read(patience)
                patience.deadline = math.inf  # what is made of them takes its time
                for message in messages:
                    await handle(message)
        raise DisconnectedError(SILENT)

    async def receive(self) -> list[Message]:
        """At least one message. Raises PeerError when the connection ends or falls silent."""
        with trio.CancelScope() as patience:
            return await self._read(patience)
        raise DisconnectedError(SILENT)

    async def _read(self, patience: trio.CancelScope) -> list[Message]:
        begun, size = trio.current_time(), 0
        while True:
            patience.deadline = trio.current_time() + SILENCE_MAX_S
            try:
                data = await self._stream.receive_some(READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise DisconnectedError("the connection broke") from error
            if not data:
                raise DisconnectedError("it closed the connection")
            size += len(data)
            if is_too_slow(size, trio.current_time() - begun):
                raise DisconnectedError("it drips its messages")
            found = [self._take(body) for body in self._reader.feed(data)]
            if found:
                return found


def is_too_slow(size: int, elapsed_s: float) -> bool:
    """Whether a frame comes slower than any line that is of use."""
    return elapsed_s > FRAME_GRACE_S and size < FRAME_BYTES_PER_S_MIN * elapsed_s
