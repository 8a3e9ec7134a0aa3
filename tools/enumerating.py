"""All membership graphs of up to three records, and samples of those with four and five.

Three admins and two members; each record removes somebody or changes a role, and builds on any
choice of the records before it. Every order of delivery must give one state, which keeps an admin
and gives nobody a right without the role.
"""

import argparse
import itertools
import multiprocessing
import os
import random
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.graphs import (  # noqa: E402 - found only now
    all_graphs,
    check,
    make_world,
    random_graph,
)

WORLD = make_world()  # before the processes part, so that all have the same


def main() -> int:
    """Enumerate; an assertion that fails ends the run."""
    parser = argparse.ArgumentParser(prog="tools/membership-graphs", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="for the samples [10]")
    parser.add_argument("--size", type=int, default=3, help="of the graphs that are all tried [3]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("fork")
    with context.Pool(arguments.jobs) as pool:
        jobs = arguments.jobs
        shares = [(job, jobs, arguments.size) for job in range(jobs)]
        counts = pool.starmap(everything, shares)
        print_counts(f"all up to {arguments.size} records", counts)
        tasks = [(job, arguments.minutes) for job in range(jobs)]
        print_counts("samples of 4 and 5 records", pool.starmap(sample, tasks))
    return 0


def print_counts(what: str, counts: list[tuple[int, int]]) -> None:
    graphs, orders = (sum(each) for each in zip(*counts, strict=True))
    print(f"{what}: {graphs:,} graphs, {orders:,} deliveries, one state each", flush=True)


def everything(job: int, jobs: int, size_max: int) -> tuple[int, int]:
    """Check every graph whose number belongs to this job."""
    graphs = orders = 0
    for size in range(1, size_max + 1):
        mine = itertools.islice(all_graphs(WORLD, size), job, None, jobs)
        for graph, raws in mine:
            orders += check(WORLD, graph, raws)
            graphs += 1
    return graphs, orders


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
