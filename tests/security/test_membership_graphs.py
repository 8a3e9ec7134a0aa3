"""Membership of all small graphs, in every order in which their records can be delivered.

Here all graphs of up to four records; `tools/membership-graphs` goes through all up to five.
"""

import random

import pytest

from piperfs.core.membership import graph_of
from piperfs.core.membership_records import Record, author_record
from piperfs.core.membership_rules import MembershipState, count
from tests.support.enumeration import Enumeration, Set
from tests.support.graphs import NOW, World, all_graphs, check, make_world, random_graph


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


@pytest.fixture(scope="module")
def enumeration(world: World) -> Enumeration:
    return Enumeration(world)


def test_no_order_of_three_records_matters(enumeration: Enumeration):
    counts = enumeration.run(3)
    assert counts.graphs > 500
    assert counts.steps > 10_000


@pytest.mark.parametrize("quorum", [2, 3])
def test_no_order_matters_where_admins_must_agree(quorum: int):
    """Nor does one admin alone change anything about anybody else."""
    enumeration = Enumeration(make_world(quorum))
    assert enumeration.run(3).steps > 10_000
    with enumeration.quickly():
        for graph, counting in enumeration.graphs(2):
            authors = {node.record.author for node in graph}
            for member in enumeration.base.members.values():
                if len(authors) == 1 and member.replica not in authors:
                    assert counting.members[member.replica] == member


@pytest.mark.slow
def test_no_order_of_four_records_matters(enumeration: Enumeration):
    assert enumeration.run(4).steps > 300_000


def test_every_set_comes_once(enumeration: Enumeration):
    seen = [frozenset(node.identity for node in graph) for graph, _ in enumeration.graphs(3, 2)]
    assert len(seen) == len(set(seen)) > 100


def test_founding_records_may_be_evaluated_once(enumeration: Enumeration, world: World):
    """The quick evaluation says of a sample what that of all records says."""
    founding = list(world.base._nodes.values())
    rng = random.Random(1)
    with enumeration.quickly():
        sample = [pair for pair in enumeration.graphs(3, 3) if rng.random() < 0.1]
    assert len(sample) > 50
    for graph, counting in sample:
        whole = MembershipState.of(count([*founding, *graph]))
        assert MembershipState.of(counting).members == whole.members


@pytest.mark.parametrize("quorum", [1, 2])
def test_signatures_change_nothing(quorum: int):
    """The same graphs of real records have the same members, where no hash decides."""
    world = make_world(quorum)
    enumeration = Enumeration(world)
    rng = random.Random(2)
    with enumeration.quickly():
        sample = [pair for pair in enumeration.graphs(3, 5) if rng.random() < 0.1]
    compared = 0
    for graph, counting in sample:
        if len({node.depth for node in graph}) == len(graph):
            assert real_state(world, graph).members == counting.members
            compared += 1
    assert compared > 10


def real_state(world: World, graph: Set) -> MembershipState:
    authors = {person.replica: person for person in world.people}
    raws: dict[bytes, bytes] = {}
    real = graph_of(world.base.volume, world.base.records().values())
    for node in graph:
        above = [n for n in graph if node.seen & n.bit]
        parents = [n for n in above if not any(other.seen & n.bit for other in above)]
        record: Record = node.record
        ids = [raws[n.identity] for n in parents] or world.base.heads
        raw = author_record(authors[record.author], ids, NOW, record.statement)
        (raws[node.identity],) = real.add(raw)
    return real.state()


@pytest.mark.slow
def test_every_graph_of_two_records_in_every_order_gives_one_state(world: World):
    """Real records with real signatures, also such as come before what they build on."""
    counts = [
        sum(1 for graph, raws in all_graphs(world, n) if check(world, graph, raws)) for n in (1, 2)
    ]
    assert counts[0] == 27
    assert counts[1] > 1000


def test_a_sample_of_larger_graphs(world: World):
    rng = random.Random(5)
    for size, tries in ((3, 20), (4, 4), (5, 1)):
        for _ in range(tries):
            check(world, *random_graph(world, rng, size))
