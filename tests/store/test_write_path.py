"""The one write path: local changes and remote operations end in the same state."""

import pytest

from piperfs.core.ids import LinkId
from piperfs.core.record import Kind
from piperfs.store.change import (
    DeleteContent,
    KillLink,
    MoveLink,
    PutContent,
    PutLink,
    SetAttributes,
    SetXattr,
)
from tests.store.test_index_equals_view import check
from tests.support.stores import Node, TestClock, exchange, lmdb_engine


@pytest.fixture
def nodes():
    return Node("alpha"), Node("beta", clock=TestClock(1_700_000_100))


def test_created_files_appear_on_the_other_replica(nodes):
    a, b = nodes
    folder = a.mkdir(a.root, b"folder")
    a.create(folder, b"note.txt", b"hello")
    exchange(a, b)
    assert b.tree() == {b"folder": {b"note.txt": b"hello"}}
    assert a.store.digest() == b.store.digest()


def test_a_file_made_and_written_is_one_operation(nodes):
    a, _ = nodes
    file = a.create(a.root, b"f")
    a.write(file, b"one")
    a.apply(SetAttributes(file, mode=0o600, mtime_ns=5))
    operations = a.operations()
    assert len(operations) == 1
    assert {write.kind for write in operations[0].writes} == {Kind.LINK, Kind.CONTENT}
    row = a.store.inode(file)
    assert (row.mode, row.mtime_ns) == (0o600, 5)


def test_a_temporary_file_leaves_only_the_directory_time(nodes):
    a, b = nodes
    folder = a.mkdir(a.root, b"folder")
    exchange(a, b)
    before = len(a.operations())
    file = a.create(folder, b"index.lock", b"x")
    a.apply(SetXattr(file, b"user.k", b"v"))
    a.apply(DeleteContent(file))
    exchange(a, b)
    assert a.store.inode(file) is None
    kinds = [write.kind for op in a.operations()[before:] for write in op.writes]
    assert kinds == [Kind.ATTRIBUTES]
    assert a.store.inode(folder).mtime_ns == b.store.inode(folder).mtime_ns


def test_concurrent_versions_are_both_kept_under_equal_names(nodes):
    a, b = nodes
    file = a.create(a.root, b"plan.txt", b"base")
    exchange(a, b)
    a.write(file, b"from alpha")
    b.write(file, b"from beta")
    exchange(a, b)
    assert a.tree() == b.tree()
    assert sorted(a.tree().values()) == [b"from alpha", b"from beta"]
    names = sorted(a.tree())
    assert names[1] == b"plan.txt"
    assert names[0].startswith(b"plan.conflict-2023")
    assert names[0].endswith(b".txt")


def test_files_created_at_once_under_one_name_are_both_kept(nodes):
    a, b = nodes
    a.create(a.root, b"n", b"1")
    b.create(b.root, b"n", b"2")
    exchange(a, b)
    assert a.tree() == b.tree()
    assert a.tree()[b"n"] == b"2"
    assert len(a.tree()) == 2


def test_folders_created_at_once_act_as_one(nodes):
    a, b = nodes
    a.create(a.mkdir(a.root, b"n"), b"x", b"1")
    b.create(b.mkdir(b.root, b"n"), b"y", b"2")
    exchange(a, b)
    assert a.tree() == b.tree() == {b"n": {b"x": b"1", b"y": b"2"}}


def test_an_edit_survives_a_concurrent_deletion(nodes):
    a, b = nodes
    file = a.create(a.root, b"f", b"base")
    exchange(a, b)
    a.write(file, b"edit")
    b.apply(DeleteContent(file))
    exchange(a, b)
    assert a.tree() == b.tree() == {b"f": b"edit"}


def test_a_rename_survives_a_concurrent_deletion(nodes):
    a, b = nodes
    file = a.create(a.root, b"f", b"base")
    exchange(a, b)
    a.apply(MoveLink(a.link_of(a.root, b"f"), a.root, b"g"))
    b.apply(DeleteContent(file))
    exchange(a, b)
    assert a.tree() == b.tree() == {b"g": b"base"}


def test_a_deletion_after_a_pending_rename_deletes(nodes):
    a, b = nodes
    file = a.create(a.root, b"f", b"base")
    exchange(a, b)
    a.apply(MoveLink(a.link_of(a.root, b"f"), a.root, b"g"))
    a.apply(DeleteContent(file))
    exchange(a, b)
    assert a.tree() == b.tree() == {}


def test_crossed_moves_end_as_one_tree(nodes):
    a, b = nodes
    p, q = a.mkdir(a.root, b"p"), a.mkdir(a.root, b"q")
    exchange(a, b)
    a.apply(MoveLink(p, q, b"p"))
    b.apply(MoveLink(q, p, b"q"))
    exchange(a, b)
    assert a.tree() == b.tree() == {b"q": {b"p": {}}}


