"""Every row of the conflict table on the pure view and on two simulated computers."""

import random

import pytest

from piperfs.core.merge import insert
from piperfs.core.operation import decode
from piperfs.core.record import Kind
from piperfs.core.resolve import digest_of
from piperfs.core.view import view
from tests.conflicts.actors import Simulated, fold
from tests.conflicts.rows import ROWS, agrees
from tests.support.computers import Computer, exchange
from tests.support.stores import TestClock


def play(row):
    """Do what a row says; returns both actors, what each knew before the end, and the outcome."""
    p = Simulated(Computer("p", clock=TestClock(1_700_000_000)))
    q = Simulated(Computer("q", clock=TestClock(1_700_000_100)))
    running = row(p, q)
    known = [], []
    while True:
        try:
            next(running)
        except StopIteration as end:
            outcome = end.value if isinstance(end.value, tuple) else (end.value, None)
            return p, q, known, outcome
        known = p.computer.operations(), q.computer.operations()
        exchange(p.computer, q.computer)
        q.computer.clock.ns = max(q.computer.clock.ns, p.computer.clock.ns + 10**9)


@pytest.mark.parametrize("name", ROWS)
def test_two_simulated_computers(name):
    p, q, _, (expected, check) = play(ROWS[name])
    for actor in (p, q):
        assert agrees(expected, actor.tree(), fold), (expected, actor.tree())
        assert check is None or check(actor)
    assert p.computer.store.digest() == q.computer.store.digest()


@pytest.mark.parametrize("name", ROWS)
def test_the_pure_view(name):
    p, _, known, (expected, _) = play(ROWS[name])
    computer = p.computer
    raws = [*known[0], *known[1]]
    for shuffle in (sorted, reversed, random.Random(name).shuffle):
        ordered = list(shuffle(raws) or raws)
        records = {}
        for raw in ordered:
            operation = decode(raw, computer.keyring.unseal_bodies)
            for write in operation.writes:
                key = (write.kind, write.key)
                records[key] = insert(records.get(key, ()), operation.head(write))
        tree = view(records, computer.store.root)
        texts = {
            digest_of(head): text_of(computer, head)
            for (kind, _), heads in records.items()
            if kind is Kind.CONTENT
            for head in heads
        }
        found = {
            path.decode(): texts[item.version] if item.version else None
            for path, item in tree.paths().items()
        }
        assert agrees(expected, found, fold), (expected, found)


def text_of(computer, head):
    if head.body.target:
        return b"->" + head.body.target
    return b"".join(computer.fs._reader.plain(chunk) for chunk in head.refs)


def test_a_child_made_by_somebody_who_knows_one_of_two_joined_directories_follows_it():
    p, q = (Simulated(Computer(name, clock=TestClock())) for name in "pq")
    for one, child in ((p, "p"), (q, "q")):
        one.mkdir("d")
        one.write(f"d/{child}", child.encode())
    p.computer.receive_from(q.computer)
    p.rename("d", "e")
    q.write("d/new", b"Q")
    exchange(p.computer, q.computer)
    for one in (p, q):
        assert sorted(one.tree()) == ["e", "e/new", "e/p", "e/q"]
