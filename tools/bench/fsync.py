#!/usr/bin/env python3
"""How fast fsync is, alone and from eight processes at once, on a mount and on the disk below.

Each process appends 100 bytes to a file of its own and calls fsync, again and again. Commits are
shared: eight processes must get much more than an eighth each of what one gets alone. Rates are of
one run on one disk; compare the ratios.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import environment

SECONDS = 4.0
RECORD = b"x" * 100


def append(path: Path, seconds: float, begin: "multiprocessing.synchronize.Barrier") -> list[float]:
    """Append and fsync for a while; returns how long each fsync took."""
    took = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    begin.wait()
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        os.write(descriptor, RECORD)
        os.fsync(descriptor)
        took.append(time.monotonic() - now)
    os.close(descriptor)
    return took


def _work(
    queue: "multiprocessing.Queue[list[float]]", path: Path, seconds: float, begin: object
) -> None:
    queue.put(append(path, seconds, begin))  # type: ignore[arg-type]


def measure(directory: Path, processes: int, seconds: float) -> tuple[float, float]:
    """Fsyncs a second of all processes together, and the median of one in ms."""
    begin = multiprocessing.Barrier(processes)
    queue: multiprocessing.Queue[list[float]] = multiprocessing.Queue()
    children = [
        multiprocessing.Process(target=_work, args=(queue, directory / f"f{n}", seconds, begin))
        for n in range(processes)
    ]
    for child in children:
        child.start()
    took = [each for _ in children for each in queue.get()]
    for child in children:
        child.join()
    return len(took) / seconds, statistics.median(took) * 1000


def main() -> int:
    """Measure the disk and the mount in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each measurement [4]")
    options = parser.parse_args()
    from tests.support.volumes import replicas  # noqa: PLC0415 - needs the environment

    base = Path(tempfile.mkdtemp(prefix="piperfs-fsync-"))
    with replicas(base, "anna") as (anna,):
        anna.init().mount()
        disk = base / "disk"
        disk.mkdir()
        rates: dict[tuple[str, int], float] = {}
        for processes in (1, 8):
            for name, directory in (("disk", disk), ("PiperFS", anna.mountpoint)):
                rate, median = measure(directory, processes, options.seconds)
                rates[name, processes] = rate
                print(
                    f"{name:8} {processes} processes: {rate:7.0f} fsync/s, median {median:6.2f} ms"
                )
    for processes in (1, 8):
        share = rates["PiperFS", processes] / rates["disk", processes]
        print(f"{processes} processes: {share:.2f} of the disk's rate")
    gain = rates["PiperFS", 8] / rates["PiperFS", 1]
    print(f"eight processes get {gain:.1f} times what one gets")
    return 0


if __name__ == "__main__":
    python = environment.ensure()
    if sys.prefix != str(environment.VENV):
        os.execv(python, [str(python), *sys.argv])
    sys.path.insert(0, str(environment.ROOT))
    sys.exit(main())
