"""Tortures a mounted volume, and compares it with a directory of the local disk. Needs root.

Modes: `calls` makes random system calls by several users on both and compares everything that can
be seen after each; a difference is shrunk to the calls that matter. `data` changes the bytes of one
file through every door there is, and compares them with a model. `stress` lets four processes do
anything at once, and compares the tree before and after a remount. `protocol` sends arbitrary
requests to the adapter that speaks the kernel protocol, `arguments` calls every operation of the
file system with arbitrary arguments; these two need no mount. `directory` fills one directory with
a million entries, or as many as asked for, lists it while others change it, and removes it; it
prints what each step costs.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import trio  # noqa: E402 - the path comes first

from tests.support import differential, protocol_fuzz, stress  # noqa: E402
from tests.support.arguments_fuzz import ArgumentsFuzz  # noqa: E402
from tests.support.big_directory import HEAD, BigDirectory  # noqa: E402
from tests.support.computers import Computer  # noqa: E402
from tests.support.data_torture import LARGE, SMALL, DataTorture  # noqa: E402
from tests.support.volumes import Replica, replicas  # noqa: E402

OPTIONS = "allow_other,suid,dev"


@dataclass(frozen=True)
class Job:
    """What was asked for."""

    mode: str
    seed: int
    seconds: float
    driver: str
    steps: int
    replay: bool
    keep_going: bool
    entries: int


def main() -> None:
    job = _parse()
    if job.mode in UNMOUNTED:
        sys.exit(UNMOUNTED[job.mode](job))
    if os.geteuid() != 0:
        sys.exit("torture: must be run by root, since it acts as several users")
    failures = 0
    with tempfile.TemporaryDirectory(prefix="torture-", dir="/var/tmp") as name:
        base = Path(name)
        base.chmod(0o755)
        with replicas(base / "volume", "one") as (replica,), reference(base / "right") as right:
            replica.base.chmod(0o755)
            replica.base.parent.chmod(0o755)
            replica.init().mount(f"{OPTIONS},driver={job.driver}")
            failures = MODES[job.mode](job, right, replica)
            failures += complaints(replica)
    sys.exit(1 if failures else 0)


def _parse() -> Job:
    parser = argparse.ArgumentParser("torture", description=__doc__)
    parser.add_argument("--mode", choices=sorted({*MODES, *UNMOUNTED}), default="calls")
    parser.add_argument("--seconds", type=float, default=60, help="how long (60)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6, help="the first seed")
    parser.add_argument("--driver", choices=("kernel", "pyfuse3"), default="kernel")
    parser.add_argument("--steps", type=int, default=300, help="calls of one sequence (300)")
    parser.add_argument("--replay", action="store_true", help="only this seed, once")
    parser.add_argument("--keep-going", action="store_true", help="do not end at a difference")
    parser.add_argument("--entries", type=int, default=10**6, help="of the directory (1000000)")
    return Job(**vars(parser.parse_args()))


@contextmanager
def reference(path: Path) -> Iterator[Path]:
    """A directory of the local disk, mounted again with the options of the tested mount."""
    path.mkdir(mode=0o755)
    subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,noatime", path], check=True)
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def seeds(job: Job) -> Iterator[int]:
    """The seeds to try until the time is over."""
    end = time.monotonic() + job.seconds
    seed = job.seed
    yield seed
    while not job.replay and time.monotonic() < end:
        seed += 1
        yield seed


def torture_calls(job: Job, right: Path, replica: Replica) -> int:
    failures = done = 0
    for seed in seeds(job):
        try:
            differential.compare(
                right / "calls", replica.mountpoint / "calls", seed, job.steps, job.driver
            )
        except differential.Difference as difference:
            failures += 1
            print(f"seed {seed}: {difference}")
            print("  " + "\n  ".join("\n".join(difference.__notes__).splitlines()))
            print(_replay(job, seed), flush=True)
            if not job.keep_going:
                break
        done += 1
    print(f"{done} sequences of {job.steps} calls on {job.driver}: {failures} differ")
    return failures


def torture_data(job: Job, _right: Path, replica: Replica) -> int:
    """One file at a time; every fourth is large, and after each tenth the volume is remounted."""
    folder = replica.mountpoint / "data"
    failures = done = 0

    def remount() -> None:
        replica.umount()
        replica.mount(f"{OPTIONS},driver={job.driver}")

    for seed in seeds(job):
        folder.mkdir(exist_ok=True)
        limits = LARGE if seed % 4 == 0 else SMALL
        again = remount if seed % 10 == 0 else None
        features = differential.FEATURES[job.driver]
        torture = DataTorture(folder, seed, limits, features, again)
        try:
            torture.run(job.steps)
        except (AssertionError, OSError, ValueError) as wrong:
            failures += 1
            print(
                f"seed {seed}: {type(wrong).__name__} {wrong} {torture.done}\n{_replay(job, seed)}"
            )
            if not job.keep_going:
                break
        done += 1
    print(f"{done} files, {job.steps} steps each, on {job.driver}: {failures} wrong")
    return failures


def torture_stress(job: Job, _right: Path, replica: Replica) -> int:
    """Rounds of fifteen seconds by four processes, each followed by a remount."""
    base = replica.mountpoint / "stress"
    done = calls = 0
    for seed in seeds(job):
        try:
            calls += stress.stress(base, seed, min(15, job.seconds))
            before = stress.fingerprint(base)
            replica.umount()
            replica.mount(f"{OPTIONS},driver={job.driver}")
            after = stress.fingerprint(base)
            assert before == after, _different(before, after)
        except (RuntimeError, AssertionError) as fault:
            print(f"seed {seed}: {fault}\n{_replay(job, seed)}")
            return 1
        done += 1
    shutil.rmtree(base)
    print(f"{done} rounds, {calls} calls by four processes on {job.driver}: nothing wrong")
    return 0


def torture_directory(job: Job, _right: Path, replica: Replica) -> int:
    """One directory with very many entries, and what each step on it costs."""
    print(f"{job.entries} entries on {job.driver}\n{HEAD}", flush=True)
    options = f"{OPTIONS},driver={job.driver}"
    directory = BigDirectory(
        replica, job.entries, options, lambda stage: print(stage.line(), flush=True)
    )
    try:
        directory.run()
    except AssertionError as fault:
        print(fault)
        return 1
    return 0


def _different(before: dict[str, object], after: dict[str, object]) -> str:
    keys = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    lines = [f"{key}: {before.get(key)} became {after.get(key)}" for key in sorted(keys)[:5]]
    return f"{len(keys)} differ after a remount: " + "; ".join(lines)


def fuzz_protocol(job: Job) -> int:
    """Arbitrary requests, as the kernel would never make them."""
    granted = 0
    count = 0
    for seed in seeds(job):
        granted += trio.run(protocol_fuzz.fuzz, Computer("a"), seed, 20 * job.steps)
        count += 20 * job.steps
    print(f"{count} requests, {granted} granted, every one answered")
    return 0


def fuzz_arguments(job: Job) -> int:
    """Operations of the file system with arbitrary arguments."""
    outcomes: Counter[str] = Counter()
    for seed in seeds(job):
        fuzz = ArgumentsFuzz(Computer("a"), seed)
        try:
            fuzz.run(20 * job.steps)
        except Exception as error:  # noqa: BLE001 - it is what was looked for
            traceback.print_exc()
            print(f"seed {seed}: {error!r}\n{_replay(job, seed)}")
            return 1
        outcomes += fuzz.outcomes
    print(f"{outcomes.total()} operations: {dict(outcomes.most_common())}")
    return 0


def _replay(job: Job, seed: int) -> str:
    return (
        f"  again: tools/torture --mode {job.mode} --seed {seed} --steps {job.steps}"
        f" --driver {job.driver} --replay"
    )


def complaints(replica: Replica) -> int:
    """Warnings and errors in the daemon's log."""
    log = replica.state / "daemon.log"
    lines = log.read_text().splitlines() if log.exists() else []
    bad = [line for line in lines if '"level": "error"' in line or "Traceback" in line]
    for line in bad[:5]:
        print(f"daemon: {line[:2000]}")
    return len(bad)


MODES: dict[str, Callable[[Job, Path, Replica], int]] = {
    "calls": torture_calls,
    "data": torture_data,
    "stress": torture_stress,
    "directory": torture_directory,
}
UNMOUNTED: dict[str, Callable[[Job], int]] = {
    "protocol": fuzz_protocol,
    "arguments": fuzz_arguments,
}

if __name__ == "__main__":
    main()
