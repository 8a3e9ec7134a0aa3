"""Several people on several computers, and the oracles that judge what they end up with.

The oracles look from outside: at trees, bytes and dots. None of them uses the code that merges.
"""

import random

import msgspec

from tests.support.computers import Computer, exchange
from tests.support.ledger import Ledger
from tests.support.people import Person
from tests.support.stores import TestClock

START_S = 1_700_000_000
HERE = [0]  # the computer that is looked at, for a mutant that depends on the place


class Group:
    """Computers of one volume; everybody's deeds go into one ledger."""

    def __init__(self, count: int = 2, skew_s: int = 60) -> None:
        self.ledger = Ledger()
        self.dots: dict[tuple[bytes, int], bytes] = {}
        entropy = random.Random(11).randbytes  # so that the same life ends the same way again
        self.people = [
            Person(
                Computer(f"node{n}", None, TestClock(START_S + n * skew_s), entropy),
                f"p{n}",
                self.ledger,
            )
            for n in range(count)
        ]

    def meet(self) -> None:
        """Everybody hears of everything."""
        self._note_dots()
        exchange(*(person.computer for person in self.people))

    def _note_dots(self) -> None:
        """O7: a dot stands for one operation, whatever crashed or was restored."""
        for person in self.people:
            store = person.computer.store
            person.computer.commit()
            for _, identity, envelope in store.log.after_with_ids(0, 1 << 40):
                author, seq = _dot(envelope.header)
                known = self.dots.setdefault((author, seq), identity)
                assert known == identity, f"O7: dot {author!r} {seq} was used twice"

    def judge(self) -> dict[str, bytes | None]:
        """Meet, then ask O1, O3 and O7; returns the tree that all see."""
        self.meet()
        self.meet()
        trees = []
        for number, person in enumerate(self.people):
            HERE[0] = number
            trees.append(person.flat())
        for tree in trees[1:]:
            assert tree == trees[0], f"O1: {trees[0]} is not {tree}"
        visible = {content for content in trees[0].values() if content is not None}
        assert not self.ledger.lost(visible), f"O3: {self.ledger.lost(visible)} is gone"
        digests = {person.computer.store.digest() for person in self.people}
        assert len(digests) == 1, "O1: the same trees of other operations"
        return trees[0]


def _dot(header: bytes) -> tuple[bytes, int]:
    _, replica, seq, *_ = msgspec.msgpack.decode(header)
    return replica, seq
