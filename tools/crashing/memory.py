"""Too little memory: under load the daemon gets no more than it has, and a little, from the kernel.

The limit is one of address space, set from outside at a random instant; from then on any
allocation may fail: in Python, LMDB, the compiler's runtime of any library, or a new thread. The
daemon may go on, refuse some calls or end; that it lived is ended by a kill. Then `piperfs mount`
must work at once, and the checks are those of `kill`.
"""

import argparse
import os
import random
import resource
import select
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from crashing.rounds import outlives, pid_of, run_round
from tests.support.volumes import Replica, replicas

MORE_BYTES_LOG2 = (12, 28)  # how much is still given, from a page to a quarter of a gigabyte


def run(options: argparse.Namespace) -> str:
    """Run rounds. Raises BrokenPromiseError."""
    base = Path(tempfile.mkdtemp(prefix="piperfs-memory-"))
    ends: Counter[str] = Counter()
    with replicas(base, "anna") as (anna,):  # which removes the directory
        anna.init().mount()
        for number in range(options.rounds):
            seed = options.seed + number
            text = run_round(anna, number, seed, starve(anna, random.Random(seed), ends))
            if not options.quiet:
                print(f"{number}: {text}", flush=True)
    told = ", ".join(f"{count} {how}" for how, count in sorted(ends.items()))
    return f"{options.rounds} times too little memory (daemon: {told}), no promise broken"


def starve(replica: Replica, rng: random.Random, ends: Counter[str]) -> Callable[[], None]:
    """Give the daemon hardly any more memory after a random time; count how it ended."""
    pid, pause, patience = pid_of(replica), rng.uniform(0, 1), rng.uniform(2, 5)
    more = int(2 ** rng.uniform(*MORE_BYTES_LOG2))

    def crash() -> None:
        process = os.pidfd_open(pid)
        select.select([process], [], [], pause)
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        ends["lived on" if outlives(pid, process, patience) else "ended by itself"] += 1
        os.close(process)

    return crash
