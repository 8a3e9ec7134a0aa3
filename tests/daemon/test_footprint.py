"""The daemon gives back what it does not need, and can still read it."""

import mmap
import os

from piperfs.core.limits import MIB
from piperfs.daemon import footprint

SIZE = 64 * MIB


def test_mapped_pages_are_given_back_and_read_again(tmp_path):
    data = tmp_path / "data.mdb"
    data.write_bytes(os.urandom(MIB) * (SIZE // MIB))
    with data.open("rb") as file, mmap.mmap(file.fileno(), SIZE, prot=mmap.PROT_READ) as mapped:
        total = sum(mapped[at] for at in range(0, SIZE, mmap.PAGESIZE))
        before = footprint.resident_bytes().mapped
        footprint.release_mapped_pages(tmp_path)
        assert before - footprint.resident_bytes().mapped > SIZE // 2
        assert sum(mapped[at] for at in range(0, SIZE, mmap.PAGESIZE)) == total


def test_memory_that_was_freed_is_given_back():
    before = footprint.resident_bytes().own
    pieces = [bytes(100_000) for _ in range(SIZE // 100_000)]
    pieces[:-1] = []
    footprint.release_freed_memory()
    assert footprint.resident_bytes().own < before + SIZE // 2
