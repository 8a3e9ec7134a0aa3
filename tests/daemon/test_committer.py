"""How much may gather before a commit, where the disk is nearly full."""

import os
from dataclasses import dataclass

import pytest
import trio

from piperfs.core.errors import ErrorKind, StoreError
from piperfs.daemon.clock import SYSTEM_CLOCK
from piperfs.daemon.committer import CHANGE_BYTES, CROWD_MIN, Committer
from piperfs.store.engine import MemoryEngine
from piperfs.store.schema import NAMES
from tests.support.stores import Node

GIB = 1 << 30


@dataclass
class Disk:
    available: int


class Desk:
    """A store whose committer knows how full the disk is; it runs only when it is let."""

    def __init__(self, available: int) -> None:
        self.disk = Disk(available)
        self.engine = MemoryEngine(NAMES)
        self.node = Node("anna", self.engine)
        self.committer = Committer(self.node.store, SYSTEM_CLOCK, lambda: self.disk.available)
        self.node.store.on_dirty = self.committer.wake

    def change(self, count: int) -> None:
        for _ in range(count):
            self.node.create(self.node.root, os.urandom(4).hex().encode())


@pytest.mark.parametrize(
    ("available", "enough"),
    [(-1, CROWD_MIN - 1), (CROWD_MIN * CHANGE_BYTES, CROWD_MIN), (40 * CHANGE_BYTES, 40)],
)
def test_what_gathers_is_bounded_by_the_room_on_the_disk(available: int, enough: int) -> None:
    desk = Desk(available)
    desk.change(enough)
    assert not desk.committer.is_crowded
    desk.change(1)
    assert desk.committer.is_crowded
    desk.disk.available = GIB
    assert not desk.committer.is_crowded


async def test_whoever_makes_way_waits_for_the_commit() -> None:
    desk = Desk(0)
    desk.change(CROWD_MIN)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.committer.run)
        await desk.committer.make_way()
        assert not desk.committer.is_crowded
        assert desk.node.store.log.durable_lseq == CROWD_MIN
        nursery.cancel_scope.cancel()


async def test_whoever_makes_way_is_not_told_that_the_disk_is_full() -> None:
    desk = Desk(0)

    def refuse(_batch: object) -> None:
        raise StoreError("full", ErrorKind.NO_SPACE)

    desk.engine.before_commit = refuse
    desk.change(CROWD_MIN)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.committer.run)
        await desk.committer.make_way()
        assert desk.node.store.full is ErrorKind.NO_SPACE
        assert desk.committer.is_crowded
        nursery.cancel_scope.cancel()
