"""Consistency check: walks the whole store and yields what is wrong, as values.

Nothing is changed here; `repair.py` builds a new store from what is in order. Values that do not
open, chunks that do not match their name, and rows that contradict one another are all that can
go wrong below this layer.
"""

import enum
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import msgspec
from blake3 import blake3

from piperfs.core.decoding import MALFORMED
from piperfs.core.errors import PiperError
from piperfs.core.ids import OperationId
from piperfs.core.merge import is_covered
from piperfs.core.record import Kind
from piperfs.store.audit import mismatches
from piperfs.store.oplog import MODULUS, lseq_key
from piperfs.store.schema import NAMES
from piperfs.store.store import Store

END: Final = b"\xff" * 64
SLICE_ROWS: Final = 256  # looked at between two snapshots: some ten milliseconds


class Damage(enum.Enum):
    """Kinds of damage, with the text a person reads."""

    VALUE = "a value does not open: a bit of the disk changed"
    CHUNK = "a chunk does not match its name"
    ABSENT = "a version needs a chunk that is neither here nor asked for"
    HEADS = "a record keeps a version that another one covers"
    LOG = "a record refers to an operation that is not in the log"
    COUNT = "the log counts an operation's versions wrongly"
    VIEW = "the index shows it otherwise than its records say"
    BUCKET = "a fingerprint of the log is wrong"


class Finding(msgspec.Struct, frozen=True):
    """One piece of damage: what, in which table, under which key."""

    damage: Damage
    table: str
    key: bytes

    def __str__(self) -> str:
        return f"{self.table} {self.key.hex()[:24]}: {self.damage.value}"


def check_store(store: Store) -> Iterator[Finding]:
    """Everything that is wrong with a store that nobody changes meanwhile."""
    yield from check_values(store, _keep)
    yield from check_rules(store)


def _keep() -> None:
    """Nobody waits for the pages that this snapshot holds."""


def check_values(store: Store, renew: Callable[[], None]) -> Iterator[Finding]:
    """Open every value and hash every chunk; each is right or wrong by itself.

    This takes as long as the disk takes to read, so the snapshot is given up for a newer one at
    every step: as long as one is held, no page that is freed can be used again, and the file grows
    with everything that is written.
    """
    for name in NAMES:
        if name != "chunk":
            for table_key in _renewing(store.keys(name), renew):
                if not _opens(partial(getattr(store.tables, name).get, table_key)):
                    yield Finding(Damage.VALUE, name, table_key)
    for key in _renewing(store.keys("chunk"), renew):
        sealed = store.tables.chunk.get(key)
        if sealed is not None and blake3(sealed).digest() != key:
            yield Finding(Damage.CHUNK, "chunk", key)


def _renewing(keys: list[bytes], renew: Callable[[], None]) -> Iterator[bytes]:
    for count, key in enumerate(keys, 1):
        yield key
        if count % SLICE_ROWS == 0:
            renew()


def check_rules(store: Store) -> Iterator[Finding]:
    """What must hold between rows of one moment. Costs a look at all metadata."""
    yield from _check_records(store)
    yield from _check_buckets(store)
    if not store.is_blind:
        yield from _check_view(store)


def _opens(read: Callable[[], object]) -> bool:
    try:
        read()
    except (PiperError, *MALFORMED):
        return False
    return True


def _check_records(store: Store) -> Iterator[Finding]:
    """Heads are pairwise incomparable, and the log holds exactly their operations."""
    live: Counter[OperationId] = Counter()
    for kind, table in store.tables.records.items():
        for key in store.keys(table.name):
            try:
                heads = store.heads(kind, key)
            except PiperError:
                continue  # reported by _check_values
            live.update(head.operation for head in heads)
            if any(is_covered(head, other) for head in heads for other in heads):
                yield Finding(Damage.HEADS, table.name, key)
            if kind is Kind.CONTENT:
                yield from _check_presence(store, key)
    yield from _check_log(store, live)


def _check_log(store: Store, live: Counter[OperationId]) -> Iterator[Finding]:
    for operation, count in live.items():
        try:
            row = store.tables.operation.get(operation)
        except PiperError:
            continue  # reported by _check_values
        if row is None or not store.tables.envelope.has(lseq_key(row.lseq)):
            yield Finding(Damage.LOG, "operation", operation)
        elif row.live != count:
            yield Finding(Damage.COUNT, "operation", operation)
    for key in store.keys("operation"):
        if OperationId(key) not in live:
            yield Finding(Damage.COUNT, "operation", key)
    yield from _check_dots(store)


def _check_dots(store: Store) -> Iterator[Finding]:
    """Numbers of authors lead to live operations."""
    for key in store.keys("dot"):
        try:
            operation = store.log.under(key)
        except PiperError:
            continue  # reported by check_values
        if operation is not None and not store.tables.operation.has(operation):
            yield Finding(Damage.LOG, "dot", key)


def _check_presence(store: Store, key: bytes) -> Iterator[Finding]:
    for head in store.heads(Kind.CONTENT, key):
        for chunk in head.refs if getattr(head.body, "alive", False) else ():
            if not store.chunks.has(chunk) and not store.chunks.is_wanted(chunk):
                yield Finding(Damage.ABSENT, "content", key)
                return


def _check_buckets(store: Store) -> Iterator[Finding]:
    counts: Counter[bytes] = Counter()
    totals: Counter[bytes] = Counter()
    for key in store.keys("operation"):
        counts[key[:2]] += 1
        totals[key[:2]] += int.from_bytes(key, "big")
    for prefix in {*counts, *store.keys("bucket")}:
        bucket = store.tables.bucket.get(prefix)
        found = (bucket.count, int.from_bytes(bucket.total, "big")) if bucket else (0, 0)
        if found != (counts[prefix], totals[prefix] % MODULUS):
            yield Finding(Damage.BUCKET, "bucket", prefix)


def _check_view(store: Store) -> Iterator[Finding]:
    """Only of records that open: damage is reported by what found it first."""
    try:
        differing = list(mismatches(store))
    except (PiperError, *MALFORMED):
        return
    except (
        LookupError,
        ValueError,
        AssertionError,
    ):  # of rows that need one another, some are gone
        differing = [store.root]
    for inode in differing:
        yield Finding(Damage.VIEW, "inode", inode)
