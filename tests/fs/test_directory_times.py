"""Times of directories are a function of the records: equal wherever the same is known."""

import pytest

from tests.support.computers import ROOT_USER
from tests.support.judging import Group
from tests.support.trees import index_tree, view_of

FIFO = 0o010644


def replace_and_overwrite(a):
    a.write("d/f", b"one")
    a.computer.commit()
    a.write("d/tmp", b"two")
    a.rename("d/tmp", "d/f")
    a.computer.commit()
    a.write("d/f", b"three")


def come_and_go(a):
    a.write("d/tmp", b"x")
    a.unlink("d/tmp")


def pass_through(a):
    a.write("d/f", b"x")
    before = "d"
    for name in "pqrs":
        a.computer.mkdir(name)
        a.computer.commit()
        a.rename(f"{before}/f", f"{name}/f")
        before = name


def delete_a_moved_file(a):
    a.write("d/f", b"x")
    a.computer.mkdir("e")
    a.computer.commit()
    a.rename("d/f", "e/f")
    a.unlink("e/f")


def make_a_fifo(a):
    a.computer.fs.mknod(*a.computer.split("d/pipe"), FIFO, 0, ROOT_USER)


LIVES = [replace_and_overwrite, come_and_go, pass_through, delete_a_moved_file, make_a_fifo]


def times(person):
    found = {"": person.computer.stat("")}
    found |= {name: person.computer.stat(name) for name in person.computer.listdir()}
    return {name: (attr.mtime_ns, attr.ctime_ns) for name, attr in found.items()}


@pytest.mark.parametrize("live", LIVES)
@pytest.mark.parametrize("steps", [True, False])
def test_who_saw_every_step_and_who_sees_the_end_show_the_same(live, steps):
    group = Group(3)
    a, b, c = group.people
    a.computer.mkdir("d")
    group.meet()
    live(a)
    a.computer.commit()
    shown = times(a)
    if steps:
        b.computer.receive_from(a.computer)
    group.meet()
    for person in (a, b, c):
        assert times(person) == shown
        store = person.computer.store
        assert index_tree(store) == view_of(store)


def test_a_rename_over_a_file_dates_its_directory_after_any_number_of_writes():
    group = Group()
    a, b = group.people
    a.computer.mkdir("d")
    replace_and_overwrite(a)
    before = times(a)["d"]
    for n in range(3):
        a.computer.commit()
        a.write("d/f", b"%d" % n)
    group.meet()
    assert times(a)["d"] == times(b)["d"] == before


def test_moves_at_once_leave_equal_times():
    group = Group(3)
    a, b, c = group.people
    for name in ("d", "e"):
        a.computer.mkdir(name)
    a.write("f", b"x")
    group.meet()
    a.rename("f", "d/f")
    b.rename("f", "e/f")
    b.computer.receive_from(a.computer)
    group.meet()
    c.rename("e/f" if "f" in c.computer.listdir("e") else "d/f", "f")
    group.meet()
    assert times(a) == times(b) == times(c)


def test_the_time_of_a_new_volume_is_that_of_its_root():
    group = Group()
    founded = 1_600_000_000 * 10**9
    for person in group.people:
        person.computer.store.found(founded)
    group.meet()
    for person in group.people:
        root = person.computer.stat("")
        assert (root.mtime_ns, root.ctime_ns, root.atime_ns) == (founded,) * 3
        assert index_tree(person.computer.store) == view_of(person.computer.store)
    group.people[0].write("f", b"x")
    group.meet()
    assert times(group.people[0])[""] == times(group.people[1])[""] > (founded, founded)


def test_a_time_set_by_hand_stands_beside_what_a_clock_far_ahead_has_written():
    group = Group()
    a, b = group.people
    a.computer.mkdir("d")
    a.computer.clock.ns += 1_000 * 10**9
    replace_and_overwrite(a)
    group.meet()
    b.write("d/f", b"four")
    group.meet()
    b.computer.utime("d", 10**18)
    assert b.computer.stat("d").mtime_ns == 10**18
    group.meet()
    for person in (a, b):
        assert person.computer.stat("d").mtime_ns == 10**18
        assert index_tree(person.computer.store) == view_of(person.computer.store)
