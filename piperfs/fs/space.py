"""How much the disk below has room for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from piperfs.core import limits
from piperfs.store.pages import PAGE_BYTES

NEARLY_FULL_BYTES: Final = 256 * limits.MIB  # below this, every look and every byte counts
AROUND_BYTES: Final = 128  # what sealing and the store put around a value


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of the disk that the store lies on."""

    total: int
    free: int
    outside: int  # to us beside the store, the reserve that keeps deletions possible taken off
    rows: Mapping[int, int] = field(default_factory=dict)  # of free pages in the store, by length

    @property
    def available(self) -> int:
        """For content in general."""
        return self.available_for(limits.CHUNK_BYTES_AVERAGE)

    def available_for(self, value: int) -> int:
        """For values of so many bytes, each of which needs pages in a row."""
        pages = (min(value, limits.CHUNK_BYTES_MAX) + AROUND_BYTES) // PAGE_BYTES + 1
        fitting = sum(count * (length // pages) for length, count in self.rows.items())
        return self.outside + fitting * pages * PAGE_BYTES
