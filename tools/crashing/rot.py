"""Bit rot: flipped bits, wiped sectors and lost pages in a store's file.

Each round damages a copy of a store at random. fsck, which reads the file without LMDB, must find
the damage, or it must be in bytes that mean nothing. A second process opens the same copy as a
daemon does and reads every row: each is right, or an error; it may end by a signal (LMDB follows
damaged numbers) only where fsck finds the damage, since the next start looks before it trusts. Then
the store is repaired, and with what another replica has it must show the same tree as before.
"""

import argparse
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from pathlib import Path

import msgspec

from crashing.recording import work
from crashing.verify import BrokenPromiseError
from piperfs.core.errors import PiperError
from piperfs.store.cells import Cells
from piperfs.store.check import check_store
from piperfs.store.engine import DATA_FILE, LmdbEngine, MemoryEngine
from piperfs.store.repair import Salvage, copy_facts, rebuild
from piperfs.store.salvage import SalvageEngine, open_salvage
from piperfs.store.schema import NAMES
from piperfs.store.store import Store
from tests.support.computers import Computer

COMMITS = 40
PAGE_BYTES = 4096
LOCAL_KEY = b"k" * 32
Rows = dict[tuple[str, bytes], object]


def run(options: argparse.Namespace) -> str:
    """Damage and check. Raises BrokenPromiseError."""
    outcomes: Counter[str] = Counter()
    base = Path(tempfile.mkdtemp(prefix="piperfs-rot-", dir="/dev/shm"))
    try:
        victim = Victim(base, options.seed)
        for number in range(options.rounds):
            rng = random.Random(options.seed + number)
            what = damage(victim.copy, victim.sound, rng)
            outcome = victim.examine(what)
            outcomes[outcome] += 1
            if not options.quiet and number % 100 == 99:
                print(f"{number + 1}: {dict(outcomes)}", flush=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    told = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    return f"{options.rounds} damaged files ({told}), none unnoticed, no wrong bytes"


def damage(copy: Path, sound: bytes, rng: random.Random) -> str:
    """Write a damaged copy; returns what was done to it."""
    data = bytearray(sound)
    kind = rng.choice(["bits", "bits", "sector", "page", "zeros", "end"])
    at = rng.randrange(len(data) // PAGE_BYTES) * PAGE_BYTES
    if kind == "bits":
        spots = [rng.randrange(len(data)) for _ in range(rng.choice([1, 1, 8]))]
        for spot in spots:
            data[spot] ^= 1 << rng.randrange(8)
        kind = f"bits at {spots}"
    elif kind == "sector":
        at += 512 * rng.randrange(8)
        data[at : at + 512] = rng.randbytes(512)
    elif kind == "page":
        data[at : at + PAGE_BYTES] = rng.randbytes(PAGE_BYTES)
    elif kind == "zeros":
        data[at : at + PAGE_BYTES] = bytes(PAGE_BYTES)
    else:
        del data[max(at, 2 * PAGE_BYTES) :]
    copy.write_bytes(data)
    return f"{kind} ({at})"


class Victim:
    """A store, its rows, its tree, and another replica that has everything."""

    def __init__(self, base: Path, seed: int) -> None:
        (base / "made").mkdir()
        work(base / "made", seed, COMMITS, quiet=True)
        self.sound = (base / "made/store" / DATA_FILE).read_bytes()
        self.copy = base / "copy" / DATA_FILE
        self.copy.parent.mkdir()
        engine = LmdbEngine(base / "made/store", NAMES)
        computer = Computer("alpha", engine)
        self._rows = read_rows(computer.store)
        self._tree = computer.tree()
        self._peer = Computer("beta")
        self._peer.receive_from(computer)
        engine.close()

    def examine(self, what: str) -> str:
        """Check everything about the damaged copy; returns how it came out."""
        fatal = self._run_as_daemon(what)
        try:
            engine = open_salvage(self.copy.parent, NAMES, Cells(LOCAL_KEY, os.urandom))
        except PiperError:
            return "beyond repair"
        try:
            return self._examine(engine, what, fatal=fatal)
        finally:
            engine.close()

    def _examine(self, engine: SalvageEngine, what: str, *, fatal: bool) -> str:
        computer = Computer("alpha", engine)
        findings = [*engine.damage, *map(str, check_store(computer.store))]
        if not findings:
            if fatal or read_rows(computer.store) != self._rows:
                raise BrokenPromiseError(f"{what}: fsck finds nothing")
            return "harmless"
        self._repair(computer, what)
        return "found, would have crashed" if fatal else "found"

    def _run_as_daemon(self, what: str) -> bool:
        """Read everything in a process of its own; tells whether that ended by a signal."""
        child = os.fork()
        if child == 0:
            os._exit(self._read_all())
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            if os.WTERMSIG(status) not in (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT):
                raise BrokenPromiseError(f"{what}: ended by signal {os.WTERMSIG(status)}")
            return True
        if os.WEXITSTATUS(status):
            raise BrokenPromiseError(f"{what}: a wrong value was read")
        return False

    def _read_all(self) -> int:
        try:
            engine = LmdbEngine(self.copy.parent, NAMES, create=False)
            store = Computer("alpha", engine).store
        except (PiperError, msgspec.DecodeError):
            return 0  # it does not start, and says why
        try:
            found = read_rows(store)
        except PiperError:
            return 0
        return int(any(self._rows[row] != value for row, value in found.items()
                       if value is not None and row in self._rows))  # fmt: skip

    def _repair(self, source: Computer, what: str) -> None:
        """Raises BrokenPromiseError if a repair and a peer do not bring everything back."""
        engine, salvage = MemoryEngine(NAMES), Salvage()
        copy_facts(source.store, engine, salvage)
        target = Computer("alpha", engine)
        for _ in rebuild(source.store, target.store, target.keyring.unseal_bodies, 1, salvage):
            pass
        target.receive_from(self._peer)
        left = [str(finding) for finding in check_store(target.store)]
        if left or target.tree() != self._tree:
            raise BrokenPromiseError(f"{what}: the repair left {left[:3] or 'another tree'}")


def read_rows(store: Store) -> Rows:
    """Every row that opens; None for one that reports damage."""
    rows: Rows = {}
    for table in store.tables.all:
        for key in store.keys(table.name):
            try:
                if table.name == "chunk":
                    rows[table.name, key] = store.chunks.get(key)  # type: ignore[arg-type]
                else:
                    rows[table.name, key] = table.get(key)
            except (PiperError, msgspec.DecodeError):
                rows[table.name, key] = None
    return rows
