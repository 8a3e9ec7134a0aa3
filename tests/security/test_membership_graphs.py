"""Membership of small graphs, all of them up to two records and a sample of larger ones.

`tools/membership-graphs` goes through all of three and samples more of four and five.
"""

import random

import pytest

from tests.support.graphs import all_graphs, check, make_world, random_graph


@pytest.mark.slow
def test_every_graph_of_two_records_in_every_order_gives_one_state():
    world = make_world()
    counts = [
        sum(1 for graph, raws in all_graphs(world, n) if check(world, graph, raws)) for n in (1, 2)
    ]
    assert counts[0] == 27
    assert counts[1] > 1000


def test_a_sample_of_larger_graphs():
    world, rng = make_world(), random.Random(5)
    for size, tries in ((3, 20), (4, 4), (5, 1)):
        for _ in range(tries):
            check(world, *random_graph(world, rng, size))
