"""Crash states of the store's file: every write on record, replayed with random losses.

A store at work is recorded at the level of system calls (strace shows what LMDB asks the kernel
for). A crash may keep any of the 4 KiB blocks, or 512-byte sectors, that were written since the
last flush, and lose the others, also in the middle of a write. Each such state is built, opened,
and must hold exactly the rows of the last commit that was answered, or of the one under way. A
further commit must leave them alone, and fsck must find nothing.
"""

import argparse
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from crashing.recording import Event, Flush, Promise, Write, record, rows_digest
from crashing.verify import BrokenPromiseError
from piperfs.core.errors import PiperError
from piperfs.store.check import check_store
from piperfs.store.engine import DATA_FILE, LmdbEngine
from piperfs.store.schema import NAMES
from tests.support.computers import Computer

COMMITS = 60
STATES_PER_RECORD = 2500
PROBE = b"probe"


def run(options: argparse.Namespace) -> str:
    """Check crash states. Raises BrokenPromiseError."""
    states = dropped = 0
    number = 0
    while states < options.rounds:
        base = Path(tempfile.mkdtemp(prefix="piperfs-replay-", dir=_memory()))
        try:
            seed = options.seed + number
            events = record(base, seed, COMMITS)
            checker = Checker(base / "state", events)
            wanted = min(STATES_PER_RECORD, options.rounds - states)
            dropped += checker.check(wanted, random.Random(seed))
            states += wanted
        finally:
            shutil.rmtree(base, ignore_errors=True)
        number += 1
        if not options.quiet:
            print(f"{states} states, {dropped} blocks dropped", flush=True)
    return f"{states} crash states of {number} records, {dropped} blocks dropped, all sound"


def _memory() -> str | None:
    """A directory in memory, if there is one: nothing here must survive a real crash."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


@dataclass(slots=True)
class Crash:
    """What a disk holds at one moment."""

    image: bytearray
    lost: int
    rows: tuple[str, ...]  # digests that are right


@dataclass(slots=True)
class Disk:
    """What is on the disk for certain, and what was written since the last flush."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write] = field(default_factory=list)

    def apply(self, event: Event) -> None:
        if isinstance(event, Flush):
            for write in self.pending:
                _put(self.durable, write.offset, write.data)
            self.pending = []
        elif isinstance(event, Write):
            self.pending.append(event)
            if event.durable:
                _put(self.durable, event.offset, event.data)

    def crash(self, under_way: Event, rng: random.Random) -> tuple[bytearray, int]:
        """A possible state while `under_way` happens."""
        image, lost = bytearray(self.durable), 0
        writes = [*self.pending, *([under_way] if isinstance(under_way, Write) else [])]
        keep, block = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0]), rng.choice([4096, 4096, 512])
        for write in writes:
            for begin, end in _blocks(write, block):
                if rng.random() < keep:
                    part = write.data[begin - write.offset : end - write.offset]
                    _put(image, begin, part)
                else:
                    lost += 1
        return image, lost


def _put(image: bytearray, offset: int, data: bytes) -> None:
    if len(image) < offset:
        image.extend(bytes(offset - len(image)))
    image[offset : offset + len(data)] = data


def _blocks(write: Write, block: int) -> Iterator[tuple[int, int]]:
    position, end = write.offset, write.offset + len(write.data)
    while position < end:
        border = min(end, (position // block + 1) * block)
        yield position, border
        position = border


class Checker:
    """Builds crash states of one record and checks each."""

    def __init__(self, directory: Path, events: list[Event]) -> None:
        self._directory = directory
        self._file = directory / "store" / DATA_FILE
        self._file.parent.mkdir(parents=True)
        self._events = events
        self._sound: set[str] = set()

    def check(self, count: int, rng: random.Random) -> int:
        """Check `count` states, spread over all moments. Returns how many blocks were lost."""
        promises = [i for i, event in enumerate(self._events) if isinstance(event, Promise)]
        moments = range(promises[0] + 1, len(self._events))
        chosen = sorted(rng.choices(moments, k=count))
        lost = 0
        for crash in self._states(chosen, rng):
            lost += crash.lost
            self._check_one(crash)
        return lost

    def _states(self, moments: list[int], rng: random.Random) -> Iterator[Crash]:
        disk, rows = Disk(), ""
        coming = iter(moments)
        moment = next(coming, None)
        for number, event in enumerate(self._events):
            while moment == number:
                image, lost = disk.crash(event, rng)
                yield Crash(image, lost, (rows, self._next_rows(number)))
                moment = next(coming, None)
            disk.apply(event)
            rows = event.rows if isinstance(event, Promise) else rows

    def _next_rows(self, number: int) -> str:
        later = (e.rows for e in self._events[number:] if isinstance(e, Promise))
        return next(later, "")

    def _check_one(self, crash: Crash) -> None:
        self._file.write_bytes(crash.image)
        try:
            engine = LmdbEngine(self._file.parent, NAMES, create=False)
        except PiperError as error:
            raise BrokenPromiseError(f"a crash state does not open: {error}") from error
        try:
            found = rows_digest(engine)
            if found not in crash.rows:
                raise BrokenPromiseError("a crash state holds other rows than its last commits")
            if found not in self._sound:
                self._check_deeply(engine)
                self._sound.add(found)
            engine.commit({"meta": {PROBE: bytes(5000)}, "chunk": {PROBE: bytes(300_000)}})
            engine.commit({"meta": {PROBE: None}, "chunk": {PROBE: None}})
            engine.refresh()
            if rows_digest(engine) != found:
                raise BrokenPromiseError(
                    "a commit after a crash changed rows that it did not write"
                )
        finally:
            engine.close()

    def _check_deeply(self, engine: LmdbEngine) -> None:
        findings = list(check_store(Computer("alpha", engine).store))
        if findings:
            raise BrokenPromiseError(f"fsck of a crash state: {'; '.join(map(str, findings[:5]))}")
