"""One connection as messages: urgent ones first, none larger than a frame, none unbounded.

The writer is a task of its own, so reading never waits for writing and two peers that both send
much cannot block each other.
"""

from collections import Counter, deque
from typing import Final, TypeAlias

import trio

from piperfs.core.errors import DisconnectedError, PeerError
from piperfs.core.limits import MIB
from piperfs.protocol.framing import FrameReader
from piperfs.protocol.messages import Message, decode, encode, reason_of
from piperfs.replication.network import Link

READ_BYTES: Final = 256 * 1024
OUTBOX_BYTES_MAX: Final = 4 * MIB
URGENT_BYTES_MAX: Final = 64 * MIB  # a peer that asks for more than it reads is let go
SEND_TIMEOUT_S: Final = 30
SILENCE_MAX_S: Final = 20
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
        self._has_output = trio.Event()
        self._has_room = trio.Event()  # shared by all who wait
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
        """Queue a message. Raises PeerError if the other end does not read."""
        frame = encode(message)
        (self._urgent if urgent else self._bulk).append((reason_of(message), frame))
        self._queued += len(frame)
        if self._queued > URGENT_BYTES_MAX:
            raise PeerError("it asks for more than it reads")
        self._has_output.set()

    async def wait_for_room(self) -> None:
        """Return when bulk data may be queued."""
        while self._queued > OUTBOX_BYTES_MAX:
            if self._has_room.is_set():
                self._has_room = trio.Event()
            await self._has_room.wait()

    async def run_writer(self) -> None:
        """Send what is queued, for ever. Raises PeerError when the connection ends."""
        while True:
            await self._has_output.wait()
            self._has_output = trio.Event()
            while self._urgent or self._bulk:
                await self._send_frame(*(self._urgent or self._bulk).popleft())

    async def _send_frame(self, reason: str, frame: bytes) -> None:
        try:
            with trio.fail_after(SEND_TIMEOUT_S):
                await self._stream.send_all(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            raise DisconnectedError("the connection broke") from error
        self.sent[reason] += len(frame)
        self._queued -= len(frame)
        if self._queued <= OUTBOX_BYTES_MAX:
            self._has_room.set()

    async def flush(self) -> None:
        """Send what is queued, now; for goodbyes."""
        while self._urgent:
            await self._send_frame(*self._urgent.popleft())

    def _take(self, body: Buffer) -> Message:
        message = decode(body)
        self.received[reason_of(message)] += len(body)
        return message

    async def receive(self) -> list[Message]:
        """At least one message. Raises PeerError when the connection ends or falls silent."""
        try:
            with trio.fail_after(SILENCE_MAX_S) as patience:
                while True:
                    data = await self._stream.receive_some(READ_BYTES)
                    if not data:
                        raise DisconnectedError("it closed the connection")
                    found = [self._take(body) for body in self._reader.feed(data)]
                    if found:
                        return found
                    patience.deadline = trio.current_time() + SILENCE_MAX_S
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise DisconnectedError("the connection broke") from error
        except trio.TooSlowError as error:
            raise DisconnectedError("it fell silent") from error
