"""All heads of a store's records, unpublished ones included: what the view is made of."""

from msgspec.structs import replace

from piperfs.core.record import AnyHead
from piperfs.core.view import Tree, view
from piperfs.store.audit import END, RecordMap
from piperfs.store.audit import index_tree as full_index_tree
from piperfs.store.store import Store

__all__ = ["Records", "index_tree", "records_of", "view_of"]
Records = RecordMap

_decoded: dict[tuple[str, bytes, bytes], tuple[AnyHead, ...]] = {}


def records_of(store: Store) -> Records:
    """All heads of a store, unpublished ones included. Rows that are alike are decoded once."""
    found: Records = {}
    for kind, table in store.tables.records.items():
        for key, raw in store.engine.scan(table.name, b"", END):
            if table._active.get(key) is None:
                mark = (table.name, key, raw)
                if mark not in _decoded:
                    _decoded[mark] = table.get_durable(key)
                found[kind, key] = _decoded[mark]
        found.update(((kind, key), heads) for key, heads in table._active.items() if heads)
    found.update(store.records._pending)
    return found


def view_of(store: Store, records: Records | None = None) -> Tree:
    """What the records of a store mean, to be compared with `index_tree`."""
    return _told(store, view(records or records_of(store), store.root, store.founded_ns))


def index_tree(store: Store) -> Tree:
    """What the index of a store shows."""
    return _told(store, full_index_tree(store))


def _told(store: Store, tree: Tree) -> Tree:
    """Without the times of directories that the next publication tells."""
    facts = {
        inode: replace(f, mtime_ns=0, ctime_ns=0) if inode in store.untold else f
        for inode, f in tree.facts.items()
    }
    return replace(tree, facts=facts)
