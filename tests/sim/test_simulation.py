"""Whole replicas from seeds: a few runs of every kind, and that a seed means one run."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio

from piperfs.fs import files
from tests.sim import loop, shrink
from tests.sim.cluster import simulate
from tests.sim.ledger import Ledger
from tests.sim.plan import Fault, Plan, Step, draw, dump, load

ROOT = Path(__file__).resolve().parents[2]
SHOWS = {  # with an amount, a state that the fault must lead to
    "remove": (0.1, "a member without rights was left out"),
    "role": (0.1, "a member was made a writer"),
    "rotate": (0.1, "a new key was made"),
    "clone": (0.1, "a computer was cloned"),
    "rot_cell": (0.7, "a damaged store was repaired"),
    "skew": (0.1, "a build of another version was refused"),
    "collect": (0.1, "chunks were collected"),
    "quota": (0.1, "a commit met a quota"),
}
FOUND = sorted((Path(__file__).parent / "found").glob("*.json"))


@pytest.mark.parametrize("seed", range(6))
def test_replicas_agree_and_lose_nothing(seed):
    assert simulate(draw(seed, seconds=30)).violation is None


def test_what_was_found_once_stays_right():
    for path in FOUND:
        assert simulate(load(path.read_bytes())).violation is None, path


def test_a_seed_is_one_run_whatever_the_process():
    plan = draw(3, seconds=20)
    here = simulate(plan).trace
    code = (
        "from tests.sim.cluster import simulate; from tests.sim.plan import draw; "
        "print(simulate(draw(3, seconds=20)).trace)"
    )
    for hash_seed in ("1", "2"):
        elsewhere = subprocess.run(
            [sys.executable, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True,
            check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert elsewhere.stdout.strip() == here


@pytest.mark.parametrize("kind", SHOWS)
def test_a_fault_does_what_it_is_called(kind):
    faults = tuple(Fault(at, kind, 3, 0, 3.0, SHOWS[kind][0]) for at in (5.0, 9.0))
    outcome = simulate(msgspec.structs.replace(draw(11, seconds=15), faults=faults))
    assert outcome.violation is None
    assert outcome.reached.get(SHOWS[kind][1])


def test_a_run_without_an_end_is_ended():
    async def spin() -> None:
        while True:  # noqa: ASYNC110 - it is what a careless loop does
            await trio.sleep(1e-6)

    with pytest.raises(loop.EndlessError):
        loop.run(spin, 1, jumps_max=1000)


def test_a_plan_survives_its_file():
    plan = draw(5)
    assert load(dump(plan)) == plan


def test_a_lost_write_is_noticed(monkeypatch):
    """The judge has teeth: a session that supersedes what it never saw is found out and shrunk."""
    monkeypatch.setattr(files.Files, "pin_of", lambda self, node: None)
    steps = (
        Step(1.0, 0, "create", 0, 0, 1),
        Step(2.0, 1, "open", 0, 0, 0),
        Step(2.5, 2, "mkdir", 0, 0, 0),
        Step(3.0, 0, "append", 0, 0, 2),
        Step(4.0, 1, "unlink", 0, 1, 0),
    )
    plan = Plan(1, 3, 6.0, False, steps, ())
    assert shrink.rule_of(simulate(plan).violation) == "O3 no write is lost unseen"
    small = shrink.shrink(plan)
    assert [step.action for step in small.steps] == ["create", "open", "append", "unlink"]


def test_the_ledger_follows_what_was_let_go():
    ledger = Ledger()
    first, second, third, lost = (ledger.new("m0", 1) for _ in range(4))
    ledger.release([first], second)
    ledger.release([second], None)
    assert ledger.missing(frozenset([third])) == [lost]
    ledger.crashed("m0", 1)
    assert ledger.missing(frozenset()) == []
