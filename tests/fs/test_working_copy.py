"""Edits of every kind, some while a flush is under way, against a plain buffer."""

import random

import pytest

from piperfs.core import manifest
from piperfs.core.limits import NODE_EXTENTS_MAX
from piperfs.core.manifest import Extent
from piperfs.fs.api import SetAttr
from tests.support.computers import ROOT_USER, Computer

STEPS = 100
PUNCH = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE


class Edited:
    """One open file, what it must hold, and perhaps a flush of it that is not done."""

    def __init__(self, seed):
        self.rng, self.computer = random.Random(seed), Computer("anna")
        self.fs, self.fh = self.computer.fs, self.computer.create("f")
        self.ino = self.computer.walk("f").ino
        self.right = bytearray()
        self.under_way = None

    def place(self, length):
        begin = self.rng.randrange(len(self.right) + 1)
        return begin, min(len(self.right), begin + self.rng.randrange(1, length))

    def put(self, offset, data):
        self.right += bytes(max(0, offset - len(self.right)))
        self.right[offset : offset + len(data)] = data

    def write(self):
        offset = self.rng.choice((len(self.right), self.place(2)[0], len(self.right) + 70_000))
        size = self.rng.randrange(1, self.rng.choice((100, 9000, 300_000)))
        data = self.rng.randbytes(size)
        self.fs.write(self.fh, offset, data)
        self.put(offset, data)

    def truncate(self):
        size = self.rng.randrange(len(self.right) + 100_000)
        self.fs.setattr(self.ino, SetAttr(size=size), self.fh, ROOT_USER)
        self.put(size, b"")
        del self.right[size:]

    def punch(self):
        begin, end = self.place(200_000)
        if begin < end:
            self.fs.fallocate(self.fh, PUNCH, begin, end - begin)
            self.right[begin:end] = bytes(end - begin)

    def copy(self):
        begin, end = self.place(300_000)
        target = self.place(2)[0]
        if end - begin and abs(target - begin) >= end - begin:
            done = self.fs.copy_range(self.fh, begin, self.fh, target, end - begin)
            self.put(target, bytes(self.right[begin : begin + done]))

    def flush(self):
        if self.under_way is None:
            self.under_way = self.fs.begin_flush(self.ino, spill=self.rng.random() < 0.4)
        elif self.rng.random() < 0.3:
            self.fs.abandon_flush(self.ino, self.under_way)
            self.under_way = None
        else:
            self.finish()

    def finish(self):
        if self.under_way is not None:
            self.under_way.execute()
            self.fs.finish_flush(self.ino, self.under_way)
            self.under_way = None

    def reopen(self):
        self.finish()
        self.computer.close(self.fh)
        self.fh = self.computer.open("f")

    def run(self):
        actions = [*[self.write] * 9, self.truncate, self.punch, self.copy, *[self.flush] * 6]
        for _ in range(STEPS):
            self.rng.choice((*actions, self.reopen))()
            if self.rng.random() < 0.3:
                assert bytes(self.fs.read(self.fh, 0, 1 << 40)) == self.right
        self.finish()
        self.computer.close(self.fh)
        self.computer.commit()
        assert self.computer.read("f") == self.right


@pytest.mark.parametrize("seed", range(12))
def test_edits_and_flushes_in_any_order_keep_every_byte(seed):
    Edited(seed).run()


def split_one_by_one(level):
    """Where a manifest is cut, said in the simplest way."""
    part = []
    for extent in level:
        part.append(extent)
        ends = extent.chunk is not None and not extent.chunk[-1] & 0x7F
        if len(part) == NODE_EXTENTS_MAX or (ends and len(part) >= 32):
            yield part
            part = []
    if part:
        yield part


@pytest.mark.parametrize("seed", range(40))
def test_manifests_are_cut_where_ids_say(seed):
    rng = random.Random(seed)
    share = rng.choice((0.001, 0.01, 0.1, 0.5))

    def extent():
        end = b"\x80" if rng.random() < share else b"\x01"
        return Extent(1, None if rng.random() < 0.05 else bytes(31) + end)

    level = [extent() for _ in range(rng.choice((31, 40, 512, 513, 3000)))]
    assert list(manifest._split(level)) == list(split_one_by_one(level))
