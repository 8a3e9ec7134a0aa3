"""Each way to misbehave, among three honest replicas: they agree, lose nothing and stay bounded."""

import pytest

from tests.sim import hostile
from tests.sim.cluster import simulate

HURRY = {hostile.claims_what_is_not_written: 5.0}  # there must be files to lie about
SHOWS = {
    hostile.writes_names_that_cannot_be: "status names the liar",
    hostile.signs_wrongly: "status names the liar",
    hostile.claims_what_is_not_written: "what claims too much waits",
    hostile.equivocates: "both writes under one number are kept",
}


@pytest.mark.parametrize("seed", range(3))
def test_who_signs_twice_is_stopped_everywhere(seed):
    outcome = simulate(hostile.plan_of(seed), make=hostile.make(hostile.equivocates))
    assert outcome.violation is None
    assert outcome.reached.get("all know the proof of a fork")
    assert outcome.reached.get("operations beyond a fork are held everywhere")


@pytest.mark.parametrize("behaviour", hostile.BEHAVIOURS, ids=lambda each: each.__name__)
def test_honest_replicas_agree_beside_a_liar(behaviour):
    hurry = HURRY.get(behaviour, 1.0)
    outcome = simulate(hostile.plan_of(7, hurry=hurry), make=hostile.make(behaviour))
    assert outcome.violation is None
    shows = SHOWS.get(behaviour)
    assert shows is None or outcome.reached.get(shows)
