"""Opening a store of which any single value may be damaged."""

from piperfs.store.engine import MemoryEngine
from piperfs.store.salvage import NEEDED
from piperfs.store.schema import NAMES
from tests.support.stores import Node


class Watched(MemoryEngine):
    """Notes which tables are read."""

    def __init__(self) -> None:
        super().__init__(NAMES)
        self.read: set[str] = set()

    def get(self, table, key):
        self.read.add(table)
        return super().get(table, key)

    def scan(self, table, start, end):
        self.read.add(table)
        return super().scan(table, start, end)


def test_whatever_is_read_at_opening_can_be_left_out():
    """Else a damaged row of it keeps the store from being opened, and so from being repaired."""
    engine = Watched()
    Node("anna", engine)
    assert engine.read
    assert engine.read <= set(NEEDED)
