"""A thin slice of all triples of actions done at once on three computers.

`tools/algebra` does all of them.
"""

import pytest

from tests.support.small_scope import ACTIONS, Scope, cases

STRIDE = 811  # prime: some 600 of 475,000 cases, other ones for each action


@pytest.fixture(scope="module")
def scope():
    return Scope()


@pytest.fixture(scope="module")
def deeds(scope):
    return scope.deeds()


@pytest.mark.slow
def test_triples_converge_and_lose_nothing(scope, deeds):
    done = 0
    for case in cases(deeds, STRIDE):
        scope.judge(case)
        done += 1
    assert done > len(ACTIONS) ** 3 // STRIDE - 1


@pytest.mark.parametrize("name", ACTIONS)
def test_the_same_action_everywhere_at_once(scope, deeds, name):
    number = list(ACTIONS).index(name)
    scope.judge((deeds[0][number], deeds[1][number], deeds[2][number]))


@pytest.mark.slow
def test_clocks_that_are_wrong_decide_nothing_but_ties():
    day = 86_400
    scope = Scope(skew_s=(20 * 365 * day, -20 * 365 * day, 0))
    for case in cases(scope.deeds(), 5 * STRIDE + 4):
        scope.judge(case)
