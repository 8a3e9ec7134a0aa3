"""What is kept of superseded writes, and that it is found again."""

from piperfs.core.record import Kind
from piperfs.store.change import KillLink, MoveLink, SetAttributes
from piperfs.store.history import Gathering
from tests.support.stores import SECOND, Node, TestClock, exchange, lmdb_engine


def gather(node, *keys):
    gathering = Gathering()
    unseal = lambda epoch, header, sealed: sealed
    for _ in gathering.steps(node.store.tables, unseal, lambda key: not keys or key in keys):
        pass
    return gathering.found


def test_what_somebody_else_superseded_is_kept_everywhere():
    a, b = Node("alpha"), Node("beta", clock=TestClock(1_700_000_100))
    folder = a.mkdir(a.root, b"d")
    file = a.create(a.root, b"f", b"one")
    a.apply(SetAttributes(folder, mode=0o700))
    exchange(a, b)
    b.write(file, b"two")
    link = b.link_of(b.root, b"f")
    b.apply(MoveLink(link, b.root, b"g"), KillLink(folder), SetAttributes(folder, mode=0o711))
    exchange(a, b)
    for node in (a, b):
        found = gather(node)
        assert found[Kind.CONTENT, file][0].head.body.target == b"one"
        assert found[Kind.LINK, link][0].head.body.name == b"f"
        assert found[Kind.LINK, folder][0].head.body.alive
        assert found[Kind.ATTRIBUTES, folder][0].head.body.mode.value == 0o700


def test_quick_saves_are_not_kept_and_slow_ones_are_newest_first(tmp_path):
    node = Node("alpha", lmdb_engine(tmp_path))
    file = node.create(node.root, b"f", b"0")
    for n in range(1, 6):
        node.commit()
        node.clock.ns += (60 if n % 2 else 1) * SECOND
        node.write(file, b"%d" % n)
    node.commit()
    key = (Kind.CONTENT, file)
    texts = [past.head.body.target for past in gather(node, key)[key]]
    assert texts == [b"4", b"2", b"0"]
    node.store.close()
    again = Node("alpha", lmdb_engine(tmp_path))
    assert [past.head.body.target for past in gather(again, key)[key]] == texts
    again.store.close()


def test_who_joins_later_knows_what_living_operations_still_tell():
    a, b, late = Node("alpha"), Node("beta", clock=TestClock(1_700_000_100)), Node("gamma")
    file = a.create(a.root, b"f", b"born")
    exchange(a, b)
    for author, text in ((b, b"two"), (a, b"three"), (b, b"four")):
        author.write(file, text)
        exchange(a, b)
    exchange(a, late)
    key = (Kind.CONTENT, file)
    texts = [past.head.body.target for past in gather(a, key)[key]]
    assert texts == [b"three", b"two", b"born"]
    assert [past.head.body.target for past in gather(late, key)[key]] == [b"born"]
    assert late.tree() == {b"f": b"four"}
