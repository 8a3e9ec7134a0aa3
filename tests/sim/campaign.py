"""Many seeds on all cores: how fast, what was reached, and what broke."""

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from tests.sim.cluster import Outcome, simulate
from tests.sim.plan import KINDS, draw

# Rare states that a campaign of some hundred seeds must reach, or it proves nothing about them.
MUST_REACH = (
    *(f"fault: {kind}" for kind in KINDS),
    "a call failed: NO_SPACE",
    "a call failed: the store",
    "a commit found the disk full",
    "a commit met an I/O error",
    "a build of another version was refused",
    "a commit met a quota",
    "a computer joined",
    "a computer was cloned",
    "a computer was set back to an old copy",
    "a conflict copy was deleted",
    "a conflict copy was edited",
    "a connection broke under altered packets",
    "a damaged chunk was found",
    "a damaged store was repaired",
    "a frame stopped half way",
    *(f"a frame was tampered with: {how}" for how in ("drop", "double", "swap", "alter")),
    "a later build met the others",
    "a member was made a reader",
    "a member was made a writer",
    "a member was removed",
    "a new key was made",
    "a packet was sent again",
    "a session kept a newer version from being seen",
    "an operation came back to its author",
    "chunks were collected",
    "conflict copies remained",
    "directories shared a name",
    "log: operations.withdrawn",
    "log: replica.restored",
    "log: versions.spared",
    "ranges were compared",
    "power was lost just before a batch was durable",
    "power was lost just after a batch was durable",
)
BATCH = 8  # seeds for each process at a time
SEEDS_FOR_COVERAGE = 1000  # fewer may miss a state by chance


@dataclass
class Summary:
    """What a campaign came to."""

    seeds: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    virtual_s: float = 0.0
    steps: int = 0
    operations: int = 0
    frames: int = 0
    peace_s_max: float = 0.0
    reached: Counter[str] = field(default_factory=Counter)
    broken: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome, seconds: float) -> None:
        self.seeds += 1
        self.virtual_s += seconds + outcome.peace_s
        self.steps += outcome.steps
        self.operations += outcome.operations
        self.frames += outcome.frames
        self.peace_s_max = max(self.peace_s_max, outcome.peace_s)
        self.reached.update(dict.fromkeys(outcome.reached, 1))
        if outcome.violation is not None:
            self.broken.append(outcome)

    @property
    def not_reached(self) -> list[str]:
        return [state for state in MUST_REACH if not self.reached[state]]


def run_one(machines: int, seconds: float, seed: int) -> tuple[Outcome, float]:
    """One seed in a worker process, and the CPU time it took."""
    begun = time.process_time()
    outcome = simulate(draw(seed, machines, seconds))
    return outcome, time.process_time() - begun


def run(
    seeds: Iterable[int], machines: int, seconds: float, jobs: int,
    report: Callable[[Summary, Outcome], None],
) -> Summary:  # fmt: skip
    """Run all seeds; `report` is called after each."""
    summary = Summary()
    begun = time.monotonic()
    work = partial(run_one, machines, seconds)
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=200) as pool:
        waiting = iter(seeds)
        while batch := list(islice(waiting, jobs * BATCH)):  # a pool reads as far as it can
            for outcome, cpu_s in pool.imap_unordered(work, batch):
                summary.add(outcome, seconds)
                summary.cpu_s += cpu_s
                summary.wall_s = time.monotonic() - begun
                report(summary, outcome)
    return summary


def cores() -> int:
    return len(os.sched_getaffinity(0))
