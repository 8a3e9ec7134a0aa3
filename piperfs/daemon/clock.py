"""The only place that reads the time and the random source, and that knows worker threads.

Everything else is handed these, so whoever takes a `Clock` can be run from a seed, with a clock
that jumps, a disk that is slow when the seed says so, and a test that never waits.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from piperfs.core.clock import Runner

T = TypeVar("T")
NO_THREAD: Final = "start new thread"  # the interpreter's words: the user has too many


async def in_thread(work: Callable[[], T]) -> T:
    """Run what takes long beside the event loop, or in it where no thread can be had."""
    try:
        return await trio.to_thread.run_sync(work)
    except RuntimeError as error:
        if NO_THREAD not in str(error):
            raise
    return work()


@dataclass(frozen=True, slots=True)
class Clock:
    """Time, randomness and worker threads as callables."""

    now_ns: Callable[[], int]  # wall time, ns since 1970; may jump
    monotonic: Callable[[], float]  # seconds since some moment; never goes back
    entropy: Callable[[int], bytes]  # that many random bytes
    in_thread: Runner = in_thread


SYSTEM_CLOCK = Clock(now_ns=time.time_ns, monotonic=time.monotonic, entropy=os.urandom)
