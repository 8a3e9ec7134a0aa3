"""One directory with a great many entries: made, listed while others change it, and removed.

A listing must give each entry that is there all the time exactly once, whatever comes and goes
meanwhile, and a position told at any time must lead to the same place later. While all of that
goes on, somebody else asks for something else, and how long the longest answer took shows whether
the daemon ever did too much in one go. What cannot be waited for by an event (the daemon's memory
and processor time) is read from `/proc`.
"""

import ctypes
import multiprocessing
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path

from tests.support.volumes import Replica

FOLDER = "many"
CHURN_SHARE = 50  # one in so many entries comes or goes during a listing
POSITIONS = 100  # told during a listing and gone back to
LOOKUPS_MAX = 20_000
PAUSE_S = 0.005  # between two questions of the bystander
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("ino", ctypes.c_uint64), ("off", ctypes.c_int64), ("reclen", ctypes.c_uint16),
        ("type", ctypes.c_uint8), ("name", ctypes.c_char * 256),
    )  # fmt: skip


LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.opendir.restype = LIBC.readdir.restype = ctypes.c_void_p
LIBC.telldir.restype = ctypes.c_long
for _call in (LIBC.readdir, LIBC.telldir, LIBC.closedir):
    _call.argtypes = (ctypes.c_void_p,)
LIBC.seekdir.argtypes = (ctypes.c_void_p, ctypes.c_long)


@dataclass(frozen=True, slots=True)
class Stage:
    """What one step cost."""

    name: str
    count: int
    seconds: float
    cpu_s: float
    private_bytes: int
    resident_bytes: int
    longest_answer_s: float
    longest_delay_s: float  # of a process that only slept: what the machine itself adds

    def line(self) -> str:
        """One row of the table that `HEAD` begins."""
        return (
            f"{self.name:28} {self.seconds:9.2f} {self.seconds / self.count * 1e6:9.1f}"
            f" {self.cpu_s / self.count * 1e6:9.1f} {self.private_bytes / MIB:9.0f}"
            f" {self.resident_bytes / MIB:9.0f} {self.longest_answer_s * 1e3:9.0f}"
            f" {self.longest_delay_s * 1e3:9.0f}"
        )


HEAD = (
    f"{'':28} {'s':>9} {'µs each':>9} {'CPU µs':>9} {'own MiB':>9} {'RSS MiB':>9} {'worst ms':>9}"
    f" {'asleep ms':>9}"
)


