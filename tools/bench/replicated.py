"""Two mounts of one volume beside two folders that Syncthing keeps in step."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import Side, print_rows, resident_bytes
from syncthing import two_folders

from tests.support.volumes import two_mounted

MIB = 1 << 20
SAMPLES = 40
TREE_FILES = 10_000
FULL_FILES = 100_000
PER_FOLDER = 100
PATIENCE_S = 600


@contextmanager
def _pairs(base: Path) -> Iterator[list[tuple[Side, Path]]]:
    """Each tool: the side that writes, and the directory where it must arrive."""
    volume = two_mounted(base / "volume")
    with two_folders(base / "syncthing") as (near, far, pids), volume as (anna, ben):
        yield [
            (Side("Syncthing", near, pids), far),
            (Side("PiperFS", anna.mountpoint, (anna.pid, ben.pid)), ben.mountpoint),
        ]


def _await(holds: Callable[[], bool], pause_s: float) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not _quietly(holds):
        assert time.monotonic() < deadline, "it did not arrive"
        time.sleep(pause_s)  # another process is at work; looking costs it time


def _quietly(holds: Callable[[], bool]) -> bool:
    try:
        return holds()
    except OSError:
        return False


def propagation(base: Path, rounds: int) -> None:
    """From close() of a small file until the other side reads the same bytes."""
    del rounds
    rows = [["a small file arrives", "median ms", "worst ms", "samples"]]
    with _pairs(base) as pairs:
        for side, far in pairs:
            delays = [_delay(side.path, far, number) for number in range(SAMPLES)]
            figures = (statistics.median(delays), max(delays))
            rows.append([side.name, *(f"{1000 * s:.1f}" for s in figures), str(SAMPLES)])
    print_rows(rows)


def _delay(near: Path, far: Path, number: int) -> float:
    data = os.urandom(1000)
    (near / f"small{number}").write_bytes(data)
    begun = time.perf_counter()
    _await(lambda: (far / f"small{number}").read_bytes() == data, 0.001)
    return time.perf_counter() - begun


def tree(base: Path, rounds: int) -> None:
    """Ten thousand files of 1 KiB in a hundred folders, until all of them are there."""
    del rounds
    rows = [["10,000 files", "write s", "in step after s", "daemons' CPU s"]]
    with _pairs(base) as pairs:
        for side, far in pairs:
            cpu, begun = side.cpu_s(), time.perf_counter()
            _make_files(side.path / "tree", TREE_FILES)
            written = time.perf_counter() - begun
            _await(lambda far=far: _count(far / "tree") == TREE_FILES, 0.2)  # type: ignore[misc]
            arrived = time.perf_counter() - begun
            figures = (written, arrived, side.cpu_s() - cpu)
            rows.append([side.name, *(f"{figure:.1f}" for figure in figures)])
    print_rows(rows)


def _make_files(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        below = folder / f"d{number // PER_FOLDER}"
        if number % PER_FOLDER == 0:
            below.mkdir()
        (below / f"f{number}").write_bytes(b"%d" % number * 200)


def _count(folder: Path) -> int:
    """Files that are whole; a temporary file of the other tool begins with a dot."""
    with os.scandir(folder) as folders:
        return sum(
            sum(1 for name in os.listdir(below.path) if not name.startswith("."))
            for below in folders
        )


def delta(base: Path, rounds: int) -> None:
    """4 KiB changed in the middle of 256 MiB: bytes between two replicas, and the time."""
    del rounds
    with two_mounted(base / "volume") as (anna, ben):
        file = anna.mountpoint / "large"
        with file.open("wb") as output:
            for _ in range(256):
                output.write(os.urandom(MIB))
        _await(lambda: ben.status()["in_sync"] is True, 0.2)
        before = _received(ben.piperfs("metrics", str(ben.state)))
        with file.open("r+b") as output:
            output.seek(128 * MIB)
            output.write(os.urandom(4096))
        begun = time.perf_counter()
        size = 256 * MIB
        _await(lambda: _same_middle(file, ben.mountpoint / "large", size), 0.005)
        took = time.perf_counter() - begun
        moved = _received(ben.piperfs("metrics", str(ben.state))) - before
    rows = [["4 KiB of 256 MiB changed", "KiB received", "seconds"]]
    print_rows([*rows, ["PiperFS", f"{moved / 1024:.0f}", f"{took:.2f}"]])


def _same_middle(near: Path, far: Path, size: int) -> bool:
    with near.open("rb") as left, far.open("rb") as right:
        left.seek(size // 2)
        right.seek(size // 2)
        return left.read(4096) == right.read(4096)


def _received(metrics: str) -> float:
    lines = (line for line in metrics.splitlines() if line.startswith("piperfs_bytes_total"))
    return sum(float(line.rpartition(" ")[2]) for line in lines if 'direction="received"' in line)


def memory(base: Path, rounds: int) -> None:
    """A hundred thousand files: memory of the daemon that wrote them, and of the other."""
    del rounds
    with two_mounted(base / "volume") as (anna, ben):
        _make_files(anna.mountpoint / "tree", FULL_FILES)
        _await(lambda: ben.status()["in_sync"] is True, 1)
        rows = [["100,000 files", "MiB resident"]]
        for name, replica in (("writer", anna), ("receiver", ben)):
            rows.append([name, f"{resident_bytes(replica.pid) / MIB:.0f}"])
    print_rows(rows)
