"""Random lives of people on three computers who hear of each other late, in part and out of order.

A step is five small numbers, so a failing life shrinks. After every life everybody meets and the
oracles are asked: same trees everywhere, nothing gone that nobody gave up, no dot twice.
"""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.operation import decode
from piperfs.fs.api import SetAttr
from tests.support.computers import ROOT_USER
from tests.support.judging import Group
from tests.support.people import Person
from tests.support.trees import index_tree, view_of

NAMES = ("a", "b", "c.txt")
EXCHANGE = 2
small = st.integers(0, 11)
steps = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 29), small, small), max_size=40)


class Lives:
    """What the numbers mean."""

    def __init__(self) -> None:
        self.group = Group(3, skew_s=40)
        self.open: dict[int, tuple[int, bytes]] = {}
        self.rng = random.Random(3)
        self.said = 0
        a = self.group.people[0]
        a.write("a", b"first")
        a.computer.mkdir("d")
        a.write("d/a", b"first in d")
        self.group.meet()

    def say(self) -> bytes:
        self.said += 1
        return b"%d" % self.said

    def step(self, who: int, what: int, x: int, y: int) -> None:
        person = self.group.people[who]
        acts = (
            self.write, self.make, self.make, self.mkdir, self.unlink, self.rename, self.rename,
            self.link, self.remove_tree, self.session, self.session, self.chmod, self.setxattr,
            self.exchange, self.append, self.hear, self.hear, self.hear, self.write, self.unlink,
        )  # fmt: skip
        try:
            acts[what % len(acts)](person, x, y)
        except FsError:
            return  # refused, as a local file system would

    # Choices

    def path(self, person: Person, x: int, *, leaf: bool | None = None) -> str:
        found = [p for p, c in person.flat().items() if leaf is None or (c is not None) == leaf]
        if not found:
            raise FsError(ErrorKind.NOT_FOUND)
        return found[x % len(found)]

    def new_path(self, person: Person, x: int) -> str:
        folders = ["", *(p for p, c in person.flat().items() if c is None)]
        folder = folders[x // len(NAMES) % len(folders)]
        return f"{folder}/{NAMES[x % len(NAMES)]}".strip("/")

    # Acts

    def write(self, person, x, y):
        person.write(self.path(person, x, leaf=True), self.say())

    def append(self, person, x, y):
        path = self.path(person, x, leaf=True)
        person.append(path, b" and " + self.say())

    def make(self, person, x, y):
        person.write(self.new_path(person, x), self.say())

    def mkdir(self, person, x, y):
        person.computer.mkdir(self.new_path(person, x))

    def unlink(self, person, x, y):
        person.unlink(self.path(person, x, leaf=True))

    def rename(self, person, x, y):
        there = self.new_path(person, y) if y % 2 else self.path(person, y)
        person.rename(self.path(person, x), there)

    def exchange(self, person, x, y):
        person.rename(self.path(person, x), self.path(person, y), EXCHANGE)

    def link(self, person, x, y):
        person.computer.link(self.path(person, x, leaf=True), self.new_path(person, y))

    def remove_tree(self, person, x, y):
        if y % 3 == 0:
            person.remove_tree(self.path(person, x, leaf=False))

    def chmod(self, person, x, y):
        person.computer.chmod(self.path(person, x), 0o700 + y)

    def setxattr(self, person, x, y):
        person.computer.setxattr(self.path(person, x), b"user.%d" % (y % 2), b"v%d" % x)

    def session(self, person, x, y):
        """The first call opens a file, the next one saves what was made of it and closes."""
        number = self.group.people.index(person)
        if number not in self.open:
            path = self.path(person, x, leaf=True)
            seen = person.content(path)
            self.open[number] = (person.computer.open(path), seen or b"")
            return
        self.close(number)

    def close(self, number: int) -> None:
        fh, seen = self.open.pop(number)
        person = self.group.people[number]
        fs = person.computer.fs
        ino = fs._files.handle(fh).node.ino
        now = bytes(fs.read(fh, 0, 1 << 20))
        has_name = fs.getattr(ino).nlink > 0
        text = self.say()
        fs.setattr(ino, SetAttr(size=0), fh, ROOT_USER)
        fs.write(fh, 0, text)
        person.computer.close(fh)
        if has_name:
            self.group.ledger.write(seen, text)
            self.group.ledger.write(now, text)

    def hear(self, person, x, y):
        """Some of what another computer knows arrives, in any order, some of it again."""
        other = self.group.people[x % len(self.group.people)]
        if other is person:
            person.computer.commit()
            return
        raws = other.computer.operations()
        start = y * len(raws) // 16
        some = raws[start : start + 2 + x]
        self.rng.shuffle(some)
        computer = person.computer
        operations = [decode(raw, computer.keyring.unseal_bodies) for raw in some]
        computer.store.apply_remote(operations, computer.clock())
        self.fetch()

    def fetch(self) -> None:
        """Chunks come from whoever has them."""
        stores = [person.computer.store for person in self.group.people]
        for store in stores:
            for chunk in store.chunks.wanted(1000):
                sealed = next(filter(None, (other.chunks.get(chunk) for other in stores)))
                store.chunks.put(chunk, sealed)

    def end(self) -> None:
        for number in list(self.open):
            self.close(number)
        self.fetch()
        self.group.judge()
        for person in self.group.people:
            store = person.computer.store
            assert index_tree(store) == view_of(store), "O6"


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
def test_lives_end_in_one_tree_and_lose_nothing(life):
    lives = Lives()
    for step in life:
        lives.step(*step)
    lives.end()
