"""The index of a store, which follows record by record, equals the view of all records."""

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from piperfs.core.view import Tree
from tests.support.histories import Life
from tests.support.stores import Node
from tests.support.trees import index_tree, view_of

small = st.integers(0, 11)
steps = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 23), small, small, small), max_size=45)


def check(node: Node) -> Tree:
    expected = view_of(node.store)
    assert index_tree(node.store) == expected
    copies = {
        (found.inode, name)
        for folder in expected.folders
        for name, found in node.store.conflict_entries(folder).items()
    }
    assert {(found.inode, name) for _, _, name, found in node.store.conflicts()} == copies
    return expected


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
@example([(2, 1, 0, 0, 0), (2, 0, 2, 0, 0), (2, 20, 0, 0, 0), (0, 3, 2, 3, 1)])  # xattr, no mkdir
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
