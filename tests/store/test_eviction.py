"""A replica that keeps only some content lets go of what others hold, and of nothing else."""

import pytest
from blake3 import blake3

from piperfs.core.ids import ChunkId
from piperfs.core.record import ContentBody
from piperfs.store.change import PutContent
from piperfs.store.eviction import Eviction
from tests.support.stores import Node

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
    for _ in eviction.steps(in_use, allowed):
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
    steps = Eviction(node.store, 0).steps((), lambda: True)
    next(steps)
    node.store.chunks.put(spilled, data)
    node.commit()
    list(steps)
    assert [c for c in (*chunks, spilled) if node.store.chunks.has(c)] == [written, spilled]


def test_nothing_goes_while_nobody_else_holds_it(node):
    chunks = fill(node, 20)
    evict(node, 0, allowed=lambda: False)
    assert all(node.store.chunks.has(chunk) for chunk in chunks)
