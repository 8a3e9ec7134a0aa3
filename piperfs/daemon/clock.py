"""The only place that reads the time and the random source; everything else is handed these.

Whoever takes a `Clock` can be run from a seed, with a clock that jumps, by a test that never
waits.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and randomness as callables."""

    now_ns: Callable[[], int]  # wall time, ns since 1970; may jump
    monotonic: Callable[[], float]  # seconds since some moment; never goes back
    entropy: Callable[[int], bytes]  # that many random bytes


SYSTEM_CLOCK = Clock(now_ns=time.time_ns, monotonic=time.monotonic, entropy=os.urandom)
