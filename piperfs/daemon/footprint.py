"""Keeps the process small: gives back pages of the store's map, and memory that was freed.

A map counts as ours what the page cache would hold anyway, and the allocator keeps what large
buffers leave behind. Both would make the daemon look, and be treated by memory limits, as large
as the largest thing it ever did.
"""

import ctypes
import mmap
from pathlib import Path
from typing import Final

import trio

from piperfs.core.limits import MIB

LOOK_S: Final = 2
RESIDENT_BYTES_MAX: Final = 160 * MIB  # below this there is nothing worth giving back
MAPPED_BYTES_MAX: Final = 32 * MIB
MADV_DONTNEED: Final = 4
LIBC: Final = ctypes.CDLL(None, use_errno=True)


async def run(store: Path) -> None:
    """Look every now and then, for ever."""
    while True:
        await trio.sleep(LOOK_S)
        if resident_bytes() > RESIDENT_BYTES_MAX:
            release_mapped_pages(store)
            release_freed_memory()


def resident_bytes() -> int:
    """What of this process is in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def release_mapped_pages(store: Path) -> None:
    """Take the store's mapped pages out of this process when they are many.

    They stay in the page cache, which the kernel shrinks as it likes.
    """
    for start, end, resident in _mappings(str(store / "data.mdb")):
        if resident > MAPPED_BYTES_MAX:
            LIBC.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED)


def release_freed_memory() -> None:
    """Give back what large buffers left behind in the allocator's arenas."""
    if hasattr(LIBC, "malloc_trim"):  # glibc alone has it
        LIBC.malloc_trim(0)


def _mappings(path: str) -> list[tuple[int, int, int]]:
    """Start, end and resident bytes of the mappings of one file."""
    found = []
    current: tuple[int, int] | None = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and not first.endswith(":"):
            low, _, high = first.partition("-")
            current = (int(low, 16), int(high, 16)) if rest.endswith(path) else None
        elif current is not None and first == "Rss:":
            found.append((*current, int(rest.split()[0]) * 1024))
    return found
