"""Random lives of several stores: legal local changes, and operations that arrive in any order.

A step is five small numbers, so that a failing history shrinks; what they mean depends on what
the store shows at that moment. All ids come from a seed: the same steps make the same history.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from piperfs.core.ids import InodeId, LinkId, is_directory
from piperfs.core.operation import Operation
from piperfs.fs import conflicts
from piperfs.store.change import (
    Change,
    DeleteContent,
    KillLink,
    MoveLink,
    Pin,
    PutContent,
    PutLink,
    RetargetLink,
    SetAttributes,
    SetXattr,
)
from piperfs.store.directory import Found
from tests.support.stores import Node, TestClock

Step: TypeAlias = tuple[int, int, int, int, int]  # who, what, and three choices
NAMES = (b"a", b"b.txt")


class Life:
    """Three stores of one volume and everything that happens to them."""

    def __init__(self, skew_s: int = 100, stores: int = 3) -> None:
        entropy = random.Random(1).randbytes
        self.nodes = [
            Node(f"node{n}", clock=TestClock(1_700_000_000 + skew_s * n), entropy=entropy)
            for n in range(stores)
        ]
        self.shuffle = random.Random(2).shuffle

    def step(self, step: Step) -> None:
        who, what, x, y, z = step
        node = self.nodes[who % len(self.nodes)]
        if what % 4 == 3:
            self._deliver(node, self.nodes[x % len(self.nodes)], y, z)
        else:
            Actions(node).act(what, x, y, z)

    def _deliver(self, receiver: Node, sender: Node, first: int, count: int) -> None:
        """Some operations of one store reach another, in an order of their own."""
        if sender is receiver:
            return receiver.commit()
        operations = sender.operations()
        receiver.learn_from(sender)
        start = first * len(operations) // 8
        some = operations[start : start + 1 + 2 * count]
        self.shuffle(some)
        return receiver.store.apply_remote(some, receiver.clock()) and None

    def settle(self) -> None:
        """Everything reaches everyone, in another order everywhere."""
        known = {op.id: op for node in self.nodes for op in node.operations()}
        for node in self.nodes:
            rest: list[Operation] = list(known.values())
            self.shuffle(rest)
            for other in self.nodes:
                node.learn_from(other)
            node.receive(rest)


class Actions:
    """What a file system may do to a store, with its arguments chosen by numbers."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.store = node.store

    def act(self, what: int, x: int, y: int, z: int) -> None:
        actions: Sequence[Callable[[int, int, int], Iterable[Change] | None]] = (
            self.create, self.make_directory, self.rename, self.write, self.remove,
            self.link, self.rename, self.set_attributes, self.set_xattr, self.write_pinned,
            self.remove, self.exchange,
        )  # fmt: skip
        changes = list(actions[what % len(actions)](x, y, z) or ())
        if changes:
            self.node.apply(*changes)

    # Choices

    def folders(self) -> list[InodeId]:
        found, waiting = [], [self.node.root]
        while waiting:
            folder = waiting.pop()
            found.append(folder)
            waiting += [i for _, i in self.listing(folder) if is_directory(i)]
        return sorted(found, key=lambda inode: (inode != self.node.root, inode))

    def listing(self, folder: InodeId) -> list[tuple[bytes, InodeId]]:
        rows = self.store.list_directory(folder, 0, 1 << 20)
        return sorted((name, inode) for _, name, inode in rows)

    def place(self, x: int) -> tuple[InodeId, bytes]:
        folders = self.folders()
        return folders[x // len(NAMES) % len(folders)], NAMES[x % len(NAMES)]

    def pick(self, x: int) -> tuple[InodeId, bytes, Found] | None:
        every = [(folder, name) for folder in self.folders() for name, _ in self.listing(folder)]
        if not every:
            return None
        folder, name = every[x % len(every)]
        found = self.store.lookup(folder, name)
        assert found is not None, "what is listed can be looked up"
        return folder, name, found

    def file(self, x: int) -> tuple[InodeId, bytes, Found] | None:
        """A file that is no conflict copy; a copy becomes one first."""
        picked = self.pick(x)
        if picked is None or is_directory(picked[2].inode):
            return None
        return self.own(*picked)

    def own(self, folder: InodeId, name: bytes, found: Found) -> tuple[InodeId, bytes, Found]:
        if found.copy_of is None:
            return folder, name, found
        self.node.apply(*conflicts.settle(self.store, found.copy_of))
        again = self.store.lookup(folder, name)
        assert again is not None
        assert again.inode == found.inode, "a copy keeps its id and name when it becomes a file"
        return folder, name, again

    # Actions

    def create(self, x: int, y: int, z: int) -> None:
        folder, name = self.place(x)
        if self.store.lookup(folder, name) is None:
            self.node.create(folder, name, b"%d" % (y % 3))

    def make_directory(self, x: int, y: int, z: int) -> None:
        folder, name = self.place(x)
        if self.store.lookup(folder, name) is None:
            self.node.mkdir(folder, name)

    def write(self, x: int, y: int, z: int) -> Iterable[Change]:
        file = self.file(x)
        if file is not None:
            inode = file[2].inode
            yield from conflicts.materialise(self.store, inode)
            yield PutContent(inode, self.node.version(b"%d" % (y % 5)))

    def write_pinned(self, x: int, y: int, z: int) -> None:
        """A session: the first call opens, the next one saves what was written since."""
        pin: Pin | None = getattr(self.node, "open_pin", None)
        if pin is None:
            file = self.file(x)
            if file is not None:
                self.node.open_pin = self.store.pin(file[2].inode)  # type: ignore[attr-defined]
            return
        row = self.store.inode(pin.inode)
        if row is not None and row.links:
            seen = conflicts.superseded_unseen(self.store, pin)
            split = conflicts.split_off(self.store, pin.inode, seen)
            version = self.node.version(b"pinned%d" % y)
            self.node.apply(*split, PutContent(pin.inode, version, (), pin))
        self.store.unpin(pin.inode)
        self.node.open_pin = None  # type: ignore[attr-defined]

    def remove(self, x: int, y: int, z: int) -> Iterable[Change]:
        picked = self.pick(x)
        if picked is None:
            return []
        folder, name, found = picked
        if found.copy_of is not None:
            return conflicts.discard(self.store, found)
        if is_directory(found.inode) and not self.store.is_empty(found.inode):
            return []
        fixed = conflicts.fix_losing_links(self.store, folder, name)
        return [*fixed, *self.removal(found)]

    def removal(self, found: Found) -> list[Change]:
        if is_directory(found.inode):
            return [KillLink(LinkId(member)) for member in self.store.members(found.inode)]
        row = self.store.inode(found.inode)
        assert row is not None
        assert found.place is not None
        if len(row.links) > 1:
            return [*self.copies_beside(found), KillLink(found.place.link)]
        return [*conflicts.materialise(self.store, found.inode), DeleteContent(found.inode)]

    def copies_beside(self, found: Found) -> list[Change]:
        row = self.store.inode(found.inode)
        assert row is not None
        assert found.place is not None
        is_first = row.links[0].link == found.place.link
        return conflicts.settle(self.store, found.inode) if is_first else []

    def link(self, x: int, y: int, z: int) -> Iterable[Change]:
        file = self.file(x)
        folder, name = self.place(y)
        if file is not None and self.store.lookup(folder, name) is None:
            yield PutLink(LinkId(self.node.entropy(16)), folder, name, file[2].inode)

    def rename(self, x: int, y: int, z: int) -> Iterable[Change]:
        picked = self.pick(x)
        if picked is None:
            return []
        folder, name, found = self.own(*picked)
        target, new = self.place(y)
        if is_directory(found.inode) and self.is_below(target, found.inode):
            return []
        there = self.store.lookup(target, new)
        if there is not None and there.inode == found.inode:
            return []
        if there is not None:
            return self.replace(folder, name, found, there)
        fixed = conflicts.fix_losing_links(self.store, folder, name)
        return [*fixed, *self.moves(found, target, new)]

    def moves(self, found: Found, target: InodeId, new: bytes) -> list[Change]:
        if is_directory(found.inode):
            members = self.store.members(found.inode)
            return [MoveLink(LinkId(member), target, new) for member in members]
        assert found.place is not None
        return [*self.copies_beside(found), MoveLink(found.place.link, target, new)]

    def replace(self, folder: InodeId, name: bytes, found: Found, there: Found) -> Iterable[Change]:
        """A file over a file: a new version of the one that was there."""
        rows = [self.store.inode(f.inode) for f in (found, there)]
        if is_directory(found.inode) or is_directory(there.inode) or there.place is None:
            return []
        fixed = conflicts.fix_losing_links(self.store, folder, name)
        if not all(row and len(row.links) == 1 for row in rows):
            change = RetargetLink(there.place.link, found.inode)
            gone = self.removal(found)
            return [*self.copies_beside(there), *fixed, change, *gone] if rows[0] else []
        self._end_session(there.inode)
        body = self.store.contents(found.inode)[0].body
        version = self.node.version(body.target)
        return [
            *conflicts.materialise(self.store, there.inode),
            PutContent(there.inode, _replacing(version), replaces=True),
            *fixed,
            *self.removal(found),
        ]

    def _end_session(self, inode: InodeId) -> None:
        """An open file that is replaced goes on without a name, and makes no more versions."""
        pin: Pin | None = getattr(self.node, "open_pin", None)
        if pin is not None and pin.inode == inode:
            self.store.unpin(inode)
            self.node.open_pin = None  # type: ignore[attr-defined]

    def is_below(self, directory: InodeId, ancestor: InodeId) -> bool:
        inode = directory
        while inode != self.node.root:
            if inode == ancestor or ancestor in self.store.members(inode):
                return True
            row = self.store.inode(inode)
            if row is None or not row.links:
                return False
            inode = row.links[0].parent
        return False

    def exchange(self, x: int, y: int, z: int) -> Iterable[Change]:
        one, other = self.file(x), self.file(y)
        if one is None or other is None or one[2].inode == other[2].inode:
            return []
        one = self.own(*one)
        if one[2].place is None or other[2].place is None:
            return []
        return [*self.moves(one[2], *other[:2]), *self.moves(other[2], *one[:2])]

    def set_attributes(self, x: int, y: int, z: int) -> Iterable[Change]:
        picked = self.pick(x)
        if picked is not None:
            inode = self.own(*picked)[2].inode
            mtime = 1_000 + y if z % 2 else None
            mode, owner = (None if y % 2 else 0o600 + y), ("bob" if y % 3 else None)
            yield SetAttributes(inode, mode=mode, owner=owner, mtime_ns=mtime)

    def set_xattr(self, x: int, y: int, z: int) -> Iterable[Change]:
        picked = self.pick(x)
        if picked is not None:
            inode = self.own(*picked)[2].inode
            yield SetXattr(inode, b"user.%d" % (y % 2), b"v%d" % z if z % 3 else None)


def _replacing(body):
    return type(body)(True, body.size, body.mtime_ns, body.birth, target=body.target)
