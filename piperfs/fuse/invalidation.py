"""Telling the kernel what changed from elsewhere, exactly, so that its caches may live long.

A notification can block: the kernel takes locks that the sender of a request holds while it waits
for us. So all of them are sent by one thread that does nothing else. What piles up meanwhile is
merged, since to forget something twice is to forget it once.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from piperfs.core.ids import InodeId
from piperfs.obs.log import get_logger
from piperfs.store.changes import ChangeSet

log = get_logger("fuse")


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


class Invalidator:
    """Takes changes on the loop thread, sends notifications from its own."""

    def __init__(self, kernel: Kernel, number: Callable[[InodeId], int | None]) -> None:
        self._kernel = kernel
        self._number = number  # the kernel's number of an inode it knows
        self._pending = _Pending()
        self._wake = threading.Condition()
        self._stopped = False
        self.sent = 0
        self._thread = threading.Thread(target=self._run, name="piperfs-invalidate", daemon=True)
        self._thread.start()

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
        """End the thread; a notification that blocks ends with the mount."""
        with self._wake:
            self._stopped = True
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._pending or self._stopped)
                if self._stopped:
                    return
                pending, self._pending = self._pending, _Pending()
            self._send(pending)

    def _send(self, pending: _Pending) -> None:
        for parent, name in pending.names:
            self._try(self._kernel.forget_name, parent, name)
        for ino in pending.data:
            self._try(self._kernel.forget_data, ino)
        for ino in pending.attributes - pending.data:
            self._try(self._kernel.forget_attributes, ino)

    def _try(self, call: Callable[..., None], *arguments: int | bytes) -> None:
        try:
            call(*arguments)
            self.sent += 1
        except OSError:
            return  # the kernel does not have it cached, or is unmounting
