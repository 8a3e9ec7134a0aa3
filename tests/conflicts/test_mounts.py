"""Every row of the conflict table on two real mounts whose link is cut.

One pair of daemons plays all rows side by side, each in a directory of its own. The link is cut
by mounting both again at addresses that the other does not know, and healed by telling one.
"""

import pytest

from tests.conflicts.actors import Mounted, fold
from tests.conflicts.rows import ROWS, agrees
from tests.support.volumes import eventually, replicas

pytestmark = pytest.mark.mount


class Pair:
    """Two mounted replicas."""

    def __init__(self, a, b) -> None:
        self.a, self.b = a, b
        a.init().mount()
        b.join(a)
        b.mount(f"peer={a.address}")

    def cut(self) -> None:
        self.a.umount()
        self.b.umount()
        self.a.mount()
        self.b.mount()
        assert all(peer["state"] != "connected" for peer in self.a.status()["peers"])

    def heal(self) -> None:
        self.b.umount()
        self.b.mount(f"peer={self.a.address}")
        self.meet()

    def meet(self) -> None:
        eventually(lambda: self.a.digest() == self.b.digest())
        for one in (self.a, self.b):
            eventually(lambda one=one: one.status()["store"]["chunks_wanted"] == 0)


def play(pair, rows):
    """Do what all rows say; returns the outcome of each."""
    names = {name: f"row {number}" for number, name in enumerate(rows)}
    for directory in names.values():
        (pair.a.mountpoint / directory).mkdir()
    pair.meet()
    running = {
        name: row(
            Mounted(pair.a.mountpoint / names[name]), Mounted(pair.b.mountpoint / names[name])
        )
        for name, row in rows.items()
    }
    outcomes = {}
    while running:
        for name in list(running):
            try:
                next(running[name])
            except StopIteration as end:
                outcomes[names[name]] = end.value
                del running[name]
        pair.heal()
        if running:
            pair.cut()
    return outcomes


def test_every_row(tmp_path):
    with replicas(tmp_path, "anna", "ben") as (a, b):
        pair = Pair(a, b)
        outcomes = play(pair, ROWS)
        wrong = {}
        for directory, outcome in outcomes.items():
            expected, check = outcome if isinstance(outcome, tuple) else (outcome, None)
            for replica in (a, b):
                actor = Mounted(replica.mountpoint / directory)
                found = actor.tree()
                if not agrees(expected, found, fold) or not (check is None or check(actor)):
                    wrong[directory, replica.name] = (expected, found)
        names = list(ROWS)
        assert not wrong, {(names[int(d.split()[1])], who): w for (d, who), w in wrong.items()}
        assert len(outcomes) == len(ROWS)
