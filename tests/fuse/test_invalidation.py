"""Notifications to the kernel: all arrive, merged, and none waits behind one that blocks."""

import threading
import time

import pytest

from piperfs.core.ids import FILE, InodeId, make_inode_id
from piperfs.fuse import invalidation
from piperfs.fuse.invalidation import THREADS_MAX, Invalidator
from piperfs.store.changes import ChangeSet

TIMEOUT_S = 10


class Kernel:
    """Notes what it is told; blocks on some inodes until released."""

    def __init__(self, *blocking: int) -> None:
        self.told: list[tuple[str, object]] = []
        self.blocking = set(blocking)
        self.unknown: dict[int, int] = {}  # how often the kernel will not have heard of an inode
        self.release = threading.Event()

    def forget_attributes(self, ino: int) -> None:
        self.told.append(("attributes", ino))
        if ino in self.unknown:
            self.unknown[ino] -= 1
            if self.unknown[ino] >= 0:
                raise FileNotFoundError

    def forget_data(self, ino: int) -> None:
        if ino in self.blocking:
            assert self.release.wait(TIMEOUT_S)
        self.told.append(("data", ino))

    def forget_name(self, parent: int, name: bytes) -> None:
        self.told.append(("name", (parent, name)))
        raise FileNotFoundError  # it has not cached it, which is no fault


def inode(number: int) -> InodeId:
    return make_inode_id(FILE, number.to_bytes(15, "big"))


def number(inode: InodeId) -> int:
    return int.from_bytes(inode[1:], "big")


def wait_for(kernel: Kernel, count: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while len(kernel.told) < count:
        assert time.monotonic() < deadline, kernel.told
        time.sleep(0.002)


@pytest.fixture
def kernel():
    return Kernel(1, 2, 3)


@pytest.fixture
def invalidator(kernel):
    made = Invalidator(kernel, number)
    yield made
    kernel.release.set()
    made.stop()


def test_everything_is_told_once(kernel, invalidator):
    changes = ChangeSet()
    changes.attributes |= {inode(9), inode(7)}
    changes.content.add(inode(7))
    changes.entries.add((inode(8), b"name"))
    invalidator.report(changes)
    wait_for(kernel, 4)
    assert sorted(kernel.told) == [
        ("attributes", 9), ("data", 7), ("data", 8), ("name", (8, b"name")),
    ]  # fmt: skip


def test_listings_are_forgotten_again_for_those_who_were_reading_them(
    kernel, invalidator, monkeypatch
):
    monkeypatch.setattr(invalidation, "LISTED_S", (0.5, 1.0))
    for name in (b"one", b"two"):
        changes = ChangeSet()
        changes.entries.add((inode(8), name))
        invalidator.report(changes)
    wait_until(lambda: kernel.told.count(("name", (8, b"two"))) and kernel.told[-1][0] == "data")
    told = len(kernel.told)  # the listing is forgotten after the names
    wait_until(lambda: len(kernel.told) > told)
    assert kernel.told[told:] == [("data", 8)]
    wait_until(lambda: not invalidator._later)


def test_an_inode_that_the_kernel_is_about_to_make_is_told_of_again(kernel, invalidator):
    kernel.unknown[9] = 2
    changes = ChangeSet()
    changes.attributes.add(inode(9))
    invalidator.report(changes)
    wait_for(kernel, 3)
    assert kernel.told == [("attributes", 9)] * 3
    wait_until(lambda: not invalidator._tries and not invalidator._later)


def test_an_inode_that_the_kernel_forgot_is_given_up(kernel, invalidator, monkeypatch):
    monkeypatch.setattr(invalidation, "AGAIN_S", (0.001, 0.002))
    kernel.unknown[9] = 99
    changes = ChangeSet()
    changes.attributes.add(inode(9))
    invalidator.report(changes)
    wait_for(kernel, 3)
    wait_until(lambda: not invalidator._tries and not invalidator._later)


def wait_until(holds) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_one_that_blocks_holds_up_no_others(kernel, invalidator):
    for blocked in (1, 2, 3):
        changes = ChangeSet()
        changes.content |= {inode(blocked), inode(10 * blocked)}
        invalidator.report(changes)
    wait_for(kernel, 3)
    assert sorted(kernel.told) == [("data", 10), ("data", 20), ("data", 30)]
    kernel.release.set()
    wait_for(kernel, 6)


def test_threads_are_bounded_and_end(kernel, invalidator):
    kernel.blocking = set(range(100))
    changes = ChangeSet()
    changes.content |= {inode(each) for each in range(1, 100)}
    invalidator.report(changes)
    deadline = time.monotonic() + TIMEOUT_S
    while invalidator._threads < THREADS_MAX:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kernel.release.set()
    wait_for(kernel, 99)
    invalidator.stop()
    names = [thread.name for thread in threading.enumerate()]
    deadline = time.monotonic() + TIMEOUT_S
    while "piperfs-invalidate" in names:
        assert time.monotonic() < deadline
        names = [thread.name for thread in threading.enumerate()]
