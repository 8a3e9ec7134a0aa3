"""Runs trio from a seed: the same seed wakes the same tasks in the same order, in no time at all.

This is the one place that knows trio's private switch for a reproducible scheduler. Virtual time
jumps to the next deadline as soon as every task waits, so a minute takes milliseconds. The
collector of cycles is held off meanwhile, since when it runs depends on the whole process.
"""

import gc
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from trio._core import _run as scheduler
from trio.testing import MockClock

T = TypeVar("T")


def run(main: Callable[[], Awaitable[T]], seed: int) -> T:
    """Run an async function to its end under virtual time and a seeded scheduler."""
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    scheduler._r.seed(seed)
    gc.disable()
    try:
        return trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        gc.enable()
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
