"""Small scope, exhaustively: every triple of actions that three computers do at once.

A base tree that holds every kind of trouble (hard links, a conflicted file, two directories that
share a name, attributes, extended attributes) is known to three computers. Each does one action
of `ACTIONS` through its own file system; what that wrote is kept as the operations it signed. A
case is three such actions and is merged by real stores in every order of arrival. Then the
oracles of the design are asked, which know nothing of how merging works.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, cast

from piperfs.core.ids import ChunkId, ReplicaId
from piperfs.core.manifest import node_children
from piperfs.core.operation import Operation, decode
from piperfs.core.record import ContentHead, Kind
from piperfs.core.resolve import digest_of
from piperfs.core.view import Tree, view
from piperfs.store import codec
from piperfs.store.engine import MemoryEngine
from piperfs.store.store import Identity, Store
from tests.support.computers import Computer, exchange
from tests.support.ledger import Ledger
from tests.support.people import Person
from tests.support.stores import SECOND, VOLUME, NoSigner, TestClock
from tests.support.trees import Records, index_tree, records_of

EXCHANGE = 2
Action: TypeAlias = Callable[[Person], object]

ACTIONS: dict[str, Action] = {
    "write f": lambda p: p.write("f", p.say("f")),
    "write f alike": lambda p: p.write("f", b"what everybody writes"),
    "append f": lambda p: p.append("f", p.say("more")),
    "write d/x": lambda p: p.write("d/x", p.say("x")),
    "write d/e/y": lambda p: p.write("d/e/y", p.say("y")),
    "write h1": lambda p: p.write("h1", p.say("h1")),
    "write h2": lambda p: p.write("h2", p.say("h2")),
    "write c": lambda p: p.write("c", p.say("c")),
    "write copy": lambda p: p.write(p.copy_of("c"), p.say("copy")),
    "write n/p": lambda p: p.write("n/p", p.say("p")),
    "unlink f": lambda p: p.unlink("f"),
    "unlink g": lambda p: p.unlink("g"),
    "unlink h1": lambda p: p.unlink("h1"),
    "unlink h2": lambda p: p.unlink("h2"),
    "unlink h1 h2": lambda p: (p.unlink("h1"), p.unlink("h2")),
    "unlink d/x": lambda p: p.unlink("d/x"),
    "unlink d/e/y": lambda p: p.unlink("d/e/y"),
    "unlink s": lambda p: p.unlink("s"),
    "unlink c": lambda p: p.unlink("c"),
    "unlink copy": lambda p: p.unlink(p.copy_of("c")),
    "unlink n/p": lambda p: p.unlink("n/p"),
    "unlink create f": lambda p: (p.unlink("f"), p.write("f", p.say("new f"))),
    "rename f g": lambda p: p.rename("f", "g"),
    "rename g f": lambda p: p.rename("g", "f"),
    "rename f new": lambda p: p.rename("f", "new"),
    "rename g new": lambda p: p.rename("g", "new"),
    "rename f d/f": lambda p: p.rename("f", "d/f"),
    "rename d/x f": lambda p: p.rename("d/x", "f"),
    "rename d/x new": lambda p: p.rename("d/x", "new"),
    "rename h1 f": lambda p: p.rename("h1", "f"),
    "rename f h1": lambda p: p.rename("f", "h1"),
    "rename h1 h2": lambda p: p.rename("h1", "h2"),
    "rename h1 h3": lambda p: p.rename("h1", "h3"),
    "rename copy c": lambda p: p.rename(p.copy_of("c"), "c"),
    "rename c copy": lambda p: p.rename("c", p.copy_of("c")),
    "rename copy new": lambda p: p.rename(p.copy_of("c"), "new"),
    "rename c new": lambda p: p.rename("c", "new"),
    "rename f c": lambda p: p.rename("f", "c"),
    "rename s new": lambda p: p.rename("s", "new"),
    "rename d u/d": lambda p: p.rename("d", "u/d"),
    "rename u d/u": lambda p: p.rename("u", "d/u"),
    "rename u d/e/u": lambda p: p.rename("u", "d/e/u"),
    "rename d new": lambda p: p.rename("d", "new"),
    "rename u new": lambda p: p.rename("u", "new"),
    "rename d/e e": lambda p: p.rename("d/e", "e"),
    "rename d/e n/e": lambda p: p.rename("d/e", "n/e"),
    "rename d/e u": lambda p: p.rename("d/e", "u"),
    "rename n m": lambda p: p.rename("n", "m"),
    "rename n u/n": lambda p: p.rename("n", "u/n"),
    "rename u n/u": lambda p: p.rename("u", "n/u"),
    "rename n d/n": lambda p: p.rename("n", "d/n"),
    "rename d n/d": lambda p: p.rename("d", "n/d"),
    "rmdir u": lambda p: p.remove_tree("u"),
    "rm -rf d": lambda p: p.remove_tree("d"),
    "rm -rf n": lambda p: p.remove_tree("n"),
    "create new": lambda p: p.write("new", p.say("new")),
    "create new alike": lambda p: p.write("new", b"what everybody creates"),
    "create u/v": lambda p: p.write("u/v", p.say("v")),
    "create d/e/v": lambda p: p.write("d/e/v", p.say("v")),
    "create n/v": lambda p: p.write("n/v", p.say("v")),
    "mkdir new": lambda p: p.computer.mkdir("new"),
    "mkdir new/in": lambda p: (p.computer.mkdir("new"), p.write("new/in", p.say("in"))),
    "symlink new": lambda p: p.symlink(p.say("to"), "new"),
    "link f l": lambda p: p.computer.link("f", "l"),
    "link h1 new": lambda p: p.computer.link("h1", "new"),
    "link copy new": lambda p: p.computer.link(p.copy_of("c"), "new"),
    "exchange f g": lambda p: p.rename("f", "g", EXCHANGE),
    "exchange d u": lambda p: p.rename("d", "u", EXCHANGE),
    "exchange f d": lambda p: p.rename("f", "d", EXCHANGE),
    "chmod f": lambda p: p.computer.chmod("f", 0o600 + len(p.tag)),
    "chmod d": lambda p: p.computer.chmod("d", 0o700),
    "chmod c": lambda p: p.computer.chmod("c", 0o711),
    "chmod copy": lambda p: p.computer.chmod(p.copy_of("c"), 0o611),
    "utime f": lambda p: p.computer.utime("f", 1_000_000_007),
    "setxattr f k": lambda p: p.computer.setxattr("f", b"user.k", p.say("k")),
    "setxattr f k2": lambda p: p.computer.setxattr("f", b"user.k2", p.say("k2")),
    "removexattr f k": lambda p: p.computer.removexattr("f", b"user.k"),
    "setxattr copy": lambda p: p.computer.setxattr(p.copy_of("c"), b"user.k", p.say("k")),
}


@dataclass(frozen=True)
class Deed:
    """One action, done on one computer: what it wrote and what its person knowingly gave up."""

    name: str
    engine: MemoryEngine
    operations: tuple[Operation, ...]
    ledger: Ledger


Case: TypeAlias = tuple[Deed, Deed, Deed]


class Scope:
    """The base tree, known to three computers, and every action done on each of them."""

    def __init__(self, skew_s: tuple[int, ...] = (0, 60, 120)) -> None:
        self.entropy = random.Random(7).randbytes
        self.ledger = Ledger()
        self._texts: dict[tuple[object, ...], bytes] = {}
        self._sealed: dict[ChunkId, bytes] = {}
        computers = [
            Computer(f"node{n}", clock=TestClock(1_700_000_000 + skew), entropy=self.entropy)
            for n, skew in enumerate(skew_s)
        ]
        self._build(computers)
        self.keyring = computers[0].keyring
        self._clocks = [computer.clock.ns // SECOND + 1 for computer in computers]
        self._bases = [computer.engine.snapshot() for computer in computers]

    def _build(self, computers: list[Computer]) -> None:
        a, b, c = (Person(one, f"base{n}", self.ledger) for n, one in enumerate(computers))
        for name in ("f", "g", "h1", "c"):
            a.write(name, a.say(name))
        a.computer.link("h1", "h2")
        for folder in ("d", "d/e", "u"):
            a.computer.mkdir(folder)
        a.write("d/x", a.say("x"))
        a.write("d/e/y", a.say("y"))
        a.symlink(b"target", "s")
        a.computer.chmod("f", 0o640)
        a.computer.setxattr("f", b"user.k", b"v")
        exchange(*computers)
        for person, child in ((a, "p"), (b, "q")):
            person.write("c", person.say("c at once"))
            person.computer.mkdir("n")
            person.write(f"n/{child}", person.say(child))
        exchange(*computers)
        assert c.copy_of("c")

    def do(self, number: int, name: str) -> Deed:
        """Do one action on one computer, from the base."""
        engine = self._bases[number].snapshot()
        clock = TestClock(self._clocks[number])
        computer = Computer(f"node{number}", engine, clock, self.entropy)
        before = computer.store.log.last_lseq
        person = Person(computer, f"{name}@{number}")
        person.ledger.written |= person.visible()
        ACTIONS[name](person)
        computer.commit()
        lost = person.ledger.lost(person.visible())
        assert not lost, (name, "took away what it did not act on", lost)
        unseal = computer.keyring.unseal_bodies
        raws = computer.store.log.after(before, 1 << 40)
        operations = tuple(decode(raw, unseal) for _, raw in raws)
        for chunk, sealed in computer.store.tables.chunk.scan(b"", b"\xff" * 33):
            self._sealed[ChunkId(chunk)] = sealed
        return Deed(name, engine, operations, person.ledger)

    def deeds(self) -> list[list[Deed]]:
        """Every action on every computer."""
        return [[self.do(number, name) for name in ACTIONS] for number in range(3)]

    # Judging

    def judge(self, case: Case) -> None:
        """Merge a case in every order of arrival and ask every oracle. Raises AssertionError."""
        names = tuple(deed.name for deed in case)
        stores = [self._merged(case, order) for order in itertools.permutations(range(3))]
        records = records_of(stores[0])
        expected = view(records, stores[0].root)
        for store in stores:
            assert records_of(store) == records, ("O1: records differ", names)
            assert index_tree(store) == expected, ("O6: index unlike view", names)
        self._check_visible(names, records, expected, case)

    def _merged(self, case: Case, order: tuple[int, ...]) -> Store:
        number, *others = order
        # The engine is only read: what is applied stays in the store's overlay.
        replica = ReplicaId(f"node{number}".encode().ljust(16, b"."))
        identity = Identity(VOLUME, replica, NoSigner(), self.keyring)
        engine = case[number].engine
        store = Store(engine, identity, b"k" * 32, self.entropy, node_children)
        now = 1_700_001_000 * SECOND
        for other in others:
            store.apply_remote(case[other].operations, now)
        again = store.apply_remote(case[others[0]].operations, now)
        assert not again.merged, ("O1: not idempotent", order)
        return store

    def _check_visible(
        self, names: tuple[str, ...], records: Records, tree: Tree, case: Case
    ) -> None:
        """O2 and O3: whatever nobody gave up can be read under some name."""
        ledger = Ledger()
        for known in (self.ledger, *(deed.ledger for deed in case)):
            ledger.join(known)
        items = tree.paths()
        versions = {item.version for item in items.values()}
        heads = [
            cast(ContentHead, head)
            for (kind, _), heads in records.items()
            if kind is Kind.CONTENT
            for head in heads
        ]
        visible = {self._text(head) for head in heads if digest_of(head) in versions}
        lost = ledger.lost(visible)
        assert not lost, ("O3: lost", names, lost, str(tree))
        reached = {item.inode for item in items.values()} | {tree.root}
        assert tree.folders.keys() <= reached, ("O2: not reachable", names, str(tree))

    def _text(self, head: ContentHead) -> bytes:
        """A version's bytes, which are one chunk at most."""
        key = (head.body.target, head.refs)
        if key not in self._texts:
            plain = [codec.decode(self.keyring.open_chunk(self._sealed[c])) for c in head.refs]
            self._texts[key] = b"".join(plain) or b"->" + head.body.target
        return self._texts[key]


def cases(deeds: list[list[Deed]], stride: int, first: int = 0) -> Iterator[Case]:
    """Every `stride`-th of all triples. A prime stride meets each action on each computer."""
    count = len(ACTIONS)
    for number in range(first, count**3, stride):
        one, rest = divmod(number, count * count)
        two, three = divmod(rest, count)
        yield deeds[0][one], deeds[1][two], deeds[2][three]
