"""What a small change to a large file costs: counted in chunks that are read, cut and stored."""

import random

import pytest

from piperfs.core.ids import ChunkId
from piperfs.core.limits import MIB
from tests.support.computers import Computer

LARGE = 16 * MIB
PAGE = 8192
RANDOM = random.Random(11)  # where chunks end, and so what a change costs, depends on the bytes


@pytest.fixture
def computer():
    RANDOM.seed(11)
    return Computer("anna")


@pytest.fixture
def counted(computer, monkeypatch):
    """Ids of the chunks that were put into the store, and that were read from it."""
    chunks = computer.store.chunks
    put, got = chunks.put, chunks.get_anywhere
    stored: list[ChunkId] = []
    read: list[ChunkId] = []
    monkeypatch.setattr(chunks, "put", lambda c, sealed: (stored.append(c), put(c, sealed)))
    monkeypatch.setattr(chunks, "get_anywhere", lambda c: (read.append(c), got(c))[1])
    monkeypatch.setattr(chunks, "get", lambda c, get=chunks.get: (read.append(c), get(c))[1])
    return stored, read


def test_a_page_of_a_large_file_costs_its_chunks_and_one_node(computer, counted):
    stored, read = counted
    data = bytearray(RANDOM.randbytes(LARGE))
    computer.write("base", bytes(data))
    fh = computer.open("base")
    computer.fs.write(fh, 5 * MIB, b"-" * PAGE)
    data[5 * MIB : 5 * MIB + PAGE] = b"-" * PAGE
    computer.flush(fh)
    stored.clear()
    for offset in (5 * MIB + 3 * PAGE, 5 * MIB, 5 * MIB + PAGE):
        page = RANDOM.randbytes(PAGE)
        computer.fs.write(fh, offset, page)
        data[offset : offset + PAGE] = page
        read.clear()
        computer.flush(fh)
        assert len(read) <= 2, "what was written lately is still in memory"
    assert len(stored) <= 3 * 5, "a few chunks and one node for each"
    computer.close(fh)
    assert computer.read("base") == bytes(data)


def test_appending_to_a_long_file_reads_no_manifest_back(computer, counted):
    stored, read = counted
    data = RANDOM.randbytes(LARGE)
    computer.write("log", data)
    computer.write("log", b"first line\n", append=True)
    stored.clear(), read.clear()
    for number in range(10):
        computer.write("log", b"line %d\n" % number, append=True)
    assert read == []
    assert len(stored) <= 10 * 2, "the last chunk and the last node, each time"
    computer.commit()
    lines = b"first line\n" + b"".join(b"line %d\n" % number for number in range(10))
    assert computer.read("log") == data + lines


def test_a_node_that_was_collected_is_made_again(computer):
    data = RANDOM.randbytes(LARGE)
    computer.write("a", data)
    inode = computer.fs._inodes.get(computer.walk("a").ino).inode
    (head,) = computer.store.contents(inode)
    assert head.body.height == 1
    computer.write("a", b"short")
    computer.commit()
    for node in head.refs:
        computer.store.chunks.drop(node)
    computer.commit()
    computer.write("a", data)
    assert computer.read("a") == data
    assert all(map(computer.store.chunks.has, head.refs))
