"""Content that is still needed outlives collections and evictions, with real manifests."""

import os

import pytest

from piperfs.core.ids import ChunkId
from piperfs.store.collector import RETENTION, Collector, Retention
from tests.support.computers import Computer, exchange

SECOND = 1_000_000_000
LONG = 20_000_000  # bytes of a file whose manifest has nodes
END = b"\xff" * 33


def collect(computer: Computer, retention: Retention = RETENTION) -> Collector:
    collector = Collector(computer.store, retention)
    for _ in collector.steps(computer.clock(), computer.fs.in_use()):
        computer.commit()  # as a daemon does between two steps
    computer.commit()
    return collector


def restarted(computer: Computer) -> Computer:
    """With nothing in memory, so that every read goes to the store."""
    computer.start()
    return computer


def node_of(computer: Computer, path: str) -> ChunkId:
    """A manifest node of a file."""
    inode = computer.fs._inodes.get(computer.walk(path).ino).inode
    [head] = computer.store.contents(inode)
    assert head.body.height == 1
    return head.refs[0]


def damage(computer: Computer, chunk: ChunkId) -> None:
    raw = bytearray(computer.engine.get("chunk", chunk) or b"")
    raw[len(raw) // 2] ^= 1
    computer.engine.damage("chunk", chunk, bytes(raw))


def count(computer: Computer) -> int:
    return len(list(computer.store.tables.chunk.keys(b"", END)))


@pytest.fixture
def anna() -> Computer:
    return Computer("anna")


def test_what_a_damaged_node_listed_stays_until_it_came_back(anna: Computer) -> None:
    ben, data = Computer("ben"), os.urandom(LONG)
    anna.write("film", data)
    exchange(anna, ben)
    node = node_of(anna, "film")
    sealed, chunks = ben.store.chunks.get(node), count(anna)
    damage(anna, node)
    for _ in range(2):
        collector = collect(restarted(anna))
        assert collector.lost == {node}
        assert count(anna) == chunks - 1
    anna.store.chunks.put(node, sealed)
    anna.commit()
    assert not collect(restarted(anna)).lost
    assert anna.read("film") == data


def test_a_node_that_comes_back_wants_what_it_lists(anna: Computer) -> None:
    ben, data = Computer("ben"), os.urandom(LONG)
    anna.write("film", data)
    exchange(anna, ben)
    node = node_of(anna, "film")
    _, children = anna.store.chunks.node_children(anna.store.chunks.get(node))
    damage(anna, node)
    anna.store.chunks.get(node)
    anna.store.chunks.drop(children[0])
    anna.fetch_from(ben)
    assert anna.read("film") == data


def test_a_damaged_node_of_an_earlier_version_holds_a_collection_up_once(anna: Computer) -> None:
    anna.write("film", os.urandom(LONG))
    node, chunks = node_of(anna, "film"), count(anna)
    anna.commit()
    anna.clock.ns += 60 * SECOND
    anna.write("film", b"short")
    anna.commit()
    damage(anna, node)
    assert collect(restarted(anna)).freed_chunks == 0
    assert anna.store.chunks.is_wanted(node)
    assert collect(restarted(anna)).freed_chunks > chunks / 3
    assert not anna.store.chunks.is_wanted(node)
    assert anna.read("film") == b"short"
