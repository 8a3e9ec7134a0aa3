"""The index of a store, which follows record by record, equals the view of all records."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from piperfs.core.ids import ORPHANS, InodeId, is_directory
from piperfs.core.resolve import current_content, digest_of
from piperfs.core.view import Facts, Folder, Item, Link, Tree, view
from tests.support.histories import Life, records_of
from tests.support.stores import Node

small = st.integers(0, 11)
steps = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 23), small, small, small), max_size=45)


def facts_of(node: Node, inode: InodeId) -> Facts:
    """What the index knows of an inode, in the words of the view."""
    row = node.store.inode(inode)
    assert row is not None
    return Facts(
        row.mode, row.owner, row.group, row.owner_set_by, row.size, row.mtime_ns, row.ctime_ns,
        tuple(Link(place.link, place.parent, place.name) for place in row.links),
        row.copies, row.entries, row.subdirs, dict(sorted(node.store.xattrs(inode).items())),
    )  # fmt: skip


def without_derived_times(inode: InodeId, facts: Facts) -> Facts:
    """A directory's times are maxima of what was seen, which the index sees more of."""
    if not is_directory(inode):
        return facts
    fields = {name: getattr(facts, name) for name in facts.__struct_fields__}
    return Facts(**{**fields, "mtime_ns": 0, "ctime_ns": 0})


def folder_of(node: Node, canonical: InodeId) -> Folder:
    items = {}
    for _, name, inode in node.store.list_directory(canonical, 0, 1 << 20):
        found = node.store.lookup(canonical, name)
        assert found is not None
        assert (found.inode, found.name) == (inode, name)
        version = b""
        if not is_directory(inode):
            head = found.head or current_content(node.store.contents(inode))
            version = digest_of(head)
        items[name] = Item(inode, version, found.copy_of)
    return Folder(node.store.members(canonical), dict(sorted(items.items())))


def check(node: Node) -> Tree:
    expected = view(records_of(node), node.root)
    shown = {
        InodeId(key)
        for key, row in node.store.tables.inode.scan(b"", b"\xff" * 17)
        if row.links or row.entries or key == node.root
    } - {ORPHANS}
    assert shown == expected.facts.keys()
    for inode, facts in expected.facts.items():
        found = without_derived_times(inode, facts_of(node, inode))
        assert found == without_derived_times(inode, facts)
    for canonical, folder in expected.folders.items():
        assert folder_of(node, canonical) == folder
    copies = {
        (found.inode, name)
        for folder in expected.folders
        for name, found in node.store.conflict_entries(folder).items()
    }
    assert {(found.inode, name) for _, _, name, found in node.store.conflicts()} == copies
    return expected


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
def test_index_equals_view_after_any_history(history):
    life = Life()
    for number, step in enumerate(history):
        life.step(step)
        if number % 4 == 0:
            check(life.nodes[step[0]])
    for node in life.nodes:
        check(node)
    life.settle()
    trees = [check(node) for node in life.nodes]
    assert all(tree == trees[0] for tree in trees)
    assert len({node.store.digest() for node in life.nodes}) == 1
