"""A long check beside a busy store: what is freed meanwhile is used again."""

import os

from blake3 import blake3

from piperfs.core.ids import ChunkId
from piperfs.store.check import check_rules, check_values
from tests.support.stores import Node, lmdb_engine

KIB = 1 << 10


def put(node: Node, count: int) -> list[ChunkId]:
    data = [os.urandom(2 * KIB) for _ in range(count)]
    chunks = [ChunkId(blake3(each).digest()) for each in data]
    for chunk, each in zip(chunks, data, strict=True):
        node.store.chunks.put(chunk, each)
    node.commit()
    return chunks


def test_the_file_does_not_grow_while_values_are_checked(tmp_path):
    node = Node("alpha", engine=lmdb_engine(tmp_path))
    put(node, 5000)
    engine, busy = node.store.snapshot_engine(), []

    def write_and_renew() -> None:
        """What a busy volume does between two steps: as much comes as goes."""
        for chunk in busy:
            node.store.chunks.drop(chunk)
        busy[:] = put(node, 100)
        engine.renew()

    held = Node("alpha", engine=engine).store
    before = node.store.bytes_used()
    assert list(check_values(held, write_and_renew)) == []
    assert node.store.bytes_used() - before < 4_000 * KIB
    engine.renew()
    assert list(check_rules(Node("alpha", engine=engine).store)) == []
    engine.close()
    node.store.close()
