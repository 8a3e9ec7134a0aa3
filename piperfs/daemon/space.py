"""Free space of the disk below the store, asked rarely, with a reserve kept back.

A write that finds the disk full must fail at once and harmlessly, while deleting, which makes a
store of this kind grow at first, must still work. So writers see less space than there is.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from piperfs.core.limits import MIB
from piperfs.fs.filesystem import Space

AGE_S: Final = 0.5
RESERVE_BYTES_MAX: Final = 64 * MIB
RESERVE_SHARE: Final = 0.05
NEARLY_FULL_BYTES: Final = 256 * MIB  # below this, look every time


class DiskSpace:
    """Answers `Space` for a directory; call it."""

    def __init__(self, directory: Path, monotonic: Callable[[], float]) -> None:
        self._directory = directory
        self._monotonic = monotonic
        self._asked = float("-inf")
        self._last = Space(0, 0, 0)

    def __call__(self) -> Space:
        now = self._monotonic()
        if now - self._asked > AGE_S or self._last.available < NEARLY_FULL_BYTES:
            self._last, self._asked = self._ask(), now
        return self._last

    def _ask(self) -> Space:
        facts = os.statvfs(self._directory)
        total, free = facts.f_blocks * facts.f_frsize, facts.f_bfree * facts.f_frsize
        reserve = min(RESERVE_BYTES_MAX, int(total * RESERVE_SHARE))
        return Space(total, free, facts.f_bavail * facts.f_frsize - reserve)
