"""Telling the kernel what changed from elsewhere, exactly, so that its caches may live long.

A notification can block: the kernel takes locks that the sender of a request holds while it waits
for us, such as that of a page whose chunk is still to come from a peer. So all of them are sent by
threads that do nothing else; one works, and another takes over when it is held up. What piles up
meanwhile is merged, since to forget something twice is to forget it once.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, TypeAlias

from piperfs.core.ids import InodeId
from piperfs.obs.log import get_logger
from piperfs.store.changes import ChangeSet

HELD_UP_S: Final = 0.05  # a notification takes microseconds unless the kernel waits for us
THREADS_MAX: Final = 16

log = get_logger("fuse")
Call: TypeAlias = Callable[[], None]


class Kernel(Protocol):
    """The notifications of one adapter; each may block. Raises OSError."""

    def forget_attributes(self, ino: int) -> None: ...

    def forget_data(self, ino: int) -> None: ...

    def forget_name(self, parent: int, name: bytes) -> None: ...


@dataclass(slots=True)
class _Pending:
    attributes: set[int] = field(default_factory=set)
    data: set[int] = field(default_factory=set)
    names: set[tuple[int, bytes]] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.attributes or self.data or self.names)

    def take(self, kernel: Kernel) -> Call:
        """One notification to send."""
        if self.names:
            return partial(kernel.forget_name, *self.names.pop())
        if self.data:
            ino = self.data.pop()
            self.attributes.discard(ino)  # goes with it
            return partial(kernel.forget_data, ino)
        return partial(kernel.forget_attributes, self.attributes.pop())


class Invalidator:
    """Takes changes on the loop thread, sends notifications from others."""

    def __init__(self, kernel: Kernel, number: Callable[[InodeId], int | None]) -> None:
        self._kernel = kernel
        self._number = number  # the kernel's number of an inode it knows
        self._pending = _Pending()
        self._wake = threading.Condition()
        self._stopped = False
        self._working: threading.Thread | None = None  # the one whose turn it is
        self._since = 0.0  # when its notification began
        self._threads = 0
        self._waiting = 0  # threads that have nothing to do
        self.sent = 0
        self._start()

    def _start(self) -> None:
        self._threads += 1
        threading.Thread(target=self._run, name="piperfs-invalidate", daemon=True).start()

    def report(self, changes: ChangeSet) -> None:
        """Note what changed; returns at once."""
        attributes = {n for inode in changes.attributes if (n := self._number(inode)) is not None}
        data = {n for inode in changes.content if (n := self._number(inode)) is not None}
        names = {
            (number, name)
            for parent, name in changes.entries
            if (number := self._number(parent)) is not None
        }
        with self._wake:
            self._pending.attributes |= attributes
            self._pending.data |= data | {number for number, _ in names}
            self._pending.names |= names
            self._wake.notify()

    def stop(self) -> None:
        """End the threads; a notification that blocks ends with the mount."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()

    def _run(self) -> None:
        while (call := self._next()) is not None:
            try:
                call()
                self.sent += 1
            except OSError:
                pass  # the kernel does not have it cached, or is unmounting
            with self._wake:
                if self._working is threading.current_thread():
                    self._working = None

    def _next(self) -> Call | None:
        """Wait for a turn and for something to do; None at the end."""
        with self._wake:
            self._waiting += 1
            while not self._stopped and not (self._pending and self._is_free()):
                self._wake.wait(HELD_UP_S if self._pending else None)
            self._waiting -= 1
            if self._stopped:
                return None
            self._working, self._since = threading.current_thread(), time.monotonic()
            if not self._waiting and self._threads < THREADS_MAX:
                self._start()  # somebody must be there to take over
            return self._pending.take(self._kernel)

    def _is_free(self) -> bool:
        return self._working is None or time.monotonic() - self._since > HELD_UP_S
