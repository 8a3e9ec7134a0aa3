"""What will happen in a run, drawn from its seed beforehand: people's steps and faults.

A plan is a list of small values, so a failing one shrinks by leaving things out, and it is kept
as a file that replays for ever.
"""

from collections.abc import Callable
from random import Random

import msgspec

from tests.sim.desk import ACTIONS


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One thing that somebody does at one computer."""

    at: float
    machine: int
    action: str
    x: int
    y: int
    z: int


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """One thing that goes wrong, for a while. What the numbers mean depends on the kind."""

    at: float
    kind: str
    machine: int
    other: int
    length: float
    amount: float


class Plan(msgspec.Struct, frozen=True):
    """A whole run."""

    seed: int
    machines: int
    seconds: float
    real_signatures: bool
    steps: tuple[Step, ...]
    faults: tuple[Fault, ...]


# How often a kind of fault is drawn, relative to others; each seed leaves some of them out.
KINDS: dict[str, int] = {
    "loss": 4, "slow_line": 3, "cut": 6, "cut_one_way": 5, "isolate": 4, "swizzle": 2, "stall": 3,
    "corrupt": 3, "tamper": 3, "crash": 8, "crash_in_commit": 5, "disk_full": 3, "io_error": 2,
    "rot_chunk": 3, "slow_disk": 3, "slow_machine": 2, "clock_jump": 4, "clock_years": 2,
    "restore": 2, "restart": 2, "join": 1, "remove": 1, "role": 2, "rotate": 2, "clone": 1,
    "rot_cell": 2, "skew": 2, "collect": 3, "quota": 2,
}  # fmt: skip
QUIET_SHARE = 0.1  # of all seeds have no faults: plain work must converge too


def draw(seed: int, machines: int = 5, seconds: float = 60.0) -> Plan:
    """The plan of a seed."""
    random = Random(f"plan {seed}")
    steps = sorted(_steps(random, machines, seconds), key=lambda step: step.at)
    faults = () if random.random() < QUIET_SHARE else _faults(random, machines, seconds)
    return Plan(seed, machines, seconds, seed % 20 == 0, tuple(steps), tuple(faults))


def _steps(random: Random, machines: int, seconds: float) -> list[Step]:
    weights = {action: weight * random.uniform(0.2, 2) for action, weight in ACTIONS.items()}
    rate = random.choice((0.1, 0.25, 0.5))  # of each computer and second
    count = int(machines * seconds * rate)
    busy = [random.uniform(0.2, 2) for _ in range(machines)]
    actions = random.choices(list(weights), list(weights.values()), k=count)
    found = []
    at = 0.5
    for action in actions:
        # People work in bursts: some things happen at the same moment at several computers.
        at = at if random.random() < 0.3 else random.uniform(0.5, seconds)
        machine = random.choices(range(machines), busy)[0]
        numbers = (random.randrange(64) for _ in range(3))
        found.append(Step(round(at, 3), machine, action, *numbers))
    return found


def _faults(random: Random, machines: int, seconds: float) -> list[Fault]:
    weights = {
        kind: weight * random.uniform(0.1, 2) for kind, weight in KINDS.items()
        if random.random() < 0.5
    } or dict(KINDS)  # fmt: skip
    count = int(random.choice((2, 5, 10, 20)) * seconds / 60) + 1
    kinds = random.choices(list(weights), list(weights.values()), k=count)
    at = sorted(round(random.uniform(1, seconds * 0.95), 3) for _ in kinds)
    return [
        Fault(
            when, kind, random.randrange(machines), random.randrange(machines),
            round(random.choice((1, 5, 20)) * random.uniform(0.5, 2), 3),
            min(round(random.random(), 3), 0.999),  # always less than one
        )
        for when, kind in zip(at, kinds, strict=True)
    ]  # fmt: skip


def dump(plan: Plan) -> bytes:
    return msgspec.json.format(msgspec.json.encode(plan), indent=0) + b"\n"


load: Callable[[bytes], Plan] = msgspec.json.Decoder(Plan).decode
