"""Unsaved work in files whose content is elsewhere, and nobody there to give it."""

import os

import pytest

from piperfs.core.ids import ChunkId
from piperfs.fs.missing import MissingChunks
from piperfs.store.eviction import Eviction
from tests.support.computers import O_RDONLY, Computer, exchange

EVERYTHING = 1 << 30
OLD = bytes(range(256)) * 2000
WORK = b"precious"


@pytest.fixture
def computers():
    """One that keeps only some content, and so has nothing of a file, and one that has it."""
    anna, ben = Computer("anna"), Computer("ben")
    ben.write("file", os.urandom(1000) + OLD)
    exchange(anna, ben)
    for _ in Eviction(anna.store, 0).steps(list, lambda: True):
        anna.commit()
    anna.commit()
    return anna, ben


def give_back(anna, ben):
    for chunk in ben.store.keys("chunk"):
        anna.store.chunks.put(ChunkId(chunk), ben.store.chunks.get(ChunkId(chunk)))


def close_in_vain(anna, fh):
    """As the kernel does: what cannot be saved now does not keep a file from being closed."""
    ino = anna.fs._files.handle(fh).node.ino
    flush = anna.fs.begin_flush(ino)
    with pytest.raises(MissingChunks):
        flush.execute()
    anna.fs.abandon_flush(ino, flush)
    anna.fs.release(fh)
    return ino


def test_unsaved_work_outlives_the_kernels_memory_of_the_file(computers):
    anna, ben = computers
    fh = anna.open("file")
    anna.fs.write(fh, 2000, WORK)
    ino = close_in_vain(anna, fh)
    anna.fs.forget(ino, EVERYTHING)
    give_back(anna, ben)
    ((dirty, _),) = anna.fs.dirty_inos()
    assert dirty == ino
    flush = anna.fs.begin_flush(ino)
    flush.execute()
    anna.fs.finish_flush(ino, flush)
    anna.commit()
    assert not anna.fs.dirty_inos()
    assert anna.fs._inodes.numbered(ino) is None
    assert anna.read("file")[2000:2008] == WORK


def test_a_nameless_file_that_somebody_reads_yet_keeps_what_was_written(computers):
    anna, ben = computers
    reader, writer = anna.open("file", O_RDONLY), anna.open("file")
    ino = anna.stat("file").ino
    anna.unlink("file")
    anna.fs.write(writer, 2000, WORK)
    anna.fs.release(writer)
    give_back(anna, ben)
    assert bytes(anna.fs.read(reader, 2000, 8)) == WORK
    anna.fs.release(reader)
    anna.fs.forget(ino, EVERYTHING)
    assert not anna.fs._files.sessions()
