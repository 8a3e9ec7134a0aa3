"""Keeps the process small: gives back pages of the store's map, and memory that was freed.

A map counts as ours what the page cache would hold anyway, and the allocator keeps what large
buffers leave behind. Both would make the daemon look, and be treated by memory limits, as large
as the largest thing it ever did.
"""

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import trio

from piperfs.core.limits import MIB
from piperfs.daemon.clock import in_thread

LOOK_S: Final = 2
MAPPED_BYTES_MAX: Final = 128 * MIB
GROWN_BYTES_MIN: Final = 16 * MIB  # since memory was last given back; less is not worth the walk
LOOKS_MAX: Final = 5  # after so many, memory is given back however little it grew
MADV_DONTNEED: Final = 4
LIBC: Final = ctypes.CDLL(None, use_errno=True)


async def run(store: Path) -> None:
    """Look every now and then, for ever; what is given back is given back beside the loop."""
    kept, looks = resident_bytes().own, 0
    while True:
        await trio.sleep(LOOK_S)
        with suppress(OSError):  # no descriptor can be had for a look
            found, looks = resident_bytes(), looks + 1
            if found.mapped > MAPPED_BYTES_MAX:
                await in_thread(partial(release_mapped_pages, store))
            if found.own > kept + GROWN_BYTES_MIN or looks >= LOOKS_MAX:
                await in_thread(release_freed_memory)
                kept, looks = resident_bytes().own, 0


class Resident(NamedTuple):
    """What of this process is in memory, in bytes."""

    own: int
    mapped: int  # from files, nearly all of it the store's


def resident_bytes() -> Resident:
    """Ask the kernel."""
    _, resident, mapped, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return Resident((resident - mapped) * mmap.PAGESIZE, mapped * mmap.PAGESIZE)


def release_mapped_pages(store: Path) -> None:
    """Take the store's mapped pages out of this process.

    They stay in the page cache, which the kernel shrinks as it likes.
    """
    for start, end in _mappings(str(store / "data.mdb")):
        LIBC.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED)


def release_freed_memory() -> None:
    """Give back what large buffers left behind in the allocator's arenas."""
    if hasattr(LIBC, "malloc_trim"):  # glibc alone has it
        LIBC.malloc_trim(0)


def _mappings(path: str) -> Iterator[tuple[int, int]]:
    """Start and end of the mappings of one file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(path):
            low, _, high = line.partition(" ")[0].partition("-")
            yield int(low, 16), int(high, 16)
