"""A hybrid logical clock: wall time that never goes back and never falls behind what it saw.

Stamps order concurrent writes and serve as change times; causality is the version vectors' job.
A stamp is one integer, ns since 1970. Stamps from far in the future are not followed, so that a
broken or hostile clock does not spread; they win ties among concurrent writes and nothing else.
"""

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from piperfs.core.limits import CLOCK_AHEAD_S_MAX

AHEAD_NS_MAX: Final = 300 * 1_000_000_000  # five minutes
LOST_NS_MAX: Final = CLOCK_AHEAD_S_MAX * 1_000_000_000  # as others would hold back


T = TypeVar("T")


class Runner(Protocol):
    """Runs work that takes long without holding up the event loop."""

    async def __call__(self, work: Callable[[], T]) -> T: ...


class HybridClock:
    """Gives stamps; the caller says what time it is."""

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def tick(self, now_ns: int) -> int:
        """A new stamp, greater than every stamp given or followed before.

        A clock that was set back by more than others bear was wrong: stamps begin anew.
        """
        if self.last > now_ns + LOST_NS_MAX:
            self.last = now_ns
        self.last = max(self.last + 1, now_ns)
        return self.last

    def observe(self, stamp: int, now_ns: int) -> None:
        """Follow a stamp of another replica, unless it is from too far ahead."""
        if stamp <= now_ns + AHEAD_NS_MAX:
            self.last = max(self.last, stamp)
