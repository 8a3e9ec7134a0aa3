"""Makes a failing plan small: leave out faults and steps as long as it still fails the same way."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from tests.sim.cluster import simulate
from tests.sim.plan import Plan

T = TypeVar("T")
TRIES_MAX = 400


def rule_of(violation: str | None) -> str:
    """The first words of a violation, which tell what was broken."""
    if violation is None:
        return ""
    if violation.startswith("Traceback"):
        return violation.strip().splitlines()[-1][:60]
    return violation.split(":")[0]


def shrink(plan: Plan, report: Callable[[str], None] = lambda _text: None) -> Plan:
    """The smallest plan found that breaks the same rule."""
    rule = rule_of(simulate(plan).violation)
    assert rule, "the plan does not fail"
    tries = 0

    def fails(candidate: Plan) -> bool:
        nonlocal tries
        tries += 1
        return tries <= TRIES_MAX and rule_of(simulate(candidate).violation) == rule

    before = None
    while before != (len(plan.faults), len(plan.steps)):
        before = (len(plan.faults), len(plan.steps))
        for name in ("faults", "steps"):
            plan = _reduce(plan, name, fails)
            report(f"{len(plan.faults)} faults, {len(plan.steps)} steps")
        last = max((each.at for each in (*plan.faults, *plan.steps)), default=1.0)
        shorter = msgspec.structs.replace(plan, seconds=min(plan.seconds, last + 1))
        plan = shorter if fails(shorter) else plan
    return plan


def _reduce(plan: Plan, name: str, fails: Callable[[Plan], bool]) -> Plan:
    """Leave out ever smaller parts of one list (delta debugging)."""
    items: Sequence[object] = getattr(plan, name)
    size = max(1, len(items) // 2)
    while items:
        start = 0
        while start < len(items):
            fewer = (*items[:start], *items[start + size :])
            candidate = msgspec.structs.replace(plan, **{name: fewer})
            if fails(candidate):
                items, plan = fewer, candidate
            else:
                start += size
        if size == 1:
            return plan
        size = max(1, size // 2)
    return plan
