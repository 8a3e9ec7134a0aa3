"""A network switch in user space between network namespaces, whose links can be made bad.

Each computer of a run has a TAP device in a namespace of its own; every frame it sends arrives
here. So delay, loss, limits and cuts work in each direction by itself, silently as real networks
fail, and need nothing of the kernel beyond TAP. Runs as a process of its own, which reads one
JSON line for each change from standard input and ends with it.
"""

import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Final

TUNSETIFF: Final = 0x400454CA
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
FRAME_BYTES_MAX: Final = 16_384
MTU: Final = 9_000
BACKLOG_S: Final = 0.5  # a limited link queues this much and drops the rest


def mac(port: int) -> str:
    return f"02:00:00:00:00:{port + 1:02x}"


@dataclass(slots=True)
class Link:
    """One direction between two computers."""

    up: bool = True
    delay_s: float = 0.0
    loss: float = 0.0
    rate: float = 0.0  # bytes a second; 0 for no limit
    free_at: float = 0.0  # when the last accepted frame has left


@dataclass(slots=True)
class Switch:
    """Ports by number, links by pair of ports, frames by the time they are due."""

    taps: list[int]
    random: random.Random
    links: dict[tuple[int, int], Link] = field(default_factory=dict)
    due: list[tuple[float, int, int, bytes]] = field(default_factory=list)
    count: int = 0

    def link(self, source: int, target: int) -> Link:
        return self.links.setdefault((source, target), Link())

    def accept(self, source: int, frame: bytes, now: float) -> None:
        for target in self._targets(source, frame):
            link = self.link(source, target)
            if not link.up or (link.loss and self.random.random() < link.loss):
                continue
            leaves = now
            if link.rate:
                leaves = max(now, link.free_at) + len(frame) / link.rate
                if leaves - now > BACKLOG_S + len(frame) / link.rate:
                    continue
                link.free_at = leaves
            if leaves + link.delay_s <= now:
                self._deliver(target, frame)
                continue
            self.count += 1
            heapq.heappush(self.due, (leaves + link.delay_s, self.count, target, frame))

    def _targets(self, source: int, frame: bytes) -> list[int]:
        if frame[0] & 1:  # to all
            return [port for port in range(len(self.taps)) if port != source]
        port = frame[5] - 1
        return [port] if 0 <= port < len(self.taps) and port != source else []

    def _deliver(self, port: int, frame: bytes) -> None:
        try:
            os.write(self.taps[port], frame)
        except (BlockingIOError, OSError):
            return  # its queue is full or the device is down: lost, as on a wire

    def deliver_due(self, now: float) -> float | None:
        """Send on what is due; returns how long until the next frame is."""
        while self.due and self.due[0][0] <= now:
            _, _, port, frame = heapq.heappop(self.due)
            self._deliver(port, frame)
        return max(0.0, self.due[0][0] - now) if self.due else None

    def change(self, order: dict[str, Any]) -> None:
        link = self.link(order["from"], order["to"])
        for name in ("up", "delay_s", "loss", "rate"):
            setattr(link, name, order.get(name, getattr(Link(), name)))
        link.free_at = 0.0


def open_tap(namespace: str, port: int) -> int:
    """A TAP device that lies in the namespace as `lan`, with an address."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"pfs{os.getpid() % 100_000}t{port}"
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    inside = ["nsenter", f"--net=/run/netns/{namespace}", "ip"]
    for command in (
        ["ip", "link", "set", name, "address", mac(port), "mtu", str(MTU), "netns", namespace],
        [*inside, "link", "set", name, "name", "lan"],
        [*inside, "link", "set", "lo", "up"],
        [*inside, "address", "add", f"10.77.0.{port + 1}/24", "dev", "lan"],
        [*inside, "link", "set", "lan", "up", "multicast", "on"],
        [*inside, "route", "add", "224.0.0.0/4", "dev", "lan"],
    ):
        subprocess.run(command, check=True)
    return tap


def main() -> None:
    """Take namespaces as arguments; say `ready`, then switch until standard input ends."""
    namespaces = sys.argv[1:]
    taps = [open_tap(namespace, port) for port, namespace in enumerate(namespaces)]
    switch = Switch(taps, random.Random(len(taps)))
    poll = select.poll()
    ports = {tap: port for port, tap in enumerate(taps)}
    for descriptor in (0, *taps):
        poll.register(descriptor, select.POLLIN)
    print("ready", flush=True)
    wait: float | None = None
    while True:
        for descriptor, _ in poll.poll(None if wait is None else max(1, int(wait * 1000))):
            if descriptor == 0:
                line = sys.stdin.buffer.raw.readline()
                if not line:
                    return
                switch.change(json.loads(line))
            else:
                _drain(switch, descriptor, ports[descriptor])
        wait = switch.deliver_due(time.monotonic())


def _drain(switch: Switch, tap: int, port: int) -> None:
    """Take what waits at a port, at most so much that the others get their turn."""
    for _ in range(32):
        try:
            frame = os.read(tap, FRAME_BYTES_MAX)
        except (BlockingIOError, OSError):
            return
        switch.accept(port, frame, time.monotonic())


if __name__ == "__main__":
    main()
