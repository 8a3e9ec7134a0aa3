"""An operation of a peer that meets a damaged value is merged as a whole or not at all."""

import pytest

from piperfs.store.check import check_store
from piperfs.store.oplog import dot_key
from tests.support.stores import Node, TestClock, exchange


@pytest.fixture
def nodes():
    """Two replicas with a file in common, and what one of them does then."""
    anna, ben = Node("anna"), Node("ben", clock=TestClock(1_700_000_100))
    file = anna.create(anna.root, b"f", b"before")
    exchange(anna, ben)
    return anna, ben, file


def flip(node, table, key):
    raw = bytearray(node.engine.get(table, key))
    raw[len(raw) // 2] ^= 1
    node.engine.damage(table, key, bytes(raw))
    getattr(node.store.tables, table).forget_reads()


def key_of(node, table, file):
    head = node.store.contents(file)[0]
    return {
        "content": file,
        "inode": file,
        "dot": dot_key(head.replica, head.seq),
        "bucket": head.operation[:2],
    }[table]


@pytest.mark.parametrize("table", ["content", "dot"])
def test_what_meets_damage_is_left_out_and_the_rest_goes_on(nodes, table):
    anna, ben, file = nodes
    before, key = ben.store.digest(), key_of(ben, table, file)
    flip(ben, table, key)
    anna.write(file, b"after")
    operations = anna.operations()
    for name in (b"one", b"two"):
        anna.create(anna.root, name)
    ben.learn_from(anna)
    applied = ben.store.apply_remote(anna.operations(), ben.clock())
    ben.commit()
    assert (applied.damaged, applied.merged) == (1, 2)
    assert ben.store.damage_met == 1
    assert not ben.store.log.has(operations[-1].id)
    assert ben.store.log.count() == 3
    assert ben.store.digest() != before
    ben.engine.damage(table, key, None)  # as if it had never come; a repair does more
    getattr(ben.store.tables, table).forget_reads()
    assert not any(operations[-1].id == head.operation for head in ben.store.contents(file))


def test_counts_that_are_damaged_are_counted_anew(nodes):
    anna, ben, file = nodes
    anna.write(file, b"once")
    exchange(anna, ben)
    flip(ben, "bucket", key_of(ben, "bucket", file))
    anna.write(file, b"after")
    ben.learn_from(anna)
    applied = ben.store.apply_remote(anna.operations(), ben.clock())
    ben.commit()
    assert (applied.damaged, applied.merged) == (0, 1)
    assert ben.store.digest() == anna.store.digest()
    assert list(check_store(ben.store)) == []


def test_what_only_the_index_cannot_show_is_merged(nodes):
    anna, ben, file = nodes
    flip(ben, "inode", file)
    anna.write(file, b"after")
    anna.create(anna.root, b"new")
    ben.learn_from(anna)
    applied = ben.store.apply_remote(anna.operations(), ben.clock())
    ben.commit()
    assert (applied.damaged, applied.merged) == (0, 2)
    assert ben.store.damage_met == 1
    assert ben.store.digest() == anna.store.digest()
    assert ben.store.lookup(ben.root, b"new")
    assert ben.store.contents(file)[0].body.target == b"after"


def test_a_damaged_proof_gives_way_to_the_next(nodes):
    anna, ben, _file = nodes
    flip(ben, "author", anna.replica)
    reopened = Node("ben", ben.engine)
    anna.create(anna.root, b"new")
    reopened.learn_from(anna)
    reopened.receive(anna.operations())
    assert reopened.store.lookup(reopened.root, b"new")
    assert reopened.store.authors.newest(anna.replica) is not None
