"""Lets earlier versions go while the disk has no room for what is written now.

Deleted and superseded versions are kept for long, so that they can be had back. On a disk that is
full they would make deleting pointless, so there they are kept for ever shorter times, until there
is room. A writer who finds none waits for that; only if it brings nothing does the write fail.

A deleted file may come back: somebody who did not know of the deletion may have renamed it. So the
content of deleted files goes early only while another member holds everything, or if there is none.
"""

from contextlib import suppress
from functools import partial
from typing import Final

import trio

from piperfs.core.errors import StoreError
from piperfs.daemon import upkeep
from piperfs.daemon.node import Node
from piperfs.fs.space import NEARLY_FULL_BYTES
from piperfs.obs.log import get_logger
from piperfs.store.collector import DAY_NS, HOUR_NS, RETENTION, Retention

SHORTER: Final = ((7 * DAY_NS, 3), (DAY_NS, 1), (HOUR_NS, 0), (0, 0))
LOOK_S: Final = 10
COLLECTING_S: Final = 0.2
WAIT_S: Final = 20  # of a writer
QUICK_S: Final = 5  # a walk over the store that took no longer may be done again soon
REST_SHARE: Final = 3  # of what a longer one took, before the next
HELD_S: Final = 5  # for a connected member to say that it holds everything

log = get_logger("daemon")


async def _say_nothing(_text: str, _done: int, _total: int) -> None:
    """Nobody waits at a terminal."""


class Sparing:
    """The one task of a daemon that spares old versions, and those who wait for it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._asked = trio.Event()
        self._done = trio.Event()
        self._rests_until = float("-inf")
        self._is_busy = False
        self._seen = -1  # how many writes were outdated when old versions were let go

    async def run(self) -> None:
        """Look after the room, for ever."""
        while True:
            with trio.move_on_after(LOOK_S):
                await self._asked.wait()
            await trio.sleep_until(max(self._rests_until, trio.current_time()))
            self._asked = trio.Event()
            if self._node.store.chunks.is_collecting:
                self._rests_until = trio.current_time() + COLLECTING_S  # somebody else is at it
            elif self._node.space.is_nearly_full and self._may_help:
                self._is_busy = True
                await self._spare()
                self._is_busy = False
            self._done.set()
            self._done = trio.Event()

    @property
    def _may_help(self) -> bool:
        """Whether something was replaced or deleted since, or is held elsewhere by now."""
        has_news = self._node.store.log.outdated != self._seen
        return has_news or (self._node.keeps_deleted and self._is_held)

    @property
    def _is_held(self) -> bool:
        """Whether a deleted file that comes back would find its content elsewhere."""
        replicator = self._node.replicator
        is_alone = len(self._node.graph.state().present()) == 1
        return is_alone or (replicator is not None and bool(replicator.holders()))

    async def _wait_until_held(self) -> bool:
        """Give a member that is connected the time to get what was deleted, and all else."""
        replicator = self._node.replicator
        if self._is_held or replicator is None or not replicator.is_connected:
            return self._is_held
        with trio.move_on_after(HELD_S):
            await replicator.wait_for_copies(1, _say_nothing)
            return True
        return False

    def is_crowded(self) -> bool:
        """As the committer says; deletions may need room before they give some back."""
        is_crowded = self._node.committer.is_crowded
        if is_crowded:
            self._asked.set()
        return is_crowded

    async def find_room(self) -> bool:
        """Wait a while for more room; whether it is worth to try again."""
        if self._node.space().available >= NEARLY_FULL_BYTES:
            return False
        has_waited = False
        with trio.move_on_after(WAIT_S):
            while self._is_busy or (self._may_help and self._node.space.is_nearly_full):
                has_waited = True
                self._asked.set()
                await self._done.wait()
        return has_waited

    async def _commit(self) -> None:
        with suppress(StoreError):
            await self._node.committer.commit()

    async def _spare(self) -> None:
        node, begun, freed = self._node, trio.current_time(), 0
        await self._commit()  # what was deleted just now
        node.keeps_deleted = not await self._wait_until_held()
        for ns, versions_min in SHORTER:
            self._seen = node.store.log.outdated
            deleted_ns = RETENTION.deleted_ns if node.keeps_deleted else ns
            retention = Retention(ns, versions_min, deleted_ns)
            collector = await upkeep.attempt(node, partial(upkeep.collect, retention=retention))
            freed += collector.freed_bytes if collector else 0
            for _ in range(2):  # what one commit sets free, only the one after the next can use
                node.store.log.note_position()
                await self._commit()
            if not node.space.is_nearly_full:
                break
        if freed:
            log.warning("versions.spared", kept_s=ns // 1_000_000_000, bytes=freed)
        took = trio.current_time() - begun
        self._rests_until = trio.current_time() + (REST_SHARE if took > QUICK_S else 1) * took
