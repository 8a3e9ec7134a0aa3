"""A replica that keeps only some content lets go of what others hold, and of nothing else."""

import pytest
from blake3 import blake3

from piperfs.core.ids import ChunkId
from piperfs.core.record import ContentBody
from piperfs.store.change import DeleteContent, PutContent
from piperfs.store.eviction import REST_S, Eviction
from tests.support.stores import SECOND, Node, TestClock

KIB = 1024


@pytest.fixture
def node():
    return Node("alpha")


def fill(node, count):
    """Files of 10 KiB each; returns their chunks."""
    found = []
    for number in range(count):
        data = number.to_bytes(2, "big") * 5 * KIB
        chunk = ChunkId(blake3(data).digest())
        node.store.chunks.put(chunk, data)
        file = node.create(node.root, b"f%d" % number)
        body = ContentBody(True, len(data), node.clock(), node.birth(), lengths=(len(data),))
        node.apply(PutContent(file, body, (chunk,)))
        found.append(chunk)
    node.commit()
    return found


def evict(node, limit, in_use=(), allowed=lambda: True):
    eviction = Eviction(node.store, limit)
    for _ in eviction.steps(lambda: [(chunk, 0) for chunk in in_use], allowed):
        node.commit()  # as a daemon does between two steps
    node.commit()
    return eviction


def test_what_was_used_lately_stays_and_the_rest_is_wanted_again(node):
    chunks = fill(node, 100)
    node.store.chunks.track_use(50)
    for chunk in chunks[:50]:
        node.store.chunks.get(chunk)
    eviction = evict(node, 600 * KIB)
    assert all(node.store.chunks.has(chunk) for chunk in chunks[:50])
    gone = [chunk for chunk in chunks if not node.store.chunks.has(chunk)]
    assert len(gone) == len(eviction.evicted) == 46
    assert all(node.store.chunks.is_wanted(chunk) for chunk in gone)


def test_what_open_files_need_stays(node):
    chunks = fill(node, 20)
    evict(node, 0, in_use=chunks[:3])
    assert [chunk for chunk in chunks if node.store.chunks.has(chunk)] == chunks[:3]


def test_what_comes_meanwhile_or_is_not_published_yet_stays(node):
    chunks = fill(node, 100)
    data = b"n" * KIB
    spilled, written = ChunkId(blake3(data).digest()), chunks[0]
    body = ContentBody(True, 10 * KIB, node.clock(), node.birth(), lengths=(10 * KIB,))
    node.apply(PutContent(node.create(node.root, b"again"), body, (written,)))
    steps = Eviction(node.store, 0).steps(list, lambda: True)
    for _ in range(2):  # looks at what shows, then lets some of it go
        next(steps)
    node.store.chunks.put(spilled, data)
    node.commit()
    list(steps)
    assert [c for c in (*chunks, spilled) if node.store.chunks.has(c)] == [written, spilled]


def test_what_a_commit_is_about_stays_until_it_is_durable(node):
    [chunk] = fill(node, 1)
    again = ContentBody(True, 10 * KIB, node.clock(), node.birth(), lengths=(10 * KIB,))
    node.apply(PutContent(node.create(node.root, b"again"), again, (chunk,)))
    node.store.freeze(node.clock())
    list(Eviction(node.store, 0).steps(list, lambda: True))
    node.store.write_frozen()
    node.store.finish(committed=True)
    assert node.store.chunks.has(chunk)
    evict(node, 0)
    assert not node.store.chunks.has(chunk)


def test_earlier_and_deleted_versions_stay_since_who_joined_later_never_had_them(node):
    earlier, deleted, current = fill(node, 3)
    node.clock.ns += 60 * SECOND
    files = [node.store.lookup(node.root, b"f%d" % number).inode for number in range(2)]
    node.write(files[0], b"later")
    node.apply(DeleteContent(files[1]))
    node.commit()
    evict(node, 0)
    assert [node.store.chunks.has(c) for c in (earlier, deleted, current)] == [True, True, False]


def test_what_waits_for_the_clock_stays(node):
    late = Node("late", clock=TestClock(node.clock() // SECOND + 10 * 365 * 86_400))
    [chunk] = fill(late, 1)
    node.store.apply_remote(late.operations(), node.clock(), late.replica)
    node.store.chunks.put(chunk, late.store.chunks.get(chunk))
    node.commit()
    evict(node, 0)
    assert node.store.chunks.has(chunk)


def test_when_too_much_has_to_stay_it_rests_until_more_comes(node):
    fill(node, 20)
    eviction = Eviction(node.store, 100 * KIB)
    assert eviction.is_due(0)
    list(eviction.steps(list, lambda: True))
    node.commit()
    assert not eviction.is_due(0)
    fill(node, 40)
    assert eviction.is_due(0)
    in_use = [(ChunkId(key), 0) for key in node.store.tables.chunk.keys(b"", b"\xff" * 33)]
    list(eviction.steps(lambda: in_use, lambda: True))
    assert not eviction.is_due(REST_S - 1)
    assert eviction.is_due(REST_S)


def test_letting_go_counts_as_no_use(node):
    chunks = fill(node, 20)
    node.store.chunks.track_use(50)
    for chunk in chunks[:5]:
        node.store.chunks.get(chunk)
    evict(node, 0, in_use=chunks)
    evict(node, 100 * KIB)
    assert node.store.chunks.lately_used() == chunks[:5]


def test_nothing_goes_while_nobody_else_holds_it(node):
    chunks = fill(node, 20)
    evict(node, 0, allowed=lambda: False)
    assert all(node.store.chunks.has(chunk) for chunk in chunks)
