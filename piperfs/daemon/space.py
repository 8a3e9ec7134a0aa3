"""Free space of the disk below the store, asked rarely, with a reserve kept back.

A write that finds the disk full must fail at once and harmlessly, while what was accepted before,
and deleting, which makes a store of this kind grow at first, must still reach the disk. So a file
of some megabytes holds a place free; a commit that finds no other room gives it up, and from then
on writers are refused until there is room to hold it again.
"""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from piperfs.core.limits import MIB
from piperfs.fs.space import NEARLY_FULL_BYTES, Space

AGE_S: Final = 0.5
RESERVE_BYTES_MAX: Final = 64 * MIB
RESERVE_SHARE: Final = 0.05
TIGHT_BYTES: Final = 64 * MIB
TIGHT_FACTOR: Final = 4  # of what a commit is thought to need
RESERVE_FILE: Final = "reserve"


class DiskSpace:
    """Answers `Space` for a directory; call it. `reusable` tells the free bytes inside the store.

    Only half of those count, since large values need pages in a row. Where little else is free,
    writers are let in for what fits into the `rows` of free pages, which take longer to find.
    """

    def __init__(self, directory: Path, monotonic: Callable[[], float]) -> None:
        self._directory = directory
        self._reserve = directory / RESERVE_FILE
        self._monotonic = monotonic
        self.reusable: Callable[[], int] = lambda: 0
        self.rows: Callable[[], Counter[int]] = Counter
        self._reusable = 0
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
        outside = facts.f_bavail * facts.f_frsize
        self._reusable = self.reusable() // 2
        left = outside - max(0, _reserve_bytes(total) - self._held())
        if outside < NEARLY_FULL_BYTES:
            return Space(total, free + self._reusable, left, self.rows())
        return Space(total, free + self._reusable, left + self._reusable)

    def _available(self) -> int:
        facts = os.statvfs(self._directory)
        return facts.f_bavail * facts.f_frsize

    def _room(self) -> int:
        return self._available() + self._reusable

    def _held(self) -> int:
        try:
            return self._reserve.stat().st_blocks * 512
        except OSError:
            return 0

    @property
    def is_nearly_full(self) -> bool:
        """Whether writers will soon be refused, or are."""
        return self().available < _reserve_bytes(self._last.total)

    def claim(self, count: int) -> bool:
        """Whether a commit of so many bytes finds room, the reserve included. For any thread."""
        if self._room() >= count:
            return True
        self.release()
        return self._room() >= count

    def is_tight(self, count: int) -> bool:
        """Whether so little is free that a commit of so many bytes may meet the end of it."""
        return self._available() < TIGHT_BYTES + TIGHT_FACTOR * count

    def release(self) -> None:
        """Give the reserve up."""
        try:
            os.truncate(self._reserve, 0)
        except OSError:
            return  # there is none

    def hold(self) -> None:
        """Hold the reserve if there is room for twice as much. May take long on some disks."""
        facts = os.statvfs(self._directory)
        wanted = _reserve_bytes(facts.f_blocks * facts.f_frsize)
        if self._held() >= wanted or facts.f_bavail * facts.f_frsize < 2 * wanted:
            return
        try:
            descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return  # the first commit will say what is wrong with the disk
        try:
            os.posix_fallocate(descriptor, 0, wanted)
        except OSError:
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)


def _reserve_bytes(total: int) -> int:
    return min(RESERVE_BYTES_MAX, int(total * RESERVE_SHARE))
