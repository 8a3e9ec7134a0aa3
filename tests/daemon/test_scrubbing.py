"""A walk over the store finds damage that nobody has read yet."""

from piperfs.daemon.scrubbing import DONE, scrub
from tests.support.peers import chunks_of, founder, write_file


def flip(node, table, key):
    engine = node.store.engine
    raw = bytearray(engine.get(table, key))
    raw[len(raw) // 2] ^= 1
    engine.commit({table: {key: bytes(raw)}})
    engine.refresh()


async def test_damage_is_found_and_damaged_content_wanted_again(tmp_path):
    node = founder(tmp_path)
    write_file(node, b"x", b"precious" * 100, b"sound" * 100)
    node.store.commit(node.clock.now_ns())
    assert await scrub(node) == 0
    bad, good = chunks_of(node, b"x")
    flip(node, "chunk", bad)
    flip(node, "inode", node.store.keys("inode")[0])
    assert await scrub(node) == 1
    assert node.store.chunks.is_wanted(bad)
    assert not node.store.chunks.is_wanted(good)
    assert "fsck --repair" in node.health()["values"]
    assert node.store.tables.meta.get(DONE)
    node.close()
