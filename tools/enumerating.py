"""All membership graphs of up to five records, in every order in which they can be delivered.

Three admins and two writers; each record removes somebody or changes a role, and builds on any
choice of the records before it. Every order of delivery must give one state, which keeps an admin
and gives nobody a right without the role. How so many are gone through is explained at the top of
tests/support/enumeration.py. Samples of real graphs, with real signatures, follow for some minutes.
"""

import argparse
import multiprocessing
import os
import random
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.enumeration import Counts, Enumeration  # noqa: E402 - found only now
from tests.support.graphs import check, make_world, random_graph  # noqa: E402

WORLD = make_world()  # before the processes part, so that all have the same
ENUMERATION = Enumeration(WORLD)


def main() -> int:
    """Enumerate; an assertion that fails ends the run."""
    parser = argparse.ArgumentParser(prog="tools/membership-graphs", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1, help="for the samples [1]")
    parser.add_argument("--size", type=int, default=5, help="of the graphs that are all tried [5]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    with multiprocessing.get_context("fork").Pool(arguments.jobs) as pool:
        begun = time.monotonic()
        shares = [(arguments.size, first) for first in range(len(ENUMERATION.deeds))]
        total = Counts()
        for number, counts in enumerate(pool.imap_unordered(everything, shares, chunksize=1), 1):
            total += counts
            print(
                f"up to {arguments.size} records, share {number} of {len(shares)}: "
                f"{total.graphs:,} graphs, {total.steps:,} with one more record on top, "
                f"one state each, {time.monotonic() - begun:.0f} s",
                flush=True,
            )
        tasks = [(job, arguments.minutes) for job in range(arguments.jobs)]
        graphs, orders = (sum(each) for each in zip(*pool.starmap(sample, tasks), strict=True))
        print(
            f"real ones of 4 and 5 records: {graphs:,} graphs in {orders:,} orders, one state each"
        )
    return 0


def everything(share: tuple[int, int]) -> Counts:
    """Check every graph that begins with one deed."""
    return ENUMERATION.run(*share)


def sample(job: int, minutes: float) -> tuple[int, int]:
    """Check random graphs for a while."""
    rng = random.Random(time.time_ns() + job)
    end = time.monotonic() + 60 * minutes
    graphs = orders = 0
    while time.monotonic() < end:
        orders += check(WORLD, *random_graph(WORLD, rng, rng.choice((4, 4, 5))))
        graphs += 1
    return graphs, orders


if __name__ == "__main__":
    sys.exit(main())
