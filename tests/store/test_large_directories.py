"""What a call on a large directory reads: in proportion to its answer, not to the directory."""

import random

import pytest

from piperfs.store.engine import MemoryEngine
from piperfs.store.schema import NAMES
from tests.support.stores import Node, exchange

FILES = 400
PAGE = 20


class CountingEngine(MemoryEngine):
    """Counts the rows that scans hand out."""

    def __init__(self):
        super().__init__(NAMES)
        self.scanned = 0

    def scan(self, table, start, end):
        for row in super().scan(table, start, end):
            self.scanned += 1
            yield row

    def keys(self, table, start, end):
        for key in super().keys(table, start, end):
            self.scanned += 1
            yield key


def pages(node, directory, copies=None):
    """All pages of a listing, each with how many rows it took."""
    cookie = 0
    while True:
        before = node.engine.scanned
        page = node.store.list_directory(directory, cookie, PAGE, copies)
        yield page, node.engine.scanned - before
        if not page:
            return
        cookie = page[-1][0]


@pytest.fixture
def merged():
    """Two computers made a directory of the same name and filled it; a few names are disputed."""
    a, b = Node("alpha", CountingEngine()), Node("beta", CountingEngine())
    for node in (a, b):
        folder = node.mkdir(node.root, b"pictures")
        for number in range(FILES):
            node.create(folder, node.replica + b"%d" % number)
        for number in range(5):
            node.create(folder, b"same %d" % number, node.replica)
    exchange(a, b)
    return a


def test_a_page_of_a_merged_directory_reads_about_a_page(merged):
    folder = merged.store.lookup(merged.root, b"pictures").inode
    copies = merged.store.list_copies(folder)
    assert len(copies) == 5
    listed = list(pages(merged, folder, copies))
    names = [name for page, _ in listed for _, name, _ in page]
    assert len(names) == len(set(names)) == 2 * FILES + 10
    assert max(rows for _, rows in listed) <= 2 * (PAGE + 2)
    assert names == [name for page, _ in pages(merged, folder) for _, name, _ in page]


def test_an_absent_name_costs_no_walk(merged):
    folder = merged.store.lookup(merged.root, b"pictures").inode
    before = merged.engine.scanned
    assert merged.store.lookup(folder, b"no such picture") is None
    assert merged.engine.scanned - before < PAGE


def test_a_conflict_copy_is_found_by_its_name(merged):
    folder = merged.store.lookup(merged.root, b"pictures").inode
    for _, name, inode in merged.store.list_copies(folder):
        assert b".conflict-" in name
        assert merged.store.lookup(folder, name).inode == inode


def test_keys_are_those_that_a_scan_gives():
    node, rng = Node("alpha"), random.Random(5)
    table = node.store.tables.conflict
    for _ in range(300):
        key = bytes((rng.randrange(60),)) * 4
        table.delete(key) if rng.random() < 0.4 else table.put(key, b"value")
        if rng.random() < 0.1:
            node.commit()
        low, high = sorted((bytes((rng.randrange(60),)), bytes((rng.randrange(60),))))
        assert list(table.keys(low, high)) == [key for key, _ in table.scan(low, high)]
        assert all(table.get(found) == value for found, value in table.scan(low, high))
