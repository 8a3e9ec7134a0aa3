"""Strangers against a real daemon: connects, floods, dripping, garbage, while members go on.

Two mounted replicas exchange small files all the time. Against one of them every kind of attack
runs for a while, from one address and from fifty. Told are how long files took to arrive, before
and meanwhile, what the attacked daemon used of processor and memory, and what it did with the
strangers. The run fails if a file does not arrive, or memory grows by more than 64 MiB.
"""

import argparse
import os
import random
import socket
import ssl
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.volumes import Replica, two_mounted  # noqa: E402 - found only now

GROWTH_MIB_MAX = 64
ARRIVAL_S_MAX = 15
THREADS = 8
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Door:
    """Where strangers knock, and from where they come."""

    port: int
    origins: int

    def connect(self) -> socket.socket:
        origin = f"127.0.1.{1 + random.randrange(self.origins)}"
        return socket.create_connection(("127.0.0.1", self.port), 5, (origin, 0))

    def secure(self) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["piperfs/1"])
        return context.wrap_socket(self.connect())


def knock(door: Door) -> None:
    """Connect and go."""
    door.connect().close()


def say_nothing(door: Door) -> None:
    """Hold a connection without a word until it is closed."""
    with door.connect() as stream:
        stream.settimeout(8)
        stream.recv(1)


def drip(door: Door) -> None:
    """Begin TLS a byte at a time."""
    with door.connect() as stream:
        for byte in b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500):
            stream.sendall(bytes((byte,)))
            time.sleep(0.05)


def speak_http(door: Door) -> None:
    """Something that is not TLS."""
    with door.connect() as stream:
        stream.sendall(b"GET / HTTP/1.1\r\n\r\n" * 50)
        stream.settimeout(8)
        stream.recv(100)


def greet_in_vain(door: Door) -> None:
    """TLS, and nothing then."""
    with door.secure() as stream:
        stream.settimeout(8)
        stream.recv(1)


def claim_much(door: Door) -> None:
    """A frame of four gigabytes, and a megabyte of it."""
    with door.secure() as stream:
        stream.sendall(struct.pack(">I", 0xFFFFFFFF) + bytes(1 << 20))
        stream.settimeout(8)
        stream.recv(1)


def babble(door: Door) -> None:
    """Frames of noise."""
    with door.secure() as stream:
        for _ in range(200):
            stream.sendall(struct.pack(">I", 4000) + os.urandom(4000))


ATTACKS: tuple[Callable[[Door], None], ...] = (
    knock, say_nothing, drip, speak_http, greet_in_vain, claim_much, babble,
)  # fmt: skip


class Crowd:
    """Threads that do one thing over and over."""

    def __init__(self, deed: Callable[[Door], None], door: Door, most: int) -> None:
        self._deed, self._door, self._most = deed, door, most
        self._over = threading.Event()
        self.tries = 0
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(THREADS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    @property
    def is_done(self) -> bool:
        return self.tries >= self._most

    def _run(self) -> None:
        while not self._over.is_set() and not self.is_done:
            self.tries += 1
            with suppress(OSError):
                self._deed(self._door)


class Process:
    """What a daemon uses."""

    def __init__(self, pid: int) -> None:
        self._directory = Path(f"/proc/{pid}")

    def cpu_s(self) -> float:
        fields = (self._directory / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_mib(self) -> int:
        for line in (self._directory / "status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) >> 10
        return 0


def exchange(sender: Replica, receiver: Replica, until: Callable[[], bool]) -> list[float]:
    """Send small files until told to stop; returns how long each took, in milliseconds."""
    taken: list[float] = []
    while not until() or not taken:
        name = f"{time.monotonic_ns()}"
        begin = time.monotonic()
        (sender.mountpoint / name).write_text(name)
        target = receiver.mountpoint / name
        while not (target.exists() and target.read_text() == name):
            if time.monotonic() - begin > ARRIVAL_S_MAX:
                raise SystemExit(f"a file of a member did not arrive within {ARRIVAL_S_MAX} s")
            time.sleep(0.005)
        taken.append((time.monotonic() - begin) * 1000)
        (sender.mountpoint / name).unlink()
        time.sleep(0.05)
    return taken


def after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def quantiles(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{statistics.median(ordered):6.0f} {ordered[int(len(ordered) * 0.95)]:6.0f}"


def refusals(replica: Replica) -> Counter[str]:
    """What the daemon counted, by reason."""
    found: Counter[str] = Counter()
    for line in replica.piperfs("metrics", str(replica.state)).splitlines():
        if "refused" in line or "turned_away" in line:
            name, _, value = line.rpartition(" ")
            if not name.startswith("#"):
                found[name.removeprefix("piperfs_")] = int(float(value))
    return found


def main() -> int:
    """Run all attacks; returns 1 if a bound broke."""
    parser = argparse.ArgumentParser(prog="tools/outsiders", description=__doc__)
    parser.add_argument("--connects", type=int, default=10_000, help="bare connects [10000]")
    parser.add_argument("--seconds", type=float, default=8, help="of each other attack [8]")
    arguments = parser.parse_args()
    place = tempfile.mkdtemp(prefix="piperfs-outsiders-")
    with two_mounted(Path(place)) as (anna, ben):
        return run(anna, ben, arguments.connects, arguments.seconds)


def run(anna: Replica, ben: Replica, connects: int, seconds: float) -> int:
    daemon = Process(anna.pid)
    port = int(anna.address.rpartition(":")[2])
    quiet = exchange(ben, anna, after(seconds))
    quiet = exchange(ben, anna, after(seconds))
    begin = daemon.resident_mib()
    print("attack         from    tries     CPU   memory   files p50    p95 ms")
    print(f"{'none':<14} {'':>4} {'':>8} {'':>7} {begin:>5} MiB   {quantiles(quiet)}", flush=True)
    worst = 0
    for deed in ATTACKS:
        for origins in (1, 50):
            most = connects if deed is knock else 1 << 30
            over = after(seconds)
            cpu, clock = daemon.cpu_s(), time.monotonic()
            with Crowd(deed, Door(port, origins), most) as crowd:
                is_over = (lambda c=crowd: c.is_done) if deed is knock else over
                taken = exchange(ben, anna, is_over)
                share = (daemon.cpu_s() - cpu) / (time.monotonic() - clock)
                grown = daemon.resident_mib() - begin
            worst = max(worst, grown)
            print(
                f"{deed.__name__:<14} {origins:>4} {crowd.tries:>8,} {share:>6.0%} "
                f"{grown:>+5} MiB   {quantiles(taken)}",
                flush=True,
            )
    for name, value in sorted(refusals(anna).items()):
        if value:
            print(f"{value:>8,} {name}")
    print(f"worst growth of memory: {worst} MiB of {GROWTH_MIB_MAX}")
    return 1 if worst > GROWTH_MIB_MAX else 0


if __name__ == "__main__":
    sys.exit(main())
