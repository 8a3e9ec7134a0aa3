"""Runs trio from a seed: the same seed wakes the same tasks in the same order, in no time at all.

This is the one place that knows trio's private parts: the switch for a reproducible scheduler, and
the moment at which every task waits. Virtual time then jumps to what is due next, a deadline of
trio or something that `call_at` was asked for, so a minute takes milliseconds. Nothing comes from
outside but Ctrl-C, for which the kernel is asked only now and then. The collector of cycles is
held off meanwhile, since when it runs depends on the whole process.
"""

import gc
from collections.abc import Awaitable, Callable
from heapq import heappop, heappush
from math import inf
from typing import Any, TypeVar

import trio
from trio._core import _run as scheduler
from trio.testing import MockClock

T = TypeVar("T")
LOOK_EVERY = 256  # rounds of the loop


class Timers:
    """What is due when, beside trio's own deadlines."""

    def __init__(self, clock: MockClock, jumps_max: float) -> None:
        self._clock = clock
        self._jumps_left = jumps_max
        self.whole = trio.CancelScope()  # of the run
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def add(self, when: float, call: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._waiting, (when, self._count, call))

    def jump(self) -> None:
        """Every task waits: go to the next moment at which something is due, and do it."""
        deadlines = scheduler.GLOBAL_RUN_CONTEXT.runner.deadlines
        waiting = self._waiting
        now = min(deadlines.next_deadline(), waiting[0][0] if waiting else inf)
        self._jumps_left -= 1
        if self._jumps_left < 0:
            self.whole.cancel()
        if now == inf:
            return
        self._clock._virtual_base = max(now, self._clock._virtual_base)
        deadlines.expire(now)
        while waiting and waiting[0][0] <= now:
            heappop(waiting)[2]()


class Outside:
    """trio's way to wait for the kernel, asked seldom."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._rounds = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_events(self, timeout: float) -> Any:
        self._rounds += 1
        return self._real.get_events(0) if self._rounds % LOOK_EVERY == 0 else []


_timers: list[Timers] = []


def call_at(when: float, call: Callable[[], None]) -> None:
    """Call something at a moment of virtual time that is not in the past."""
    _timers[-1].add(when, call)


class EndlessError(Exception):
    """A run does far more than its length explains."""


def run(main: Callable[[], Awaitable[T]], seed: int, jumps_max: float = inf) -> T:
    """Run an async function to its end under virtual time and a seeded scheduler.

    Raises EndlessError if time has to jump more often than that: something is tried again and
    again without a pause.
    """
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    scheduler._r.seed(seed)
    clock: Any = MockClock(autojump_threshold=0)
    timers = Timers(clock, jumps_max)
    clock.current_time = lambda: clock._virtual_base
    clock._autojump = timers.jump
    _timers.append(timers)

    async def begin() -> T:
        runner: Any = scheduler.GLOBAL_RUN_CONTEXT.runner
        runner.io_manager = Outside(runner.io_manager)
        with timers.whole:
            return await main()
        raise EndlessError(f"time jumped more than {jumps_max} times")

    gc.disable()
    try:
        return trio.run(begin, clock=clock)
    finally:
        gc.enable()
        _timers.pop()
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
