"""Repair: build a new store out of everything in a damaged one that still proves itself.

The signed operations are the truth: records, index, log counts and fingerprints follow from them
through the ordinary write path. Chunks prove themselves by their name. What is lost with a damaged
operation or chunk is simply not claimed by the new store, so peers supply it again. The old store
is never written to, so an interrupted repair has changed nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from blake3 import blake3

from piperfs.core.decoding import MALFORMED
from piperfs.core.errors import PiperError
from piperfs.core.ids import TYPES, InodeId
from piperfs.core.operation import Operation, Unseal, decode
from piperfs.store.engine import Engine
from piperfs.store.oplog import SUM
from piperfs.store.store import Store
from piperfs.store.tables import Table

V = TypeVar("V")

# Tables that nothing else could tell, copied row by row.
COPIED: Final = (
    "meta", "local", "history", "digest", "peer", "member", "fork", "held", "ahead", "author",
    "offence",
)  # fmt: skip
BATCH: Final = 256


@dataclass(slots=True)
class Salvage:
    """What a repair saved and what it had to leave to peers."""

    operations: int = 0
    chunks: int = 0
    lost_operations: int = 0
    lost_chunks: int = 0
    lost_values: int = 0


def copy_facts(source: Store, target: Engine, salvage: Salvage) -> None:
    """Copy the tables that stand for themselves. Call before a Store opens on `target`."""
    for name in COPIED:
        rows: dict[bytes, bytes | None] = {}
        for key in source.keys(name):
            if (name, key) == ("meta", SUM):
                continue  # counted anew with the operations
            if _opens(getattr(source.tables, name), key):
                rows[key] = source.raw_value(name, key)
            else:
                salvage.lost_values += 1
        target.commit({name: rows})


def rebuild(
    source: Store, target: Store, unseal: Unseal | None, now_ns: int, salvage: Salvage
) -> Iterator[None]:
    """Fill a new store from a damaged one, in steps; a caller may show progress between them."""
    batch: list[Operation] = []
    for operation in _operations(source, unseal, salvage):
        batch.append(operation)
        if len(batch) == BATCH:
            target.adopt(batch, now_ns)
            target.commit(now_ns)
            batch = []
            yield
    target.adopt(batch, now_ns)
    if not target.is_blind:
        target.recompute_times()
    target.commit(now_ns)
    yield from _copy_chunks(source, target, now_ns, salvage)
    _copy_special(source, target)
    target.commit(now_ns)


def _operations(source: Store, unseal: Unseal | None, salvage: Salvage) -> Iterator[Operation]:
    for key in source.keys("envelope"):
        try:
            envelope = source.tables.envelope.get(key)
            yield decode(msgspec.msgpack.encode(envelope), unseal)
            salvage.operations += 1
        except (PiperError, *MALFORMED):
            salvage.lost_operations += 1


def _copy_chunks(source: Store, target: Store, now_ns: int, salvage: Salvage) -> Iterator[None]:
    for key in source.keys("chunk"):
        sealed = source.tables.chunk.get(key)
        if sealed is None or blake3(sealed).digest() != key:
            salvage.lost_chunks += 1
            continue
        target.chunks.put(key, sealed)  # type: ignore[arg-type]
        salvage.chunks += 1
        if salvage.chunks % BATCH == 0:
            target.commit(now_ns)
            yield


def _copy_special(source: Store, target: Store) -> None:
    """Fifos, sockets and device nodes are in no record; they stay with this replica."""
    for key in source.keys("inode"):
        if key[0] not in TYPES and (row := source.tables.inode.get(key)) is not None:
            target.put_special(InodeId(key), row)


def _opens(table: Table[V], key: bytes) -> bool:
    try:
        table.get(key)
    except (PiperError, *MALFORMED):
        return False
    return True
