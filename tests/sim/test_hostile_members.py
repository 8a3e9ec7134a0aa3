"""Each way to misbehave, among three honest replicas: they agree, lose nothing and stay bounded."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from piperfs.store.authors import Authors
from piperfs.store.store import Store
from tests.sim import hostile
from tests.sim.behaviours import BEHAVIOURS, LISTED

PAGE = Path(__file__).resolve().parents[2] / "packaging/doc/convergence.md"


@pytest.mark.parametrize("seed", range(3))
def test_who_signs_twice_is_stopped_everywhere(seed):
    outcome = hostile.run(seed, LISTED["fork log"])
    assert outcome.violation is None
    assert outcome.reached.get("all know the proof of a fork")
    assert outcome.reached.get("operations beyond a fork are held everywhere")


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_honest_replicas_agree_beside_a_liar(name):
    behaviour = BEHAVIOURS[name]
    outcome = hostile.run(24, behaviour)
    assert outcome.violation is None
    assert behaviour.shows is None or outcome.reached.get(behaviour.shows)


def test_where_only_the_author_refuses_a_claim_replicas_split(monkeypatch):
    """What the proof of claims is for: the rule that was there before."""
    behaviour = replace(LISTED["wrong prev"], named=None)

    def lacking(authors, claims):
        own = [r for r in claims if authors.is_own(r) and claims[r] > authors.highest(r)]
        return own[0] if own else None

    def made(store, *args, **kwargs):
        init(store, *args, **kwargs)
        store.authors.is_own = store.replica.__eq__

    init = Store.__init__
    monkeypatch.setattr(Authors, "lacking", lacking)
    monkeypatch.setattr(Store, "__init__", made)
    assert "O9 agreement" in str(hostile.run(24, behaviour).violation)


def test_the_page_lists_what_is_simulated():
    rows = re.findall(r"^\| \d+ \| ([^|]+) \|[^|]+\|([^|]+)\|$", PAGE.read_text(), re.MULTILINE)
    named = {name.strip(): said.strip() for name, said in rows}
    assert list(named) == list(LISTED)
    for name, behaviour in LISTED.items():
        assert behaviour.named is None or named[name] == f"“{behaviour.named.text}”"
