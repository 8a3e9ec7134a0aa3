"""One round: writers at work on a mount, a crash, a restart, and the check of everything."""

import contextlib
import itertools
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from crashing.verify import BrokenPromiseError, verify
from crashing.writers import Writer
from tests.support.volumes import Replica

WRITERS = 4
AT_RISK_S = 5  # of work without fsync; the rest of a bound that a busy machine may need
SLACK_S = 5
JOIN_S = 60
KILL_S = 20

# Counts transactions that were committed; a process of its own, since it maps files of the mount.
DATABASE = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("pragma journal_mode=" + sys.argv[2])
db.execute("pragma synchronous=extra")  # full leaves the unlinked journal to luck
db.execute("create table if not exists t (n integer primary key, x blob)")
db.commit()
for n in range(1, 10**9):
    db.execute("insert into t values (?, randomblob(?))", (n, n * 37 % 5000))
    db.commit()
    os.statvfs(sys.argv[1])  # SQLite ignores that it cannot open the folder which it has to sync
    print(n, flush=True)
"""


def pid_of(replica: Replica) -> int:
    """The daemon's process, from its own note: quicker than asking it."""
    (note,) = (replica.base / "run/piperfs").glob("*.json")
    return int(json.loads(note.read_bytes())["pid"])


def outlives(pid: int, process: int, patience_s: float) -> bool:
    """Whether a process, also given as a descriptor, is still there after a while; it is killed."""
    if select.select([process], [], [], patience_s)[0]:
        return False
    os.kill(pid, signal.SIGKILL)
    select.select([process], [], [], KILL_S)
    return True


class Database:
    """SQLite on the mount."""

    def __init__(self, path: Path, mode: str) -> None:
        self.path = path
        self._child = subprocess.Popen(
            [sys.executable, "-c", DATABASE, str(path), mode],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def stop(self) -> int:
        """End it; returns how many transactions were committed for certain."""
        self._child.kill()
        out, _ = self._child.communicate()
        lines = out.split("\n")[:-1]  # the last one may be cut
        return int(lines[-1]) if lines else 0

    def check(self, committed: int) -> None:
        """Raises BrokenPromiseError if the file is damaged or lacks a committed transaction."""
        if not self.path.exists() and not committed:
            return
        try:
            with sqlite3.connect(self.path) as db:
                verdict = db.execute("pragma integrity_check").fetchone()[0]
                tables = db.execute("select count(*) from sqlite_master").fetchone()[0]
                query = "select coalesce(max(n), 0), count(*) from t"
                top, count = db.execute(query).fetchone() if tables else (0, 0)
            db.close()
        except sqlite3.DatabaseError as error:
            raise BrokenPromiseError(f"{self.path}: {error}") from error
        if verdict != "ok" or top != count or top < committed:
            raise BrokenPromiseError(
                f"{self.path}: {verdict}, {count} rows up to {top}, {committed} committed"
            )


class Stream(threading.Thread):
    """Writes to one open file without fsync or close, and notes when each byte was accepted."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.stopped = False
        self._accepted: list[tuple[float, int]] = []

    def run(self) -> None:
        size = 0
        pause = threading.Event()
        with contextlib.suppress(OSError), self.path.open("wb", buffering=0) as file:
            while not self.stopped:
                size += file.write(os.urandom(1 << 14))
                self._accepted.append((time.monotonic(), size))
                pause.wait(0.02)

    def age_of_lost(self, crashed: float) -> float:
        """How old the oldest byte was that a crash took."""
        size = self.path.stat().st_size if self.path.exists() else 0
        lost = [when for when, upto in self._accepted if upto > size and when < crashed]
        return crashed - lost[0] if lost else 0.0


def run_round(replica: Replica, number: int, seed: int, crash: Callable[[], None]) -> str:
    """Work, crash, mount again, check; `crash` returns when the daemon is dead.

    Raises:
        BrokenPromiseError: something is not as it was promised.
    """
    rng = random.Random(seed)
    folder = replica.mountpoint / f"round{number}"
    tick = partial(next, itertools.count(1))
    writers = []
    for n in range(WRITERS):
        (folder / str(n)).mkdir(parents=True)
        writers.append(Writer(folder / str(n), rng.randrange(1 << 30), tick))
    os.mkdir(folder / "db")
    _fsync(folder)
    database = Database(folder / "db/db", rng.choice(["delete", "wal"]))
    stream = Stream(folder / "stream")
    for thread in (stream, *writers):
        thread.start()
    try:
        crash()
    finally:
        crashed, stream.stopped = time.monotonic(), True
        for writer in writers:
            writer.stop()
        for writer in writers:
            writer.join(JOIN_S)
        committed = database.stop()
    if any(writer.is_alive() for writer in writers):
        raise BrokenPromiseError(f"a system call did not return within {JOIN_S} s of the crash")
    remount(replica)
    text = verify(writer.history for writer in writers)
    database.check(committed)
    check_store(replica)
    age = stream.age_of_lost(crashed)
    shutil.rmtree(folder)
    answered = sum(writer.history.answered for writer in writers)
    if age > AT_RISK_S + SLACK_S:
        raise BrokenPromiseError(f"{age:.1f} s of work without fsync were lost")
    return f"{text}, {answered} fsyncs, {committed} transactions, {age:.1f} s lost without fsync"


def remount(replica: Replica) -> None:
    """Mount with no help of any kind. Raises."""
    try:
        replica.mount()
    except AssertionError as error:
        raise BrokenPromiseError(f"it does not mount again: {error}") from error


def check_store(replica: Replica) -> None:
    """Run fsck beside the mount. Raises."""
    done = replica.run("fsck", str(replica.state))
    if done.returncode != 0:
        raise BrokenPromiseError(f"fsck: {done.stdout}{done.stderr}")


def _fsync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
