"""Content that is still needed outlives collections and evictions, with real manifests."""

import os

import pytest

from piperfs.core.ids import ChunkId
from piperfs.store.collector import RETENTION, Collector, Retention
from piperfs.store.eviction import Eviction
from tests.support.computers import Computer, exchange

SECOND = 1_000_000_000
LONG = 20_000_000  # bytes of a file whose manifest has nodes
END = b"\xff" * 33


def collect(computer: Computer, retention: Retention = RETENTION) -> Collector:
    collector = Collector(computer.store, retention)
    for _ in collector.steps(computer.clock(), computer.fs.in_use):
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
    node = node_of(anna, "film")
    _, listed = anna.store.chunks.node_children(anna.store.chunks.get(node))
    anna.commit()
    anna.clock.ns += 60 * SECOND
    anna.write("film", b"short")
    anna.commit()
    damage(anna, node)
    assert collect(restarted(anna)).freed_chunks == 0
    assert anna.store.chunks.is_wanted(node)
    assert collect(restarted(anna)).freed_chunks >= len(set(listed))
    assert not anna.store.chunks.is_wanted(node)
    assert anna.read("film") == b"short"


def spill(computer: Computer, fh: int) -> None:
    """Seal what was written, to save memory; it is in no version yet."""
    ino = computer.fs._files.handle(fh).node.ino
    flush = computer.fs.begin_flush(ino, spill=True)
    assert flush is not None
    flush.execute()
    computer.fs.finish_flush(ino, flush)


def forget_plain(computer: Computer) -> None:
    """Let every read go to the store."""
    reader = computer.fs._reader
    reader.forget(list(reader._cache))


def test_what_a_program_opened_stays_when_another_computer_saves(anna: Computer) -> None:
    ben, data = Computer("ben"), os.urandom(LONG)
    ben.write("film", data)
    exchange(anna, ben)
    fh = anna.open("film")
    ben.clock.ns += 5 * SECOND
    ben.write("film", b"again")
    anna.receive_from(ben)
    collect(anna)
    collect(ben)
    forget_plain(anna)
    anna.fs.write(fh, LONG // 2, b"edited")
    anna.close(fh)
    right = data[: LONG // 2] + b"edited" + data[LONG // 2 + 6 :]
    assert {anna.read(name) for name in anna.listdir()} == {b"again", right}


def test_what_is_opened_while_collecting_and_superseded_before_its_mark_stays(
    anna: Computer,
) -> None:
    ben, data, names = Computer("ben"), os.urandom(200_000), [f"f{n}" for n in range(250)]
    for name in names:
        ben.fs.release(ben.create(name))
    last = max(names, key=lambda name: ben.fs._inodes.get(ben.walk(name).ino).inode)
    ben.write(last, data)
    exchange(anna, ben)
    steps = Collector(anna.store).steps(anna.clock(), anna.fs.in_use)
    next(steps)
    fh = anna.open(last)
    ben.clock.ns += 5 * SECOND
    ben.write(last, b"again")
    anna.receive_from(ben)
    list(steps)
    anna.commit()
    assert bytes(anna.fs.read(fh, 0, len(data))) == data


def test_a_spill_that_finds_its_bytes_stored_while_collecting_keeps_them(anna: Computer) -> None:
    data = os.urandom(3_000_000)
    anna.write("film", data)
    anna.commit()
    anna.write("film", b"other")  # an own quick save leaves nothing in history
    anna.commit()
    fh = anna.create("again")
    steps = Collector(anna.store).steps(anna.clock(), anna.fs.in_use)
    next(steps)
    anna.fs.write(fh, 0, data)
    spill(anna, fh)
    list(steps)
    anna.commit()
    anna.close(fh)
    forget_plain(anna)
    assert anna.read("again") == data


def test_what_a_flush_works_on_stays_though_it_is_overwritten(anna: Computer) -> None:
    fh, data = anna.create("film"), os.urandom(3_000_000)
    ino = anna.walk("film").ino
    anna.fs.write(fh, 0, data)
    spill(anna, fh)
    anna.commit()
    anna.fs.write(fh, len(data), b"end")
    flush = anna.fs.begin_flush(ino)
    assert flush is not None
    flush.execute()
    anna.fs.write(fh, 0, os.urandom(len(data)))
    collect(anna)
    anna.fs.finish_flush(ino, flush)
    anna.commit()
    assert restarted(anna).read("film") == data + b"end"


def test_a_conflict_copy_that_is_open_stays_when_somebody_settles_the_conflict(
    anna: Computer,
) -> None:
    ben, texts = Computer("ben"), [os.urandom(200_000) for _ in range(2)]
    anna.write("note", b"")
    exchange(anna, ben)
    for computer, text in zip((anna, ben), texts, strict=True):
        computer.write("note", text)
    exchange(anna, ben)
    [copy] = set(anna.listdir()) - {"note"}
    text = anna.read(copy)
    fh = anna.open(copy, 0)
    ben.unlink(copy)
    ben.write("note", b"settled")
    anna.receive_from(ben)
    collect(anna, Retention(0, 0, 0))
    forget_plain(anna)
    assert bytes(anna.fs.read(fh, 0, len(text))) == text


def test_making_room_spares_all_of_a_nameless_file_that_is_open(anna: Computer) -> None:
    ben, data = Computer("ben"), os.urandom(LONG)
    anna.write("film", data)
    anna.commit()
    fh = anna.open("film", 0)
    anna.unlink("film")
    ben.receive_from(anna)
    eviction = Eviction(anna.store, 0)
    for _ in eviction.steps(anna.fs.in_use, lambda: True):
        anna.commit()
    anna.commit()
    forget_plain(anna)
    assert bytes(anna.fs.read(fh, 0, LONG)) == data


def test_making_room_spares_what_lists_of_an_unpublished_version_name(anna: Computer) -> None:
    fh, data = anna.create("film"), os.urandom(LONG)
    anna.commit()
    anna.fs.write(fh, 0, data)
    spill(anna, fh)
    anna.commit()
    anna.close(fh)
    anna.store.freeze(anna.clock())
    list(Eviction(anna.store, 0).steps(anna.fs.in_use, lambda: True))
    anna.store.write_frozen()
    anna.store.finish(committed=True)
    forget_plain(anna)
    assert anna.read("film") == data


def test_digests_of_what_is_gone_go_too(anna: Computer) -> None:
    for _ in range(300):
        anna.write("note", os.urandom(100))
        anna.commit()
    digests = anna.store.tables.digest
    assert len(list(digests.keys(b"", END))) == 300
    assert collect(anna).freed_chunks == 299
    [left] = digests.keys(b"", END)
    assert anna.store.chunks.known_digest(left)


def test_nothing_is_built_on_a_chunk_that_is_damaged(anna: Computer) -> None:
    data = os.urandom(50_000)
    anna.write("old", data)
    anna.commit()
    inode = anna.fs._inodes.get(anna.walk("old").ino).inode
    [head] = anna.store.contents(inode)
    for chunk in head.refs:
        damage(anna, chunk)
    anna = restarted(anna)
    anna.write("new", data)
    anna.commit()
    assert restarted(anna).read("new") == data
