"""What every benchmark needs: references to measure beside, time and the daemons' CPU, and a table.

Machines are shared and noisy, so a figure means something only beside another that was taken in
the same minute: each step runs on all sides in turn, several times, and the ratio of the medians
is what is printed last.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.volumes import replicas  # noqa: E402 - the path comes first

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class Side:
    """A directory to measure, and the processes that serve it."""

    name: str
    path: Path
    pids: tuple[int, ...] = ()
    walls: dict[str, list[float]] = field(default_factory=dict)  # step -> seconds an operation
    cpus: dict[str, list[float]] = field(default_factory=dict)

    def cpu_s(self) -> float:
        """CPU seconds that the serving processes have used."""
        total = 0
        for pid in (*self.pids, *(child for served in self.pids for child in _children(served))):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def measure(self, step: str, count: int, do: Callable[[Path], None]) -> None:
        """Run a step of `count` operations."""
        cpu, begun = self.cpu_s(), time.perf_counter()
        do(self.path)
        self.walls.setdefault(step, []).append((time.perf_counter() - begun) / count)
        self.cpus.setdefault(step, []).append((self.cpu_s() - cpu) / count)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


@contextmanager
def three_sides(base: Path) -> Iterator[tuple[Side, Side, Side]]:
    """The local disk, a pass-through file system in C over it, and a volume on it."""
    disk, through, hidden = base / "disk", base / "through", base / "hidden"
    for directory in (disk, through, hidden):
        directory.mkdir()
    with ExitStack() as stack:
        command = ["bindfs", "-f", "-o", "attr_timeout=60,entry_timeout=60", hidden, through]
        passing = stack.enter_context(subprocess.Popen(command))
        stack.callback(subprocess.run, ["umount", through], check=False)
        while not through.is_mount():
            assert passing.poll() is None, "bindfs did not start"
        (replica,) = stack.enter_context(replicas(base / "volume", "anna"))
        replica.init().mount()
        yield (
            Side("ext4", disk),
            Side("bindfs", through, (passing.pid,)),
            Side("PiperFS", replica.mountpoint, (replica.pid,)),
        )


def print_table(title: str, unit: str, scale: float, sides: Sequence[Side]) -> None:
    """Medians of each step on each side, CPU of the daemon, and ratios to the first sides."""
    *references, ours = sides
    heads = [f"{side.name} {unit}" for side in sides]
    heads += ["daemon CPU µs", *(f"x {side.name}" for side in references)]
    rows = [[title, *heads]]
    for step, walls in ours.walls.items():
        own = statistics.median(walls)
        figures = [statistics.median(side.walls[step]) for side in sides]
        row = [step, *(f"{figure * scale:.1f}" for figure in figures)]
        row.append(f"{statistics.median(ours.cpus[step]) * 1e6:.0f}")
        row += [f"{own / statistics.median(side.walls[step]):.2f}" for side in references]
        rows.append(row)
    print_rows(rows)


def print_rows(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        numbers = zip(row[1:], widths[1:], strict=True)
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in numbers)]
        print("  ".join(cells), flush=True)
    print(flush=True)


def drop_caches() -> None:
    """Let the next read come from the disk. Needs root."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
