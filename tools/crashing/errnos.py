"""Errors of every system call of the store, under a daemon that serves a real mount.

strace makes the n-th pwrite, writev, fdatasync or openat on the store's file fail with EIO, ENOSPC,
EDQUOT or EFBIG, or take only a part of the bytes. Whatever happens: fsync answers 0 only for what
is there after a kill -9, a full disk is got over without a restart, any other error stops writing
and never reading, and the next mount is clean. openat fails while the volume is opened: one
clear line, a code, no harm.
"""

import argparse
import errno
import itertools
import random
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from crashing.rounds import check_store, pid_of, remount
from crashing.verify import BrokenPromiseError
from tests.support.disks import errno_of, fsync
from tests.support.volumes import PIPERFS, Replica, eventually, replicas

CALLS = ("pwrite64", "writev", "fdatasync")  # all that LMDB uses
RESULTS = ("error=EIO", "error=ENOSPC", "error=EDQUOT", "error=EFBIG", "retval=512", "retval=0")
NTH = (1, 2, 3, 5)
FULL = {errno.ENOSPC, errno.EDQUOT}
SHOTS = 12
STARTS = ("EIO", "ENOSPC", "EMFILE", "EACCES")
STARTS_SHORT = ("EIO",)


class Fault(NamedTuple):
    """What goes wrong, once."""

    call: str
    result: str
    nth: int

    def __str__(self) -> str:
        return f"{self.call}:{self.result}:when={self.nth}"

    @property
    def is_full(self) -> bool:
        return self.result in ("error=ENOSPC", "error=EDQUOT", "error=EFBIG")


def faults() -> list[Fault]:
    """All of them. A flush takes no bytes, so it cannot take too few."""
    every = (Fault(*each) for each in itertools.product(CALLS, RESULTS, NTH))
    return [f for f in every if not (f.call == "fdatasync" and "retval" in f.result)]


def run(options: argparse.Namespace) -> str:
    """Run a sweep, or a random part of it. Raises BrokenPromiseError."""
    chosen = faults()
    if options.rounds:
        random.Random(options.seed).shuffle(chosen)
        chosen = chosen[: options.rounds]
    outcomes: dict[str, int] = {}
    starts_with = STARTS_SHORT if options.rounds else STARTS
    base = Path(tempfile.mkdtemp(prefix="piperfs-errno-"))
    with replicas(base, "anna") as (anna,):  # which removes the directory
        anna.init().mount()
        for number, fault in enumerate(chosen):
            outcome = _one(anna, number, fault)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            if not options.quiet:
                print(f"{number}: {fault}: {outcome}", flush=True)
        anna.umount()
        starts = _failing_starts(anna, starts_with)
    told = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    return f"{len(chosen)} faults ({told}), {starts} failing starts, no promise broken"


def _one(anna: Replica, number: int, fault: Fault) -> str:
    root = anna.mountpoint / f"fault{number}"
    root.mkdir()
    fsync(root / "kept", b"kept")
    data = anna.state / "store/data.mdb"
    tracer = subprocess.Popen(
        ["strace", "-f", "-p", str(pid_of(anna)), "-P", str(data), "-e", f"trace={fault.call}",
         "-e", f"inject={fault}", "-o", "/dev/null"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert tracer.stderr is not None
    while "attached" not in tracer.stderr.readline():
        continue
    try:
        answers = [errno_of(fsync, root / str(n), b"x%d" % n) for n in range(SHOTS)]
    finally:
        tracer.terminate()
        tracer.communicate()
    if (root / "kept").read_bytes() != b"kept":
        raise BrokenPromiseError(f"{fault}: a read went wrong")
    outcome = _judge(anna, root, fault, answers)
    anna.kill()
    remount(anna)
    for n, answer in enumerate(answers):
        if answer == 0 and (root / str(n)).read_bytes() != b"x%d" % n:
            raise BrokenPromiseError(f"{fault}: what fsync number {n} acknowledged is not there")
    if (root / "kept").read_bytes() != b"kept":
        raise BrokenPromiseError(f"{fault}: an old file was lost")
    check_store(anna)
    return outcome


def _judge(anna: Replica, root: Path, fault: Fault, answers: list[int]) -> str:
    """What the callers saw, which must fit the fault."""
    failed = [answer for answer in answers if answer]
    health = anna.status()["health"].get("store", "")
    if not failed:
        return "not met"
    if health.startswith("failing"):
        if not set(failed) <= {errno.EIO, errno.EROFS} | FULL or answers[-1] != errno.EROFS:
            raise BrokenPromiseError(f"{fault}: failing, and callers saw {answers}")
        return "final"
    if not fault.is_full or not set(failed) <= FULL:
        raise BrokenPromiseError(f"{fault}: not final, and callers saw {answers}")
    try:
        eventually(lambda: errno_of(fsync, root / "late", b"late") == 0, within_s=20)
    except AssertionError as error:
        raise BrokenPromiseError(f"{fault}: it does not get over it") from error
    return "got over"


def _failing_starts(anna: Replica, errors: tuple[str, ...]) -> int:
    """Let opening a file of the state directory fail while the volume is opened."""
    count = 0
    for error, nth in itertools.product(errors, (1, 2)):
        for path in _paths(anna.state):
            done = subprocess.run(
                ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(path), "-e", "trace=openat",
                 "-e", f"inject=openat:error={error}:when={nth}",
                 *PIPERFS, "digest", str(anna.state)],
                env=anna.environment, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            text = done.stderr.strip()
            if done.returncode and ("Traceback" in text or len(text.splitlines()) != 1):
                raise BrokenPromiseError(f"openat {path.name} {error} {nth}: {text}")
            count += 1
    if anna.piperfs("fsck", str(anna.state)) != "No findings.\n":
        raise BrokenPromiseError("a start that failed did harm")
    return count


def _paths(state: Path) -> Iterator[Path]:
    yield state / "store/data.mdb"
    yield state / "lock"
    yield state / "volume.json"
