"""An engine over a damaged file: reads what can be read, believes nothing, writes nothing.

A check and a repair work on it as on any other engine, so neither depends on LMDB's patience with
damaged pages.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sortedcontainers import SortedDict

from piperfs.core.errors import StoreError
from piperfs.store.cells import Cells
from piperfs.store.engine import DATA_FILE, Batch, Engine
from piperfs.store.pages import PageFile, Place, Walk


class SalvageEngine:
    """The rows of all pages of a store that are in order. Raises StoreError if there is no root."""

    def __init__(self, directory: Path, tables: tuple[str, ...]) -> None:
        self._file = PageFile(directory / DATA_FILE)
        self._rows: dict[str, SortedDict[bytes, Place]] = {name: SortedDict() for name in tables}
        walk = Walk()
        for raw, tree in self._file.tables(walk):
            name = raw.decode(errors="replace")
            if name in self._rows:
                self._rows[name].update(self._file.rows(tree, walk))
        self.damage = self._file.check()

    def forget(self, table: str, key: bytes) -> None:
        """Leave out a row whose value turned out to be worthless."""
        self._rows[table].pop(key, None)

    def get(self, table: str, key: bytes) -> bytes | None:
        place = self._rows[table].get(key)
        return None if place is None else self._file.read(place)

    def get_anywhere(self, table: str, key: bytes) -> bytes | None:
        return self.get(table, key)

    def has(self, table: str, key: bytes) -> bool:
        return key in self._rows[table]

    def scan(self, table: str, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        rows = self._rows[table]
        for key in rows.irange(start, end, inclusive=(True, False)):
            yield key, self._file.read(rows[key])

    def keys(self, table: str, start: bytes, end: bytes) -> Iterator[bytes]:
        yield from self._rows[table].irange(start, end, inclusive=(True, False))

    def count(self, table: str) -> int:
        return len(self._rows[table])

    def table_bytes(self, table: str) -> int:
        return sum(place.length for place in self._rows[table].values())

    def bytes_used(self) -> int:
        return (self._file.meta.last_page + 1) * 4096

    def bytes_free(self) -> int:
        return 0

    def free_rows(self) -> Counter[int]:
        return Counter()

    def snapshot(self) -> "SalvageEngine":
        return self

    def commit(self, batch: Batch) -> None:
        del batch
        self.require_unbroken()

    def refresh(self) -> None:
        """It never changes."""

    def renew(self) -> None:
        """It never changes."""

    @property
    def is_failed(self) -> bool:
        return True

    def fail(self, reason: str) -> None:
        """It takes no changes anyway."""

    def require_unbroken(self) -> None:
        raise StoreError("a store that is being checked takes no changes")

    def close(self) -> None:
        self._file.close()


# What a store reads before it can be asked anything, and peers or records tell again, or time makes
# worthless.
NEEDED = (
    "meta", "member", "want", "peer", "bucket", "inode", "conflict", "alias", "pointer", "fork",
    "held", "ahead", "author", "offence",
)  # fmt: skip
# Facts that name a position in this store: without one of them, none means anything.
POSITIONS = (b"store", b"last_lseq", b"log_sum")


def open_salvage(directory: Path, tables: tuple[str, ...], cells: Cells) -> SalvageEngine:
    """Open a store however damaged it is, without the rows that would keep it from opening.

    Raises:
        StoreError: no commit of it can be read at all.
    """
    engine = SalvageEngine(directory, tables)
    for table, key in unreadable(engine, cells):
        engine.forget(table, key)
        engine.damage.append(f"{table} {key.hex()[:24]}: a value does not open")
    if engine.damage:
        for key in POSITIONS:
            engine.forget("meta", key)
    return engine


def unreadable(engine: Engine, cells: Cells) -> list[tuple[str, bytes]]:
    """Rows that would keep a store from opening."""
    found = []
    for table in NEEDED:
        for key, value in engine.scan(table, b"", b"\xff" * 64):
            try:
                cells.open(table.encode() + b"\0" + key, value)
            except StoreError:
                found.append((table, key))
    return found
