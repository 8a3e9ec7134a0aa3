"""A simulated network: connections as TLS over TCP gives them, with everything that befalls them.

Bytes of a connection arrive in order and unaltered, after a while, or the connection breaks; that
is what the real transport promises, and lost, doubled, reordered or altered packets come down to
delays and breaks. Lines may be told to break that promise too, frame by frame, so that the
session's own repair is tried. Each line has one direction, so cuts and delays may have one as well.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import trio

from piperfs.core.errors import PeerError
from piperfs.replication.network import CONNECT_TIMEOUT_S, Accept, Link
from tests.sim import loop
from tests.sim.skew import add_fields
from tests.sim.trace import Trace

NEVER = float("inf")
WINDOW_BYTES = 256 * 1024
RETRANSMIT_S = 0.2
YIELD_CHANCE = 0.25  # a turn of the scheduler costs as much as the rest of a frame
GREETING_FRAMES = 4  # of each direction; beyond them frames may be tampered with
LATENCY_S = 0.0005


@dataclass(eq=False)
class Line:
    """One direction between two computers."""

    latency: float = LATENCY_S
    jitter: float = 0.0
    loss: float = 0.0  # of packets: a delay
    corrupt: float = 0.0  # of packets beyond TLS's patience: a broken connection
    stall: float = 0.0  # chance that a frame stops half way
    tamper: float = 0.0  # chance that a frame is dropped, doubled, swapped or altered
    is_cut: bool = False
    wires: list["Wire"] = field(default_factory=list)

    def heal(self) -> None:
        """Be a good line again; what was held up arrives."""
        self.latency, self.jitter = LATENCY_S, 0.0
        self.loss = self.corrupt = self.stall = self.tamper = 0.0
        self.mend()

    def mend(self) -> None:
        if self.is_cut:
            self.is_cut = False
            for wire in self.wires:
                wire.release()


class Wire:
    """One direction of one connection."""

    def __init__(self, fabric: "Fabric", line: Line, name: str) -> None:
        self._fabric = fabric
        self._line = line
        self._name = name
        self._segments: deque[tuple[float, bytes]] = deque()
        self._waiting = 0
        self._last = 0.0
        self._expected = 0.0
        self._frames = 0
        self._changed = trio.Event()
        self.is_broken = False
        self.is_ended = False
        line.wires.append(self)

    def _signal(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def stop(self, *, broken: bool) -> None:
        self.is_broken |= broken
        self.is_ended = True
        if self in self._line.wires:
            self._line.wires.remove(self)
        self._signal()

    def release(self) -> None:
        """What a cut held up goes on its way."""
        arrival = trio.current_time() + self._line.latency
        self._segments = deque((min(at, arrival), data) for at, data in self._segments)
        self._last = arrival
        self._expect(arrival)

    def is_slow_to_take(self) -> bool:
        """Whether somebody else has a turn before the next frame is taken."""
        return self._fabric.random.random() < YIELD_CHANCE

    async def send(self, data: bytes, break_: Callable[[], None]) -> None:
        while self._waiting > WINDOW_BYTES and not self.is_ended:
            await self._changed.wait()
        if self.is_ended:
            raise trio.BrokenResourceError
        self._frames += 1
        if data[5:15] == b"\xa9reconcile":
            self._fabric.trace.sometimes("ranges were compared")
        line, random = self._line, self._fabric.random
        if line.corrupt and random.random() < line.corrupt:
            self._fabric.trace.sometimes("a connection broke under altered packets")
            break_()
            raise trio.BrokenResourceError
        if line.tamper and self._frames > GREETING_FRAMES and random.random() < line.tamper:
            self._tamper(data, random)
        elif line.stall and random.random() < line.stall:
            self._fabric.trace.sometimes("a frame stopped half way")
            half = len(data) // 2
            self._put(data[:half], self._delay())
            self._put(data[half:], self._delay() + random.uniform(0.5, 25))
        else:
            self._put(data, self._delay())

    def _delay(self) -> float:
        line, random = self._line, self._fabric.random
        delay = line.latency
        if line.jitter:
            delay += random.random() * line.jitter
        if line.loss:
            timeout = RETRANSMIT_S
            while random.random() < line.loss and timeout < 10:
                delay += timeout
                timeout *= 2
                self._fabric.trace.sometimes("a packet was sent again")
        return delay

    def _tamper(self, data: bytes, random: Random) -> None:
        how = random.choice(("drop", "double", "swap", "alter"))
        self._fabric.trace.sometimes(f"a frame was tampered with: {how}")
        if how == "double":
            self._put(data, self._delay())
            self._put(data, self._delay())
        elif how == "swap" and self._segments:
            at, before = self._segments.pop()
            self._segments.append((at, data))
            self._segments.append((at, before))
            self._waiting += len(data)
        elif how == "alter" and len(data) > 5:
            changed = bytearray(data)
            changed[random.randrange(4, len(data))] ^= 1 << random.randrange(8)
            self._put(bytes(changed), self._delay())

    def _put(self, data: bytes, delay: float) -> None:
        arrival = NEVER if self._line.is_cut else trio.current_time() + delay
        self._last = max(self._last, arrival)
        self._segments.append((self._last, data))
        self._waiting += len(data)
        if self._last < NEVER:
            self._expect(self._last)

    def _expect(self, arrival: float) -> None:
        """Whoever waits for bytes is woken when they arrive."""
        if arrival != self._expected:
            self._expected = arrival
            loop.call_at(arrival, self._signal)

    async def receive(self, limit: int) -> bytes:
        has_waited = False
        while True:
            if self.is_broken:
                raise trio.BrokenResourceError
            now = trio.current_time()
            segments = self._segments
            if segments and segments[0][0] <= now:
                if not has_waited:
                    await trio.lowlevel.checkpoint()
                return self._take(limit, now)
            if self.is_ended and not segments:
                return b""
            await self._changed.wait()
            has_waited = True

    def _take(self, limit: int, now: float) -> bytes:
        parts: list[bytes] = []
        size = 0
        segments = self._segments
        while segments and segments[0][0] <= now and size < limit:
            _, data = segments.popleft()
            parts.append(data)
            size += len(data)
        self._waiting -= size
        data = b"".join(parts)
        self._fabric.trace.note(self._name, data)
        self._fabric.frames += len(parts)
        self._fabric.bytes += size
        if self._waiting <= WINDOW_BYTES < self._waiting + size:
            self._signal()
        return data


class SimStream(trio.abc.Stream):
    """One end of a connection."""

    def __init__(self, incoming: Wire, outgoing: Wire, *, is_later: bool = False) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._is_later = is_later
        self.is_closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._outgoing.is_slow_to_take():
            await trio.lowlevel.checkpoint()
        if self.is_closed:
            raise trio.ClosedResourceError
        frame = add_fields(bytes(data)) if self._is_later else bytes(data)
        await self._outgoing.send(frame, self.break_)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self.is_closed:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError
        return await self._incoming.receive(max_bytes or 65536)

    def break_(self) -> None:
        """Both ends find the connection broken."""
        self._incoming.stop(broken=True)
        self._outgoing.stop(broken=True)

    def abandon(self) -> None:
        """This end is gone without a word; the other one has to notice by itself."""
        self.is_closed = True

    async def aclose(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._incoming.stop(broken=True)
            self._outgoing.stop(broken=False)
        await trio.lowlevel.checkpoint()


@dataclass(eq=False)
class Fabric:
    """All lines and all listeners."""

    random: Random
    trace: Trace
    listeners: dict[str, "SimNetwork"] = field(default_factory=dict)
    lines: dict[tuple[str, str], Line] = field(default_factory=dict)
    default_loss: float = 0.0
    frames: int = 0
    bytes: int = 0
    connections: int = 0

    def line(self, source: str, target: str) -> Line:
        found = self.lines.get((source, target))
        if found is None:
            found = self.lines[source, target] = Line(loss=self.default_loss)
        return found

    def heal(self) -> None:
        for line in self.lines.values():
            line.heal()


class SimNetwork:
    """The network as one computer sees it, from one start to its end."""

    def __init__(self, fabric: Fabric, address: str, *, is_later: bool = False) -> None:
        self._fabric = fabric
        self._is_later = is_later
        self.address = address
        self._accept: Accept | None = None
        self._nursery: trio.Nursery | None = None
        self._streams: list[SimStream] = []

    async def listen(
        self, accept: Accept, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self._accept = accept
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._fabric.listeners[self.address] = self
            task_status.started([self.address])
            try:
                await trio.sleep_forever()
            finally:
                self.unplug(broken=True)

    async def dial(self, address: str) -> Link:
        there = self._fabric.line(self.address, address)
        back = self._fabric.line(address, self.address)
        if there.is_cut or back.is_cut:
            await trio.sleep(CONNECT_TIMEOUT_S)
            raise PeerError(f"nobody answers at {address}")
        await trio.sleep(there.latency + back.latency)
        other = self._fabric.listeners.get(address)
        if other is None or other._nursery is None:
            raise PeerError(f"nobody answers at {address}")
        return self._connect(other, there, back)

    def _connect(self, other: "SimNetwork", there: Line, back: Line) -> Link:
        fabric = self._fabric
        fabric.connections += 1
        number = fabric.connections
        out = Wire(fabric, there, f"{number}>")
        into = Wire(fabric, back, f"{number}<")
        near = SimStream(into, out, is_later=self._is_later)
        far = SimStream(out, into, is_later=other._is_later)
        self._hold(near)
        other._hold(far)
        binding = fabric.random.randbytes(32)
        assert other._nursery is not None
        assert other._accept is not None
        link = Link(far, binding, self.address)
        other._nursery.start_soon(other._accept, link)
        fabric.trace.note("connected", self.address, other.address, number)
        return Link(near, binding, other.address)

    def _hold(self, stream: SimStream) -> None:
        self._streams = [each for each in self._streams if not each.is_closed]
        self._streams.append(stream)

    def reachable(self) -> list[str]:
        return [self.address]

    def unplug(self, *, broken: bool) -> None:
        """The computer is gone; the others see broken connections, or only silence."""
        if self._fabric.listeners.get(self.address) is self:
            del self._fabric.listeners[self.address]
        streams, self._streams = self._streams, []
        for stream in streams:
            if broken:
                stream.break_()
            else:
                stream.abandon()
