"""Undoing what one member did: afterwards the tree is what it was, whatever that was."""

import random
from collections import Counter

import pytest

from piperfs.core.errors import FsError
from piperfs.core.resolve import current_content
from piperfs.fs import undo
from piperfs.store.history import Gathering
from tests.support.computers import ROOT_USER, Computer, exchange
from tests.support.people import Person
from tests.support.stores import SECOND, TestClock

MOMENT_S = 1_700_001_000


def described(computer: Computer) -> dict[str, object]:
    """Everything that people see and that a revert has to restore."""
    found: dict[str, object] = {}
    for path, content in Person(computer, "").flat().items():
        attr = computer.stat(path)
        fs = computer.fs
        names = fs.listxattr(attr.ino, ROOT_USER)
        xattrs = {name: fs.getxattr(attr.ino, name) for name in names}
        found[path] = (content, oct(attr.mode), attr.nlink, xattrs)
    return found


def revert(computer: Computer, author: Computer, since_ns: int) -> Counter:
    gathering = Gathering()
    unseal = computer.keyring.unseal_bodies
    for _ in gathering.steps(computer.store.tables, unseal, lambda _key: True):
        pass
    work = undo.Revert(computer.store, gathering.found, author.replica, since_ns)
    counts: Counter = Counter()
    for _ in work.steps(computer.clock, counts):
        pass
    computer.commit()
    return counts


def two(entropy=random.randbytes):
    owner = Computer("owner", clock=TestClock(MOMENT_S - 500), entropy=entropy)
    other = Computer("other", clock=TestClock(MOMENT_S - 500), entropy=entropy)
    person = Person(owner, "owner")
    for folder in ("d", "d/e", "u"):
        owner.mkdir(folder)
    for path in ("f", "g", "h", "d/x", "d/e/y"):
        person.write(path, person.say(path))
    owner.link("h", "d/h2")
    person.symlink(b"there", "s")
    owner.chmod("f", 0o640)
    owner.setxattr("f", b"user.k", b"v")
    exchange(owner, other)
    Person(other, "before").write("theirs", b"made before, by the other")
    exchange(owner, other)
    for computer in (owner, other):
        computer.clock.ns = (MOMENT_S + 10) * SECOND
    return owner, other


MESSES = {
    "write": lambda p: p.write("f", b"mess"),
    "write twice": lambda p: (p.write("f", b"mess"), p.computer.commit(), p.write("f", b"more")),
    "write own": lambda p: p.write("theirs", b"mess"),
    "unlink": lambda p: p.unlink("f"),
    "unlink own": lambda p: p.unlink("theirs"),
    "unlink symlink": lambda p: p.unlink("s"),
    "unlink link": lambda p: p.unlink("d/h2"),
    "unlink links": lambda p: (p.unlink("d/h2"), p.unlink("h")),
    "rename": lambda p: p.rename("f", "d/f"),
    "rename twice": lambda p: (p.rename("f", "z"), p.computer.commit(), p.rename("z", "u/z")),
    "rename directory": lambda p: p.rename("d", "u/d"),
    "rename over": lambda p: p.rename("f", "g"),
    "rename over link": lambda p: p.rename("f", "h"),
    "exchange": lambda p: p.rename("f", "g", 2),
    "remove tree": lambda p: p.remove_tree("d"),
    "create": lambda p: p.write("new", b"mess"),
    "create and move": lambda p: (p.write("new", b"mess"), p.rename("new", "f")),
    "mkdir": lambda p: (p.computer.mkdir("m"), p.write("m/n", b"mess")),
    "move into new": lambda p: (p.computer.mkdir("m"), p.rename("f", "m/f"), p.rename("d", "m/d")),
    "link": lambda p: p.computer.link("f", "l"),
    "link and unlink": lambda p: (p.computer.link("f", "l"), p.unlink("f")),
    "chmod": lambda p: (p.computer.chmod("f", 0), p.computer.chmod("d", 0)),
    "xattrs": lambda p: (
        p.computer.setxattr("f", b"user.k", b"mess"), p.computer.setxattr("g", b"user.n", b"m"),
    ),
    "remove xattr": lambda p: p.computer.removexattr("f", b"user.k"),
    "make anew": lambda p: (p.unlink("f"), p.write("f", b"mess")),
}  # fmt: skip


@pytest.mark.parametrize("name", MESSES)
def test_every_mess_is_undone(name):
    owner, other = two()
    before = described(owner)
    MESSES[name](Person(other, "other"))
    exchange(owner, other)
    assert described(owner) != before
    assert revert(owner, other, MOMENT_S * SECOND)
    exchange(owner, other)
    assert described(owner) == described(other) == before
    assert not revert(owner, other, MOMENT_S * SECOND), "undone once and for all"


@pytest.mark.parametrize(
    "name", ["write", "write own", "chmod", "xattrs", "rename", "unlink", "create"]
)
def test_who_undoes_their_own_mess_is_done_with_it(name):
    """The undo is theirs too, and later than the moment that they name."""
    owner, other = two()
    before = described(other)
    MESSES[name](Person(other, "other"))
    other.commit()
    assert revert(other, other, MOMENT_S * SECOND)
    assert described(other) == before
    assert not revert(other, other, MOMENT_S * SECOND)
    exchange(owner, other)
    assert described(owner) == before


@pytest.mark.parametrize("seed", range(12))
def test_random_messes_are_undone(seed):
    rng = random.Random(seed)
    owner, other = two()
    before = described(owner)
    for name in rng.sample(sorted(MESSES), 8):
        try:
            MESSES[name](Person(other, name))
        except (FsError, AssertionError):
            continue  # what it would spoil is spoilt already
        if rng.random() < 0.5:
            exchange(owner, other)
    exchange(owner, other)
    revert(owner, other, MOMENT_S * SECOND)
    exchange(owner, other)
    assert described(owner) == described(other) == before


@pytest.mark.parametrize("first", [b"f", b"d"])
def test_what_others_built_on_it_stays(first):
    """Whatever the random id of a file's link begins with: a directory's begins with a `d`."""
    owner, other = two(lambda count: (first + random.randbytes(count))[:count])
    Person(other, "other").write("f", b"mess")
    Person(other, "other").write("new", b"mess")
    exchange(owner, other)
    Person(owner, "owner").write("f", b"mended")
    Person(owner, "owner").write("new", b"taken over")
    revert(owner, other, MOMENT_S * SECOND)
    exchange(owner, other)
    for computer in (owner, other):
        assert computer.read("f") == b"mended"
        assert computer.read("new") == b"taken over"


def test_what_was_done_before_the_moment_stays():
    owner, other = two()
    Person(other, "other").write("f", b"good")
    exchange(owner, other)
    owner.clock.ns = other.clock.ns = (MOMENT_S + 100) * SECOND
    Person(other, "other").write("f", b"mess")
    exchange(owner, other)
    revert(owner, other, (MOMENT_S + 60) * SECOND)
    assert owner.read("f") == b"good"


def test_a_deleted_file_comes_back_where_it_was():
    owner, other = two()
    inode = owner.fs._inodes.get(owner.stat("d/x").ino).inode
    head = current_content(owner.store.contents(inode))
    owner.commit()
    Person(owner, "owner").remove_tree("d")
    owner.commit()
    owner.store.apply_command(
        undo.bring_back(owner.store, inode, head, owner.clock()), owner.clock()
    )
    exchange(owner, other)
    for computer in (owner, other):
        assert Person(computer, "").flat() == {
            **{p: c for p, c in Person(computer, "").flat().items() if not p.startswith("d")},
            "d": None, "d/x": b"d/x by owner",
        }  # fmt: skip
