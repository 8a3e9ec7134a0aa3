"""How large chunks should be: what small changes cost against what a stream costs."""

import random
import time
from pathlib import Path

from lab import print_rows
from pyfastcdc import FastCDC

MIB = 1 << 20
FILE_BYTES = 64 * MIB
CHANGES = 40


def sizes(base: Path, rounds: int) -> None:
    """New bytes after a change of 4 KiB in the middle, for averages from 32 KiB to 1 MiB."""
    del base, rounds
    data = bytearray(random.Random(1).randbytes(FILE_BYTES))
    rows = [["average", "chunks", "MiB/s", "new KiB after 4 KiB changed", "after 1 byte inserted"]]
    for average in (32, 64, 128, 256, 512, 1024):
        cutter = FastCDC(average * 1024, min_size=average * 256, max_size=average * 4096)
        begun = time.perf_counter()
        known = _pieces(cutter, data)
        rate = FILE_BYTES / MIB / (time.perf_counter() - begun)
        changed, inserted = _cost_of_changes(cutter, data, known)
        row = [f"{average} KiB", str(len(known)), f"{rate:.0f}"]
        rows.append([*row, f"{changed / 1024:.0f}", f"{inserted / 1024:.0f}"])
    print_rows(rows)


def _pieces(cutter: FastCDC, data: bytes | bytearray) -> dict[int, int]:
    """Hash of each chunk, and its length."""
    view = memoryview(data)
    return {
        hash(bytes(view[c.offset : c.offset + c.length])): c.length for c in cutter.cut_buf(data)
    }


def _cost_of_changes(
    cutter: FastCDC, data: bytearray, known: dict[int, int]
) -> tuple[float, float]:
    """Bytes of new chunks after a 4 KiB overwrite and after a 1 byte insertion, on average."""
    rng = random.Random(2)
    totals = [0, 0]
    for _ in range(CHANGES // 10):
        place = rng.randrange(FILE_BYTES - 4096)
        overwritten = data[:place] + rng.randbytes(4096) + data[place + 4096 :]
        for index, changed in enumerate((overwritten, b"x" + data)):
            found = _pieces(cutter, changed)
            totals[index] += sum(n for piece, n in found.items() if piece not in known)
    return totals[0] / (CHANGES // 10), totals[1] / (CHANGES // 10)
