"""What goes wrong in a chaos run, by a schedule that follows from the seed.

Each fault begins, lasts a while and ends; several overlap. At the end of a round everything is
healed, since convergence is only promised to those who can talk again.
"""

import heapq
import random
import signal
import time
from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hosts import Cluster, FailedError, Host

SECOND_NS: Final = 1_000_000_000
DAY_NS: Final = 86_400 * SECOND_NS
YEAR_S: Final = 31_557_600
Undo = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault: how likely, how long, and what it does."""

    weight: int
    shortest_s: float
    longest_s: float
    begin: Callable[["Nemesis"], Undo]


class Nemesis:
    """Injects faults into a cluster and takes them back."""

    def __init__(self, cluster: Cluster, source: random.Random, kinds: list[str]) -> None:
        self.cluster = cluster
        self.random = source
        self.kinds = kinds
        self.injected: Tally[str] = Tally()
        self._full: set[int] = set()
        self._ahead_ns = 0  # the latest date that any clock had, before today's

    def run(self, seconds: float, say: Callable[[str], None]) -> None:
        """Inject faults for a while, then take back those that still last."""
        begun = time.monotonic()
        ends: list[tuple[float, int, Undo]] = []
        count, next_at = 0, 0.5
        while (now := time.monotonic() - begun) < seconds:
            while ends and ends[0][0] <= now:
                heapq.heappop(ends)[2]()
            if now >= next_at:
                kind, lasts = self._choose()
                say(f"{now:5.1f} s  {kind} for {lasts:.1f} s")
                count += 1
                heapq.heappush(ends, (now + lasts, count, FAULTS[kind].begin(self)))
                self.injected[kind] += 1
                next_at = now + self.random.uniform(0.3, 4)
            time.sleep(0.05)
        for _, _, undo in ends:
            undo()
        self.heal()

    def _choose(self) -> tuple[str, float]:
        weights = [FAULTS[kind].weight for kind in self.kinds]
        (kind,) = self.random.choices(self.kinds, weights)
        fault = FAULTS[kind]
        return kind, self.random.uniform(fault.shortest_s, fault.longest_s)

    def heal(self) -> None:
        """Everything works again. Raises FailedError if a daemon does not come back."""
        self.cluster.network.heal()
        for host in self.cluster.hosts:
            host.empty_disk()
            host.clock.set(self._ahead_ns)  # what waits for its date is passed by all clocks
            host.signal(signal.SIGCONT)
        for host in self.cluster.hosts:
            if not host.is_alive:
                host.mount()

    def host(self) -> Host:
        return self.random.choice(self.cluster.hosts)

    def pair(self) -> tuple[int, int]:
        source, target = self.random.sample(range(len(self.cluster.hosts)), 2)
        return source, target

    # The faults

    def crash(self) -> Undo:
        host = self.host()
        host.signal(signal.SIGCONT)
        host.kill()
        return lambda: self._mount_again(host)

    def _mount_again(self, host: Host) -> None:
        if host.is_alive:
            return
        try:
            host.mount()
        except FailedError:
            if host.number not in self._full:
                raise

    def stop(self) -> Undo:
        host = self.host()
        host.signal(signal.SIGSTOP)
        return lambda: host.signal(signal.SIGCONT)

    def restart(self) -> Undo:
        host = self.host()
        host.signal(signal.SIGCONT)
        if host.is_alive:
            done = host.run("umount", str(host.mountpoint))
            host.generation.add(1)
            if done.returncode == 0:
                host.pid = 0
        return lambda: self._mount_again(host)

    def cut(self) -> Undo:
        source, target = self.pair()
        return self._worsen([(source, target), (target, source)], up=False)

    def one_way(self) -> Undo:
        return self._worsen([self.pair()], up=False)

    def isolate(self) -> Undo:
        alone = self.host().number
        others = [host.number for host in self.cluster.hosts if host.number != alone]
        links = [pair for other in others for pair in ((alone, other), (other, alone))]
        return self._worsen(links, up=False)

    def slow(self) -> Undo:
        source, target = self.pair()
        rate = self.random.choice((30_000, 200_000, 1_000_000))
        return self._worsen([(source, target), (target, source)], rate=rate)

    def delay(self) -> Undo:
        source, target = self.pair()
        return self._worsen(
            [(source, target), (target, source)], delay_s=self.random.uniform(0.02, 0.4)
        )

    def loss(self) -> Undo:
        return self._worsen([self.pair()], loss=self.random.choice((0.02, 0.1, 0.3)))

    def _worsen(self, links: list[tuple[int, int]], **how: float | bool) -> Undo:
        for source, target in links:
            self.cluster.network.change(source, target, **how)

        def undo() -> None:
            for source, target in links:
                self.cluster.network.change(source, target)

        return undo

    def disk_full(self) -> Undo:
        host = self.host()
        self._full.add(host.number)
        host.fill_disk()

        def undo() -> None:
            host.empty_disk()
            self._full.discard(host.number)

        return undo

    def clock(self) -> Undo:
        host = self.host()
        span = self.random.choice((2.0, 600.0, 86_400.0, 10.0 * YEAR_S))
        offset_ns = self._ahead_ns + int(self.random.uniform(-span, span) * SECOND_NS)
        if offset_ns - self._ahead_ns > DAY_NS // 2:  # others may not take its work in yet
            self._ahead_ns = offset_ns
        host.clock.set(offset_ns)
        return lambda: None


FAULTS: Final[dict[str, Fault]] = {
    "crash": Fault(6, 0.1, 4, Nemesis.crash),
    "stop": Fault(4, 0.3, 26, Nemesis.stop),
    "restart": Fault(2, 0.1, 2, Nemesis.restart),
    "cut": Fault(4, 1, 26, Nemesis.cut),
    "one-way": Fault(3, 1, 26, Nemesis.one_way),
    "isolate": Fault(3, 1, 15, Nemesis.isolate),
    "slow": Fault(3, 2, 15, Nemesis.slow),
    "delay": Fault(3, 2, 15, Nemesis.delay),
    "loss": Fault(3, 2, 15, Nemesis.loss),
    "disk-full": Fault(2, 0.5, 6, Nemesis.disk_full),
    "clock": Fault(2, 0.1, 0.2, Nemesis.clock),
}
