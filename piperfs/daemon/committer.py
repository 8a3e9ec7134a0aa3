"""Group commit: many operations in one durable transaction, off the event loop.

Changes gather in the store's overlay. A commit follows the first of them after a short window, in
which writes of one record collapse, or at once when somebody waits for durability. While one
commit runs in its thread the next batch gathers, so eight processes that call fsync at once share
two commits instead of queueing for eight. Nothing is told to a peer, and no fsync returns, before
the commit that holds it is done.
"""

from collections.abc import Callable
from typing import Final

import trio

from piperfs.core.errors import ErrorKind, StoreError
from piperfs.store.store import Store

WINDOW_S: Final = 0.02  # long enough to collapse create, write and close; short for a person
RETRY_S: Final = 1.0  # after a full disk


class _Round:
    """One commit and those who wait for it."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: StoreError | None = None


class Committer:
    """The only task that commits the store of a running daemon."""

    def __init__(self, store: Store, now_ns: Callable[[], int]) -> None:
        self._store = store
        self._now_ns = now_ns
        self._next = _Round()
        self._running: _Round | None = None
        self._dirty = trio.Event()
        self._urgent = trio.Event()
        self._on_durable: list[Callable[[int], None]] = []
        self.commits = 0
        self.failure: StoreError | None = None

    def on_durable(self, listener: Callable[[int], None]) -> None:
        """Call `listener` with the durable lseq after each commit."""
        self._on_durable.append(listener)

    def wake(self) -> None:
        """There are changes; commit them after the window."""
        self._dirty.set()

    async def commit(self) -> None:
        """Return when everything applied so far is on stable storage. Raises StoreError."""
        if self._store.has_uncommitted:
            waiting = self._next
            self._dirty.set()
            self._urgent.set()
        elif self._running is not None:
            waiting = self._running
        elif self.failure is not None:
            raise self.failure
        else:
            return
        await waiting.done.wait()
        if waiting.error is not None:
            raise waiting.error

    async def settled(self) -> None:
        """Like `commit`, but in no hurry: the next commit is soon enough. Raises StoreError."""
        waiting = self._next if self._store.has_uncommitted else self._running
        if waiting is None:
            return
        self._dirty.set()
        await waiting.done.wait()
        if waiting.error is not None:
            raise waiting.error

    async def run(self) -> None:
        """Commit for ever; cancelling it leaves what was not committed uncommitted."""
        while True:
            await self._dirty.wait()
            with trio.move_on_after(WINDOW_S):
                await self._urgent.wait()
            self._dirty, self._urgent = trio.Event(), trio.Event()
            if self._store.has_uncommitted:
                await self._commit_once()
            else:
                self._release(None)

    async def flush(self) -> None:
        """The last commit of an orderly stop, after `run` was cancelled."""
        if self._store.has_uncommitted:
            await self._commit_once()

    async def _commit_once(self) -> None:
        self._running, self._next = self._next, _Round()
        lseq = self._store.freeze(self._now_ns())
        error = None
        with trio.CancelScope(shield=True):
            try:
                await trio.to_thread.run_sync(self._store.write_frozen)
            except StoreError as failure:
                error = failure
        self._store.finish(committed=error is None)
        self.commits += 1
        self.failure = error
        round_, self._running = self._running, None
        round_.error = error
        round_.done.set()
        if error is None:
            for listener in self._on_durable:
                listener(lseq)
        elif error.kind is ErrorKind.NO_SPACE:
            await trio.sleep(RETRY_S)
            self._dirty.set()

    def _release(self, error: StoreError | None) -> None:
        waiting, self._next = self._next, _Round()
        waiting.error = error
        waiting.done.set()
