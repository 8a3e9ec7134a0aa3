"""Many people with one conflict: one copy for each content, whatever they all do at once."""

import pytest

from tests.support.judging import Group

PEOPLE = 5


def conflicted():
    """Everybody writes at once; two of them the same."""
    group = Group(PEOPLE)
    group.people[0].write("f", b"base")
    group.meet()
    for number, person in enumerate(group.people):
        person.write("f", b"version %d" % min(number, 3))
    group.meet()
    return group


def contents(group):
    return sorted(content for content in group.judge().values() if content is not None)


def copies(person):
    return sorted(path for path in person.computer.listdir() if ".conflict-" in path)


def test_one_copy_for_each_distinct_content():
    assert contents(conflicted()) == [b"version %d" % n for n in range(4)]


@pytest.mark.parametrize("how", ["read", "touch", "delete the file", "edit the file"])
def test_all_of_them_act_at_once(how):
    group = conflicted()
    for person in group.people:
        if how == "read":
            assert len({person.content(path) for path in copies(person)}) == 3
        elif how == "touch":
            person.computer.chmod(copies(person)[0], 0o600)
        elif how == "delete the file":
            person.unlink("f")
        else:
            person.write("f", b"all agree")
    kept = contents(group)
    assert len(kept) == len(set(kept)), "no content twice"
    losers = {b"version %d" % n for n in range(3)}
    assert losers <= set(kept)
    expected = {"delete the file": set(), "edit the file": {b"all agree"}}
    assert set(kept) - losers == expected.get(how, {b"version 3"})


def test_all_of_them_delete_all_copies():
    group = conflicted()
    for person in group.people:
        while found := copies(person):
            person.unlink(found[0])
    assert contents(group) == [b"version 3"]


def test_all_of_them_choose_the_same_copy():
    group = conflicted()
    for person in group.people:
        chosen = next(path for path in copies(person) if person.content(path) == b"version 1")
        person.rename(chosen, "f")
    assert contents(group) == [b"version 0", b"version 1", b"version 2"]
    assert group.people[0].content("f") == b"version 1"


def test_conflicts_on_conflict_copies_make_no_copies_of_copies_of_the_same_bytes():
    group = conflicted()
    for _ in range(3):
        for person in group.people:
            for path in copies(person):
                person.write(path, b"the same edit")
        group.meet()
    found = [path for path in copies(group.people[0]) if path.count(".conflict-") > 1]
    assert found == []
    assert set(contents(group)) == {b"version 3", b"the same edit"}