@dataclass
class BigDirectory:
    """The steps, in the order of `run`; each is checked."""

    replica: Replica
    entries: int
    options: str = ""
    report: Callable[[Stage], None] = lambda _stage: None
    stages: list[Stage] = field(default_factory=list)

    def run(self) -> list[Stage]:
        """All steps; returns what each cost."""
        self.folder.mkdir()
        with self.step("create", self.entries):
            make(self.folder, "e", self.entries)
        with self.step("list", self.entries):
            found = os.listdir(self.folder)
        check_once(found, set(self.names), set())
        self.list_while_changed()
        self.remount()
        with self.step("look up", self.some):
            for name in random.Random(1).sample(self.names, self.some):
                os.stat(self.folder / name)
        with self.step("list with attributes", self.entries), os.scandir(self.folder) as listed:
            found = [entry.name for entry in listed if entry.stat().st_size == 0]
        check_once(found, set(self.names), set())
        with self.step("rm -r", self.entries):
            subprocess.run(["rm", "-r", self.folder], check=True)
        assert os.listdir(self.replica.mountpoint) == ["bystander"]
        self.remount()
        assert os.listdir(self.replica.mountpoint) == ["bystander"]
        return self.stages

    @property
    def folder(self) -> Path:
        return self.replica.mountpoint / FOLDER

    @property
    def names(self) -> list[str]:
        return [f"e{number}" for number in range(self.entries)]

    @property
    def some(self) -> int:
        return min(LOOKUPS_MAX, self.entries)

    def remount(self) -> None:
        """Unmount, which waits until all is durable, and mount again."""
        begun = time.monotonic()
        self.replica.umount()
        between = time.monotonic()
        self.replica.mount(self.options)
        end = time.monotonic()
        private, resident = memory(self.replica.pid)
        for name, seconds in (("unmount", between - begun), ("mount", end - between)):
            self._note(Stage(name, 1, seconds, 0, private, resident, 0, 0))

    def list_while_changed(self) -> None:
        """List while one process inserts and another deletes; then go back to told positions."""
        churn = self.entries // CHURN_SHARE
        going, coming = set(self.names[:churn]), {f"new{number}" for number in range(churn)}
        inserting = _start(make, self.folder, "new", churn)
        deleting = _start(remove, self.folder, sorted(going))
        while True:
            with self.step("list, others change it", self.entries):
                listing = Listing(self.folder, max(1, self.entries // POSITIONS))
                found = listing.read()
            check_once(found, set(self.names) - going, going | coming)
            if not (inserting.is_alive() or deleting.is_alive()):
                break
            listing.close()
        with self.step("seek", len(listing.told)):
            listing.check_positions(set(self.names) - going)
        listing.close()
        for process in (inserting, deleting):
            process.join()
            assert process.exitcode == 0
        with self.step("list after", self.entries):
            after = os.listdir(self.folder)
        check_once(after, (set(self.names) - going) | coming, set())
        remove(self.folder, sorted(coming))
        make(self.folder, "e", churn)

    @contextmanager
    def step(self, name: str, count: int) -> Iterator[None]:
        """Measure what happens inside, with somebody beside it who wants something else."""
        pid = self.replica.pid
        cpu, begun = cpu_s(pid), time.monotonic()
        with bystander(self.replica.mountpoint / "bystander") as longest:
            yield
        seconds = time.monotonic() - begun
        used = cpu_s(pid) - cpu
        self._note(Stage(name, count, seconds, used, *memory(pid), *longest))

    def _note(self, stage: Stage) -> None:
        self.stages.append(stage)
        self.report(stage)


class Listing:
    """One reading of a directory by the calls of the C library."""

    def __init__(self, folder: Path, every: int) -> None:
        self._stream = LIBC.opendir(os.fsencode(folder))
        assert self._stream
        self._every = every
        self.told: list[tuple[int, str]] = []  # position, the entry that followed

    def _next(self) -> str | None:
        found = LIBC.readdir(self._stream)
        if not found:
            return None
        return os.fsdecode(ctypes.string_at(found + _Dirent.name.offset))

    def read(self) -> list[str]:
        """All entries, telling the position now and then."""
        names: list[str] = []
        position = LIBC.telldir(self._stream)
        while (name := self._next()) is not None:
            names.append(name)
            if len(names) % self._every == 1:
                self.told.append((position, name))
            if len(names) % self._every == 0:
                position = LIBC.telldir(self._stream)
        return [name for name in names if name not in (".", "..")]

    def check_positions(self, stable: set[str]) -> None:
        """Go back to every position, in any order: what followed then follows now."""
        random.Random(2).shuffle(self.told)
        for position, expected in self.told:
            LIBC.seekdir(self._stream, position)
            found = self._next()
            while found is not None and found != expected and found not in stable:
                found = self._next()  # somebody made it since
            assert found == expected or expected not in stable, (position, expected, found)

    def close(self) -> None:
        LIBC.closedir(self._stream)


def check_once(found: list[str], stable: set[str], changing: set[str]) -> None:
    """Everything that stayed came once; what came or went, once at most; nothing else came."""
    unique = set(found)
    assert len(unique) == len(found), f"{len(found) - len(unique)} entries came twice"
    assert stable <= unique, f"{len(stable - unique)} entries did not come"
    assert unique <= stable | changing, f"{len(unique - stable - changing)} unknown entries came"


def make(folder: Path, prefix: str, count: int) -> None:
    """Create files from one process, as fast as it can."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        for number in range(count):
            os.close(os.open(f"{prefix}{number}", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
    finally:
        os.close(directory)


def remove(folder: Path, names: list[str]) -> None:
    """Delete files one by one."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        for name in names:
            os.unlink(name, dir_fd=directory)
    finally:
        os.close(directory)


def _start(call: Callable[..., None], *arguments: object) -> multiprocessing.context.ForkProcess:
    process = multiprocessing.get_context("fork").Process(target=call, args=arguments)
    process.start()
    return process


@contextmanager
def bystander(file: Path) -> Iterator[Sequence[float]]:
    """Another process sleeps, and asks for an attribute of another file, in turns.

    Yields the longest wait for an answer and the longest delay of a wake-up so far, in seconds.
    """
    file.touch()
    context = multiprocessing.get_context("fork")
    stop, longest = context.Event(), context.Array("d", 2, lock=False)
    process = context.Process(target=_ask, args=(file, stop, longest))
    process.start()
    try:
        yield longest
    finally:
        stop.set()
        process.join()


def _ask(file: Path, stop: Event, longest: "ctypes.Array[ctypes.c_double]") -> None:
    """Attributes are not cached: each question reaches the daemon."""
    asleep = time.monotonic()
    while not stop.wait(PAUSE_S):
        begun = time.monotonic()
        os.listxattr(file)
        answered = time.monotonic()
        longest[0] = max(longest[0], answered - begun)
        longest[1] = max(longest[1], begun - asleep - PAUSE_S)
        asleep = time.monotonic()


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid: int) -> tuple[int, int]:
    """Private and resident bytes of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    facts = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return int(facts["RssAnon"][0]) * 1024, int(facts["VmRSS"][0]) * 1024
