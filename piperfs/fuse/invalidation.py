"""Telling the kernel what changed from elsewhere, exactly, so that its caches may live long.

A notification can block: the kernel takes locks that the sender of a request holds while it waits
for us, such as that of a page whose chunk is still to come from a peer. So all of them are sent by
threads that do nothing else; one works, and another takes over when it is held up. What piles up
meanwhile is merged, since to forget something twice is to forget it once.
"""

import math
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
Call: TypeAlias = partial[None]

AGAIN_S: Final = (0.005, 0.05, 0.5, 3.0)  # after the kernel knew nothing of an inode
LISTED_S: Final = (0.05, 1.0, 5.0)  # after a directory changed


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
        self._later: dict[tuple[int, bool, float], float] = {}  # inode, its data?, delay: when
        self._due = math.inf  # the first of them
        self._tries: dict[int, int] = {}
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
        directories = {number for number, _ in names}
        with self._wake:
            self._pending.attributes |= attributes
            self._pending.data |= data | directories
            self._pending.names |= names
            self._repeat(directories)
            self._wake.notify()

    def _repeat(self, directories: set[int]) -> None:
        """Forget their listings again, a little later.

        Whoever lists a directory keeps our answer when he runs again, which may be after the
        first notification. Nothing tells the kernel that it is out of date, unless the change
        also gives the directory a new time, as that of a concurrent one may not. To forget a
        name waits for whoever reads the directory, but not in every kernel if it is not cached.
        """
        now = time.monotonic()
        for ino in directories:
            for delay in LISTED_S:
                self._later[ino, True, delay] = now + delay
        if directories:
            self._due = min(self._due, now + LISTED_S[0])

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
                self._tries.pop(call.args[0], None)
            except FileNotFoundError:
                self._try_again(call)
            except OSError:
                pass  # the kernel is unmounting
            with self._wake:
                if call.func == self._kernel.forget_name:
                    self._pending.data.add(call.args[0])  # listings that it waited for
                if self._working is threading.current_thread():
                    self._working = None

    def _try_again(self, call: Call) -> None:
        """The kernel has no such inode: it forgot it, or it has not yet taken our answer about it.

        Whoever looked a name up makes the inode only when he runs again. What he makes it of is
        out of date then, and would be believed for long.
        """
        if call.func == self._kernel.forget_name:
            return  # a lookup holds the directory until it is done
        ino, is_data = call.args[0], call.func == self._kernel.forget_data
        with self._wake:
            tried = self._tries.get(ino, 0)
            if tried == len(AGAIN_S):
                self._tries.pop(ino, None)
                return
            self._tries[ino] = tried + 1
            delay = AGAIN_S[tried]
            due = self._later[ino, is_data, delay] = time.monotonic() + delay
            self._due = min(self._due, due)

    def _note_due(self) -> float:
        """Take up what is due again; returns how long until the next is."""
        now = time.monotonic()
        if now >= self._due:
            for ino, is_data, _ in [each for each, due in self._later.items() if due <= now]:
                (self._pending.data if is_data else self._pending.attributes).add(ino)
            self._later = {each: due for each, due in self._later.items() if due > now}
            first = min(self._later.values(), default=math.inf)
            self._due = max(first, now + HELD_UP_S / 2)  # there may be many: not one by one
        return self._due - now

    def _next(self) -> Call | None:
        """Wait for a turn and for something to do; None at the end."""
        with self._wake:
            self._waiting += 1
            pause = self._note_due()
            while not self._stopped and not (self._pending and self._is_free()):
                idle = not self._pending and not self._later
                self._wake.wait(None if idle else min(pause, HELD_UP_S))
                pause = self._note_due()
            self._waiting -= 1
            if self._stopped:
                return None
            self._working, self._since = threading.current_thread(), time.monotonic()
            if not self._waiting and self._threads < THREADS_MAX:
                self._start()  # somebody must be there to take over
            return self._pending.take(self._kernel)

    def _is_free(self) -> bool:
        return self._working is None or time.monotonic() - self._since > HELD_UP_S
