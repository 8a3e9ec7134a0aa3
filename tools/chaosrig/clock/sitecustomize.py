"""Shifts the wall clock of a daemon under test by what a file says, which may change at any time.

Python imports this at its start where PYTHONPATH names this folder, so the product needs no hook.
"""

import mmap
import os
import struct
import time


def _shift_by(path: str) -> None:
    with open(path, "rb") as file:
        offset = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    real_ns = time.time_ns
    unpack = struct.Struct("q").unpack_from

    def time_ns() -> int:
        return real_ns() + unpack(offset)[0]

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


if "PIPERFS_CHAOS_CLOCK" in os.environ:
    _shift_by(os.environ["PIPERFS_CHAOS_CLOCK"])
