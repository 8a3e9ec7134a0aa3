"""Files whose names went with a removed member can be read, named again and removed."""

import pytest

from piperfs.core.ids import FILE, make_inode_id
from piperfs.core.record import Birth, ContentBody
from piperfs.store.change import MoveLink, PutContent
from tests.store.test_index_equals_view import check
from tests.support.computers import Computer, exchange

INODE = make_inode_id(FILE, bytes(15))
ORPHAN = f".piperfs/orphans/{INODE.hex()}"


@pytest.fixture
def pair() -> tuple[Computer, Computer]:
    """Both hold a file that no record names, which holds `bytes`."""
    a, b = Computer("a"), Computer("b")
    birth = Birth(0o644, "", "", a.store.replica)
    body = ContentBody(alive=True, size=0, mtime_ns=a.clock(), birth=birth)
    a.store.apply_local([PutContent(INODE, body)], a.clock())
    a.write(ORPHAN, b"bytes")
    exchange(a, b)
    return a, b


def agreed(*computers: Computer) -> dict[str, object]:
    exchange(*computers)
    first, *others = [(c.tree(), c.tree(".piperfs/orphans"), check(c)) for c in computers]
    assert all(other == first for other in others)
    return first[0]


def test_it_is_listed_and_read_everywhere(pair):
    for computer in pair:
        assert computer.listdir(".piperfs/orphans") == [INODE.hex()]
        assert computer.read(ORPHAN) == b"bytes"
    agreed(*pair)


def test_both_may_give_it_a_name_at_once(pair):
    a, b = pair
    a.rename(ORPHAN, "from a")
    b.rename(ORPHAN, "from b")
    assert a.read("from a") == b"bytes"
    tree = agreed(*pair)
    assert len(tree) == 1
    assert not a.exists(ORPHAN)


def test_it_may_be_saved_over_another_file(pair):
    a, _ = pair
    a.write("f", b"other")
    a.rename(ORPHAN, "f")
    assert a.read("f") == b"bytes"
    assert list(agreed(*pair)) == ["f"]
    assert not a.exists(ORPHAN)


def test_it_can_be_removed_and_comes_back_with_news(pair):
    a, b = pair
    a.unlink(ORPHAN)
    assert not a.exists(ORPHAN)
    b.write(ORPHAN, b"news")
    agreed(*pair)
    assert a.read(ORPHAN) == b"news"
    a.unlink(ORPHAN)
    assert agreed(*pair) == {}
    assert not b.exists(ORPHAN)


def test_a_second_name_is_its_first(pair):
    a, b = pair
    a.link(ORPHAN, "named")
    assert list(agreed(*pair)) == ["named"]
    b.unlink("named")
    assert agreed(*pair) == {}
    assert not a.exists(ORPHAN)


def test_edits_at_once_are_both_kept(pair):
    a, b = pair
    a.write(ORPHAN, b"of a")
    b.write(ORPHAN, b"of b")
    agreed(*pair)
    names = [f".piperfs/orphans/{name}" for name in a.listdir(".piperfs/orphans")]
    assert sorted(map(a.read, names)) == [b"of a", b"of b"]
    a.write(ORPHAN, b"settled")
    agreed(*pair)
    names = [f".piperfs/orphans/{name}" for name in b.listdir(".piperfs/orphans")]
    assert b"settled" in map(b.read, names)
    assert len(names) == 2
    for name in names:
        b.rename(name, name.rpartition("/")[2][-8:])
    assert len(agreed(*pair)) == 2


def test_a_directory_that_nobody_made_can_be_named(pair):
    a, b = pair
    unknown = "64" + "11" * 15
    a.mkdir("d")
    a.write("d/f", b"inside")
    inode = bytes.fromhex(unknown)
    found = a.store.lookup(a.store.root, b"d")
    row = a.store.lookup(found.inode, b"f")
    a.store.apply_local([MoveLink(row.place.link, inode, b"f")], a.clock())
    agreed(a, b)
    b.rename(f".piperfs/orphans/{unknown}", "named")
    agreed(a, b)
    assert a.read("named/f") == b"inside"
