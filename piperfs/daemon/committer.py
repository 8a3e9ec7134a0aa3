"""Group commit: many operations in one durable transaction, off the event loop.

Changes gather in the store's overlay. A commit follows the first of them after a short window, in
which writes of one record collapse, or at once when somebody waits for durability. While one
commit runs in its thread the next batch gathers, so eight processes that call fsync at once share
two commits instead of queueing for eight. Nothing is told to a peer, and no fsync returns, before
the commit that holds it is done. A commit that fails for want of space keeps its changes and is
tried again; one that fails for another reason, a mistake of our own included, was the last of this
process: what it held cannot be told any more from what a later one would need.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from piperfs.core.errors import StoreError
from piperfs.core.limits import KIB
from piperfs.daemon.clock import Clock
from piperfs.obs.log import get_logger
from piperfs.store.store import Store

WINDOW_S: Final = 0.02  # long enough to collapse create, write and close; short for a person
BUSY_WINDOW_S: Final = 0.08  # when changes do not stop: a commit costs the same, few or many
BUSY_OPERATIONS: Final = 8  # in the commit before
RETRY_S: Final = 1.0  # after a full disk, which may have room again
CROWD_MIN: Final = 16  # changes that are never too many to gather
CHANGE_BYTES: Final = 256 * KIB  # room for one: it dirties some twenty pages, and for what follows

log = get_logger("store")


class _Round:
    """One commit and those who wait for it."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: StoreError | None = None


class Committer:
    """The only task that commits the store of a running daemon."""

    def __init__(
        self, store: Store, clock: Clock, available: Callable[[], int] = lambda: sys.maxsize
    ) -> None:
        self._store = store
        self._clock = clock
        self._available = available  # bytes on the disk
        self._gathering = 0  # changes since the last commit began
        self._next = _Round()
        self._running: _Round | None = None
        self._dirty = trio.Event()
        self._urgent = trio.Event()
        self._on_durable: list[Callable[[int], None]] = []
        self.commits = 0
        self._committed_at = float("-inf")
        self._gathered = 0  # operations of the last commit
        self.failure: StoreError | None = None

    def on_durable(self, listener: Callable[[int], None]) -> None:
        """Call `listener` with the durable lseq after each commit."""
        self._on_durable.append(listener)

    def wake(self) -> None:
        """There are changes; commit them after the window."""
        self._gathering += 1
        self._dirty.set()

    @property
    def is_crowded(self) -> bool:
        """Whether so many changes wait that one commit of them might not find room on the disk."""
        log = self._store.log
        waiting = self._gathering + log.last_lseq - log.durable_lseq
        return waiting >= CROWD_MIN and waiting > self._available() // CHANGE_BYTES

    async def make_way(self) -> None:
        """Return when fewer changes wait, if there are too many; a full disk is not told here."""
        if self.is_crowded:
            with suppress(StoreError):
                await self.commit()
        else:
            await trio.lowlevel.checkpoint()

    async def commit(self) -> None:
        """Return when everything applied so far is on stable storage. Raises StoreError."""
        if self._store.has_uncommitted:
            waiting = self._next
            self._dirty.set()
            self._urgent.set()
        elif self._running is not None:
            waiting = self._running
        elif self.failure is not None:
            raise self.failure.with_traceback(None)
        else:
            return
        await waiting.done.wait()
        if waiting.error is not None:
            raise waiting.error.with_traceback(None)

    async def settled(self) -> None:
        """Like `commit`, but in no hurry: the next commit is soon enough. Raises StoreError."""
        waiting = self._next if self._store.has_uncommitted else self._running
        if waiting is None:
            return
        self._dirty.set()
        await waiting.done.wait()
        if waiting.error is not None:
            raise waiting.error.with_traceback(None)

    async def run(self) -> None:
        """Commit for ever; cancelling it leaves what was not committed uncommitted."""
        while True:
            with trio.move_on_after(RETRY_S if self._is_full else float("inf")):
                await self._dirty.wait()
                with trio.move_on_after(self._window_s()):
                    await self._urgent.wait()
            self._dirty, self._urgent = trio.Event(), trio.Event()
            if self._store.has_uncommitted:
                await self._commit_once()
            else:
                self._release(None)

    def _window_s(self) -> float:
        """How long to gather: a lone change is told soon, many at a time are cheap."""
        recent = trio.current_time() - self._committed_at < BUSY_WINDOW_S
        return BUSY_WINDOW_S if recent and self._gathered >= BUSY_OPERATIONS else WINDOW_S

    @property
    def _is_full(self) -> bool:
        """Whether the last commit found no room; it is tried again now and then."""
        return self._store.full is not None

    async def flush(self) -> None:
        """The last commit of an orderly stop, after `run` was cancelled."""
        if self._store.has_uncommitted:
            await self._commit_once()

    def fail(self, reason: str) -> None:
        """The store's file cannot be relied on any more: take no more writes."""
        if not self._store.is_failing:
            self._store.fail(reason)
            self.failure = StoreError(reason)
            log.error("store.failing", reason=reason)

    async def _commit_once(self) -> None:
        self._running, self._next = self._next, _Round()
        before = self._store.log.last_lseq
        with trio.CancelScope(shield=True):
            lseq, error = await self._attempt()
        self._gathered = lseq - before
        self._committed_at = trio.current_time()
        self.commits += 1
        self._note(error)
        round_, self._running = self._running, None
        round_.error = error
        round_.done.set()
        if error is None:
            for listener in self._on_durable:
                listener(lseq)

    async def _attempt(self) -> tuple[int, StoreError | None]:
        """One commit: the last lseq in it, and why it failed, for whatever reason that was."""
        lseq, error = self._store.log.last_lseq, None
        try:
            self._store.require_unbroken()
            lseq = self._freeze()
            self._gathering = 0
            await self._clock.in_thread(self._store.write_frozen)
        except Exception as raised:  # noqa: BLE001 - all are logged
            error = self._give_up(raised)
        try:
            self._store.finish(committed=error is None)
        except Exception as raised:  # noqa: BLE001 - all are logged
            error = self._give_up(raised)
        return lseq, error

    def _freeze(self) -> int:
        """Publish what gathered. A value that cannot be read on the way leaves that half done."""
        try:
            return self._store.freeze(self._clock.now_ns())
        except StoreError as error:
            self._store.fail(str(error))
            raise

    def _give_up(self, error: Exception) -> StoreError:
        """What callers are told; anything but the disk's own errors ends all writing."""
        if isinstance(error, StoreError):
            return error
        log.error("commit.failed", exc_info=error)
        self._store.fail(repr(error))
        return StoreError(f"the store could not commit: {error!r}")

    def _note(self, error: StoreError | None) -> None:
        if error is not None and (self.failure is None or self.failure.kind is not error.kind):
            event = "store.failing" if self._store.is_failing else "store.full"
            log.error(event, reason=str(error))
        if error is None and self._store.is_failing:
            return  # it failed while the last good commit was under way
        if error is None and self.failure is not None:
            log.info("store.recovered")
        self.failure = error
        self._store.full = None if error is None or self._store.is_failing else error.kind

    def _release(self, error: StoreError | None) -> None:
        waiting, self._next = self._next, _Round()
        waiting.error = error
        waiting.done.set()