def test_a_removed_folder_stays_while_a_new_file_is_in_it(nodes):
    a, b = nodes
    folder = a.mkdir(a.root, b"d")
    exchange(a, b)
    a.apply(KillLink(folder))
    b.create(folder, b"x", b"1")
    exchange(a, b)
    assert a.tree() == b.tree() == {b"d": {b"x": b"1"}}


def test_a_session_does_not_swallow_what_it_has_not_seen(nodes):
    a, b = nodes
    file = a.create(a.root, b"f", b"base")
    exchange(a, b)
    pin = a.store.pin(file)
    b.write(file, b"from beta")
    exchange(a, b)
    a.apply(PutContent(file, a.version(b"based on the old"), pin=pin))
    a.apply(PutContent(file, a.version(b"second save"), pin=pin))
    exchange(a, b)
    a.apply(PutContent(file, a.version(b"third save"), pin=pin))
    exchange(a, b)
    assert a.tree() == b.tree()
    assert sorted(a.tree().values()) == [b"from beta", b"third save"]


def test_attributes_of_both_sides_hold(nodes):
    a, b = nodes
    file = a.create(a.root, b"f", b"base")
    exchange(a, b)
    a.apply(SetAttributes(file, mode=0o640))
    b.apply(SetAttributes(file, owner="ana"))
    b.apply(SetXattr(file, b"user.k", b"v"))
    exchange(a, b)
    rows = [node.store.inode(file) for node in nodes]
    assert rows[0] == rows[1]
    assert (rows[0].mode, rows[0].owner) == (0o640, "ana")
    assert a.store.xattrs(file) == {b"user.k": b"v"}


def test_hard_links_count_and_go_one_by_one(nodes):
    a, b = nodes
    file = a.create(a.root, b"f", b"x")
    a.apply(PutLink(b"L" * 16, a.root, b"g", file))
    exchange(a, b)
    assert len(b.store.inode(file).links) == 2
    b.apply(KillLink(b.link_of(b.root, b"f")))
    exchange(a, b)
    assert a.tree() == b.tree() == {b"g": b"x"}


def test_a_name_that_two_make_at_once_stays_known_when_the_file_is_deleted(nodes):
    """The name of a conflict copy has the same id wherever somebody makes it."""
    a, b = nodes
    file = a.create(a.root, b"file", b"text")
    exchange(a, b)
    link = LinkId(b"same everywhere!")
    for node in nodes:
        node.apply(PutLink(link, node.root, b"copy", file))
    a.store.apply_remote(b.operations(), a.clock())  # while what it did itself is unpublished
    a.apply(DeleteContent(file))
    exchange(a, b)
    assert a.store.records.links(link) == b.store.records.links(link) != ()
    assert a.tree() == b.tree()
    check(a)
    check(b)


def test_a_time_set_on_a_version_that_replaced_another_holds_until_the_next(nodes):
    a, b = nodes
    file = a.create(a.root, b"file", b"text")
    exchange(a, b)
    a.apply(PutContent(file, a.version(b"new"), replaces=True))
    a.apply(SetAttributes(file, mtime_ns=5))
    exchange(a, b)
    assert [node.store.inode(file).mtime_ns for node in nodes] == [5, 5]
    a.apply(PutContent(file, a.version(b"newer"), replaces=True))
    a.apply(SetAttributes(file, mtime_ns=6))
    newest = a.version(b"newest")
    a.apply(PutContent(file, newest))
    exchange(a, b)
    for node in nodes:
        check(node)
        assert node.store.inode(file).mtime_ns == newest.mtime_ns


def test_a_reopened_store_has_everything_committed(tmp_path):
    a = Node("alpha", lmdb_engine(tmp_path))
    file = a.create(a.mkdir(a.root, b"d"), b"f", b"kept")
    a.commit()
    a.create(a.root, b"lost", b"never committed")
    seq, digest = a.store.last_seq, a.store.digest()
    a.store.close()
    again = Node("alpha", lmdb_engine(tmp_path))
    assert again.tree() == {b"d": {b"f": b"kept"}}
    assert again.store.last_seq == seq
    assert again.store.digest() == digest
    again.write(file, b"more")
    again.commit()
    assert again.store.last_seq > seq
    again.store.close()


def test_operations_apply_in_any_order_and_twice(nodes):
    a, b = nodes
    folder = a.mkdir(a.root, b"d")
    a.commit()
    file = a.create(folder, b"f", b"one")
    a.commit()
    a.write(file, b"two")
    a.apply(MoveLink(folder, a.root, b"e"))
    operations = a.operations()
    b.receive(reversed(operations))
    b.receive(operations)
    assert b.tree() == a.tree() == {b"e": {b"f": b"two"}}
    assert a.store.digest() == b.store.digest()


def test_many_children_list_in_stable_order(nodes):
    a, _ = nodes
    names = {f"file {n}".encode() for n in range(500)}
    for name in names:
        a.create(a.root, name)
    seen, cookie = [], 0
    while page := a.store.list_directory(a.root, cookie, 7):
        seen += [name for _, name, _ in page]
        cookie = page[-1][0]
        if len(seen) % 5 == 0:
            a.commit()
    assert len(seen) == len(names)
    assert set(seen) == names
