"""Records what a working store does to its file: every write, every flush, every promise.

Run as a program, it is the worker: a whole file system without kernel, on a real LMDB file, doing
random things and saying after each commit what rows the store has. It runs under strace, whose
output is the record: what LMDB really asked of the kernel, in its order.
"""

import os
import random
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from blake3 import blake3

from piperfs.core.errors import FsError
from piperfs.store.engine import DATA_FILE, LmdbEngine
from piperfs.store.schema import NAMES
from tests.support.computers import Computer

STEPS_PER_COMMIT = 6
PROMISE = b"COMMITTED "
CALL = re.compile(r"^(\w+)\((\d+|AT_FDCWD)(?:, )?(.*)\) += (\d+)")
HEX = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes at an offset; `durable` ones are on the disk when the call returns."""

    offset: int
    data: bytes
    durable: bool


@dataclass(frozen=True, slots=True)
class Flush:
    """Everything written before is on the disk now."""


@dataclass(frozen=True, slots=True)
class Promise:
    """A commit was answered; the store's rows have this digest since."""

    rows: str


Event: TypeAlias = Write | Flush | Promise


def rows_digest(engine: LmdbEngine, *, without: bytes = b"") -> str:
    """Stands for every row of every table, bytes as they lie there."""
    state = blake3()
    for name in NAMES:
        for key, value in engine.scan(name, b"", b"\xff" * 64):
            if key != without or not without:
                state.update(f"{name} {len(key)} {len(value)} ".encode() + key + value)
    return state.hexdigest()


def record(directory: Path, seed: int, commits: int) -> list[Event]:
    """Let a worker work on a new store, and return what it did."""
    trace = directory / "trace"
    command = [
        "strace", "-qq", "-xx", "-s", "100000000", "-o", str(trace),
        "-e", "trace=openat,lseek,pwrite64,pwritev,writev,fdatasync,fsync,msync,ftruncate,write",
        sys.executable, "-P", __file__, str(directory), str(seed), str(commits),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return parse(trace, str(directory / "store" / DATA_FILE))


def parse(trace: Path, data: str) -> list[Event]:
    """The events of the store's file out of strace's record."""
    parser = Parser("".join(f"\\x{byte:02x}" for byte in data.encode()))
    with trace.open() as lines:
        for line in lines:
            if (found := CALL.match(line)) is not None:
                parser.feed(*found.groups())
    return parser.events


class Parser:
    """Follows the descriptors of one file through a record of system calls."""

    def __init__(self, path: str) -> None:
        self.events: list[Event] = []
        self._path = path
        self._durable: dict[str, bool] = {}  # descriptor -> whether each write waits for the disk
        self._position: dict[str, int] = {}

    def feed(self, call: str, descriptor: str, arguments: str, result: str) -> None:
        """Take in one call."""
        if call == "openat":
            if self._path in arguments:
                self._durable[result] = "SYNC" in arguments
        elif call == "write":
            if (raw := _bytes(arguments)).startswith(PROMISE):
                self.events.append(Promise(raw[len(PROMISE) :].decode()))
        elif descriptor in self._durable:
            self._feed_file(call, descriptor, arguments, int(result))

    def _feed_file(self, call: str, descriptor: str, arguments: str, result: int) -> None:
        if call == "lseek":
            self._position[descriptor] = result
        elif call in ("fdatasync", "fsync"):
            self.events.append(Flush())
        elif call in ("pwrite64", "pwritev", "writev"):
            raw, offset = _bytes(arguments), self._position.get(descriptor, 0)
            if call == "writev":
                self._position[descriptor] = offset + result
            else:
                offset = int(arguments.rpartition(", ")[2])
            assert len(raw) == result, "strace shortened a write"
            self.events.append(Write(offset, raw, self._durable[descriptor]))
        else:
            raise AssertionError(f"the store does something unforeseen: {call}")


def _bytes(arguments: str) -> bytes:
    """All strings among the arguments of a call."""
    return b"".join(bytes.fromhex(text.replace("\\x", "")) for text in HEX.findall(arguments))


# The worker


def work(directory: Path, seed: int, commits: int, *, quiet: bool = False) -> None:
    """Random actions, a commit after every few, and a promise after each commit."""
    rng = random.Random(seed)
    engine = LmdbEngine(directory / "store", NAMES)
    computer = Computer("alpha", engine)
    for _ in range(commits):
        for _ in range(rng.randint(1, STEPS_PER_COMMIT)):
            try:
                step(computer, rng)
            except FsError:
                continue  # a name that is not there, or is
        computer.commit()
        if not quiet:
            os.write(1, PROMISE + rows_digest(engine).encode())
    engine.close()


def step(computer: Computer, rng: random.Random) -> None:
    """One random action."""
    names = [f"f{n}" for n in range(12)]
    name, other, folder = rng.choice(names), rng.choice(names), rng.choice(["", "d/", "e/"])
    size = rng.choice([10, 300, 5000, 70_000, 200_000])
    rng.choice(
        [
            lambda: computer.write(folder + name, rng.randbytes(size)),
            lambda: computer.write(folder + name, rng.randbytes(99), append=True),
            lambda: computer.mkdir(folder[:-1] or "d"),
            lambda: computer.unlink(folder + name),
            lambda: computer.rename(folder + name, folder + other),
            lambda: computer.link(folder + name, other),
            lambda: computer.chmod(folder + name, 0o600),
        ]
    )()


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
