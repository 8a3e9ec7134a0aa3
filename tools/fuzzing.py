"""Long runs of the fuzz targets: no crash, no hang, no memory.

Each target runs in a process of its own whose memory may grow by 64 MiB; an input that takes more
than two seconds of processor time counts as a hang. What breaks a target is kept below
tests/security/corpus, where the short run of the tests takes it up for ever.
"""

import argparse
import hashlib
import itertools
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.fuzzing import CORPUS, TARGETS, Target, inputs  # noqa: E402 - found only now

MEMORY_BYTES = 64 << 20
HANG_S = 2
BATCH = 200
BROKEN = 3


class HangError(Exception):
    """An input takes too long."""


def main() -> int:
    """Fuzz; returns 1 if anything broke."""
    parser = argparse.ArgumentParser(prog="tools/fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="for all targets together [5]")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations [the clock]")
    parser.add_argument("--target", choices=[target.name for target in TARGETS], help="one only")
    arguments = parser.parse_args()
    targets = [t for t in TARGETS if arguments.target in (None, t.name)]
    seconds = arguments.minutes * 60 / len(targets)
    seed = arguments.seed or int(time.time())
    print(f"seed {seed}, {seconds:.0f} s for each of {len(targets)} targets", flush=True)
    codes = [run_apart(target, seed, seconds) for target in targets]
    broken = [target.name for target, code in zip(targets, codes, strict=True) if code]
    print(f"broken: {', '.join(broken) or 'none'}")
    return 1 if broken else 0


def run_apart(target: Target, seed: int, seconds: float) -> int:
    """Run a target in a process of its own; returns its exit code."""
    child = multiprocessing.get_context("fork").Process(target=run, args=(target, seed, seconds))
    child.start()
    child.join()
    if child.exitcode not in (0, BROKEN):
        print(f"{target.name}: the process ended with {child.exitcode}", flush=True)
    return child.exitcode or 0


def run(target: Target, seed: int, seconds: float) -> None:
    """Run a target until the time is over or it breaks."""
    signal.signal(signal.SIGPROF, hang)
    before = resident()
    limit = address_space() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    end = time.monotonic() + seconds
    count, slowest = 0, 0.0
    stream = inputs(target, seed)
    while time.monotonic() < end:
        for data in itertools.islice(stream, BATCH):
            begin = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, HANG_S)
            try:
                target.check(data)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is what we look for
                signal.setitimer(signal.ITIMER_PROF, 0)
                if isinstance(error, HangError) and not hangs_again(target, data):
                    continue
                keep(target, data, error)
                os._exit(BROKEN)
            signal.setitimer(signal.ITIMER_PROF, 0)
            slowest = max(slowest, time.process_time() - begin)
            count += 1
    grown = max(0, resident() - before) >> 20
    print(
        f"{target.name}: {count:,} inputs, {count / seconds:,.0f}/s, slowest {slowest * 1000:.1f} "
        f"ms, memory +{grown} MiB",
        flush=True,
    )


def hangs_again(target: Target, data: bytes) -> bool:
    """A machine that is overloaded may book another's time as ours; an input cannot twice."""
    signal.setitimer(signal.ITIMER_PROF, HANG_S)
    try:
        target.check(data)
    except HangError:
        return True
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return False


def hang(_number: int, _frame: FrameType | None) -> None:
    raise HangError(f"more than {HANG_S} s")


def keep(target: Target, data: bytes, error: BaseException) -> None:
    """Save what broke a target, for the tests to begin with."""
    place = CORPUS / target.name / hashlib.blake2s(data, digest_size=8).hexdigest()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    traceback.print_exception(error)
    print(f"{target.name} BROKEN by {place.relative_to(ROOT)}: {error!r}", flush=True)


def address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
