"""What only a walk over the whole store tells: once in a while, and whenever fsck runs.

The walk reads a snapshot in a thread, beside the mount. Large volumes are counted but not held
against the view there, since that takes all their records into memory; fsck does both.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from piperfs.core.ids import ORPHANS
from piperfs.core.manifest import node_children
from piperfs.core.record import AnyHead, Kind, is_alive
from piperfs.daemon.node import Node
from piperfs.obs.metrics import Sample
from piperfs.store.audit import END, mismatches
from piperfs.store.store import Identity, Store

AUDITED_OPERATIONS_MAX: Final = 50_000
SLICE_ROWS: Final = 256  # between two snapshots
QUANTILES: Final = (0.5, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Census:
    """The counts of one walk."""

    mismatches: int | None  # None: the volume was too large to compare
    tombstones: int
    orphans: int
    moves_undone: int  # directories kept out of a cycle
    vectors: tuple[int, ...]  # entries of the records' vectors, at QUANTILES


@contextmanager
def snapshot(node: Node) -> Iterator[Store]:
    """A store of its own over what is durable now, for another thread to read."""
    engine = node.store.snapshot_engine()
    try:
        identity = Identity(node.store.volume, node.store.replica, node.identity, node.keyring)
        key, entropy, is_blind = node.secrets.store, node.clock.entropy, node.store.is_blind
        yield Store(engine, identity, key, entropy, node_children, is_blind=is_blind)
    finally:
        engine.close()


def take(node: Node) -> Census:
    """Walk over everything. Runs in a thread."""
    with snapshot(node) as store:
        vectors, tombstones = _sizes(store)
    with snapshot(node) as store:  # what is compared must be of one moment, and so is not much
        compared = not store.is_blind and store.log.count() <= AUDITED_OPERATIONS_MAX
        row = store.inode(ORPHANS)
        return Census(
            mismatches=sum(1 for _ in mismatches(store)) if compared else None,
            tombstones=tombstones,
            orphans=0 if row is None else row.entries,
            moves_undone=sum(1 for _ in store.tables.pointer.scan(b"", END)),
            vectors=_quantiles(vectors),
        )


def _quantiles(sizes: Counter[int]) -> tuple[int, ...]:
    """The sizes at `QUANTILES`; 0 if there are none."""
    ranked, ranks = sorted(sizes), list(accumulate(sizes[size] for size in sorted(sizes)))
    last = sizes.total() - 1
    return tuple(ranked[bisect_right(ranks, int(q * last))] if ranked else 0 for q in QUANTILES)


def _sizes(store: Store) -> tuple[Counter[int], int]:
    """How many vectors have which size, and the number of records that are deletions."""
    sizes: Counter[int] = Counter()
    tombstones = 0
    for kind, table in store.tables.records.items():
        for rows in table.durable_pages(b"", END, SLICE_ROWS):
            sizes.update(max(len(head.vector) for head in heads) for _, heads in rows)
            if kind in (Kind.LINK, Kind.CONTENT):
                tombstones += sum(map(_is_deletion, rows))
            store.renew_snapshot()  # a held one keeps freed pages from being used
    return sizes, tombstones


def _is_deletion(row: tuple[bytes, tuple[AnyHead, ...]]) -> bool:
    return not any(map(is_alive, row[1]))


def samples(census: Census) -> Iterator[Sample]:
    """The counts as metrics."""
    if census.mismatches is not None:
        help_ = "Index rows unlike the view; always 0."
        yield Sample("view_mismatches", help_, census.mismatches)
    yield Sample("tombstones", "Records that are deletions.", census.tombstones)
    yield Sample("orphans", "Links whose directory is unknown.", census.orphans)
    yield Sample("moves_undone", "Directories kept out of a cycle.", census.moves_undone)
    for quantile, size in zip(QUANTILES, census.vectors, strict=True):
        label = (("quantile", f"{quantile:g}"),)
        yield Sample("vector_entries", "Entries of version vectors.", size, label)
