"""All heads of a store's records, unpublished ones included: what the view is made of."""

from piperfs.core.record import AnyHead
from piperfs.store.audit import END, RecordMap, comparable, index_tree
from piperfs.store.store import Store

__all__ = ["Records", "comparable", "index_tree", "records_of"]
Records = RecordMap

_decoded: dict[tuple[str, bytes, bytes], tuple[AnyHead, ...]] = {}


def records_of(store: Store) -> Records:
    """All heads of a store, unpublished ones included. Rows that are alike are decoded once."""
    found: Records = {}
    for kind, table in store.tables.records.items():
        for key, raw in store._engine.scan(table.name, b"", END):
            if table._active.get(key) is None:
                mark = (table.name, key, raw)
                if mark not in _decoded:
                    _decoded[mark] = table.get_durable(key)
                found[kind, key] = _decoded[mark]
        found.update(((kind, key), heads) for key, heads in table._active.items() if heads)
    found.update(store._records._pending)
    return found
