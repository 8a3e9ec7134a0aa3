"""Engines: ordered tables of bytes with atomic, durable commits.

`LmdbEngine` is the real one; `MemoryEngine` serves the simulator and passes the same contract.
The LMDB file always commits with sync on: every lazier setting lost or damaged data under power
cuts, and group commit makes up for the cost. One huge sparse map is opened once, since a resized
map turns outstanding views into crashes.
"""

import errno
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, cast

import lmdb
from sortedcontainers import SortedDict

from piperfs.core.errors import ErrorKind, StoreError

MAP_BYTES: Final = 1 << 44  # 16 TiB of address space, not of disk
TABLES_MAX: Final = 32

Batch: TypeAlias = Mapping[str, Mapping[bytes, bytes | None]]  # table -> key -> value; None deletes


class Engine(Protocol):
    """Ordered key-value tables. Reads see the last `refresh`; `commit` may run in a thread."""

    def get(self, table: str, key: bytes) -> bytes | None: ...

    def get_anywhere(self, table: str, key: bytes) -> bytes | None:
        """Like `get`, from any thread, out of the newest commit."""

    def has(self, table: str, key: bytes) -> bool: ...

    def scan(self, table: str, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end in key order; valid until the next `refresh`."""

    def count(self, table: str) -> int: ...

    def bytes_used(self) -> int: ...

    def snapshot(self) -> "Engine":
        """The newest commit as it is now, to be read by one other thread; close it soon."""

    def commit(self, batch: Batch) -> None:
        """Write all or nothing and return when it is on stable storage. Raises StoreError."""

    def refresh(self) -> None:
        """Let reads see the newest commit."""

    def close(self) -> None: ...


class LmdbEngine:
    """The store's file. Reads belong to one thread; one commit at a time may run in another."""

    def __init__(self, directory: Path, tables: tuple[str, ...]) -> None:
        assert len(tables) <= TABLES_MAX
        directory.mkdir(mode=0o700, exist_ok=True)
        try:
            self._env = lmdb.open(
                str(directory), map_size=MAP_BYTES, max_dbs=TABLES_MAX, mode=0o600, readahead=True
            )
            self._tables = {name: self._env.open_db(name.encode()) for name in tables}
        except lmdb.Error as error:
            raise StoreError(f"cannot open the store in {directory}: {error}") from error
        self._reader: lmdb.Transaction = self._env.begin()
        self._failed: str | None = None

    def get(self, table: str, key: bytes) -> bytes | None:
        return cast(bytes | None, self._reader.get(key, db=self._tables[table]))

    def get_anywhere(self, table: str, key: bytes) -> bytes | None:
        with self._env.begin() as transaction:
            return transaction.get(key, db=self._tables[table])

    def has(self, table: str, key: bytes) -> bool:
        with self._reader.cursor(db=self._tables[table]) as cursor:
            return bool(cursor.set_key(key))

    def scan(self, table: str, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._reader.cursor(db=self._tables[table]) as cursor:
            if not cursor.set_range(start):
                return
            for key, value in cast(Iterator[tuple[bytes, bytes]], iter(cursor)):
                if key >= end:
                    return
                yield key, value

    def count(self, table: str) -> int:
        return int(self._reader.stat(self._tables[table])["entries"])

    def bytes_used(self) -> int:
        """Size of the file, free pages included."""
        return int(self._env.info()["last_pgno"] + 1) * int(self._env.stat()["psize"])

    def snapshot(self) -> "LmdbEngine":
        """The newest commit as it is now, to be read by one other thread; close it soon."""
        copy = object.__new__(_LmdbSnapshot)
        copy._env, copy._tables, copy._failed = self._env, self._tables, "it is a snapshot"
        copy._reader = self._env.begin()
        return copy

    def commit(self, batch: Batch) -> None:
        if self._failed is not None:
            raise StoreError(f"the store stopped taking writes after an error: {self._failed}")
        try:
            with self._env.begin(write=True) as transaction:
                for table, rows in batch.items():
                    _write_rows(transaction, self._tables[table], rows)
        except (lmdb.Error, OSError) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """A failed commit is final: the kernel may have dropped the pages it could not write."""
        full = isinstance(error, lmdb.MapFullError) or str(errno.ENOSPC) in str(error)
        full = full or "No space left" in str(error)
        if not full:
            self._failed = str(error)
        kind = ErrorKind.NO_SPACE if full else ErrorKind.IO
        raise StoreError(f"the store could not commit: {error}", kind) from error

    def refresh(self) -> None:
        self._reader.abort()
        self._reader = self._env.begin()

    def close(self) -> None:
        self._reader.abort()
        self._env.close()


class _LmdbSnapshot(LmdbEngine):
    """Shares the file of another engine, which outlives it."""

    def refresh(self) -> None:
        """A snapshot stays as it is."""

    def close(self) -> None:
        self._reader.abort()


def _write_rows(transaction: lmdb.Transaction, db: Any, rows: Mapping[bytes, bytes | None]) -> None:
    with transaction.cursor(db=db) as cursor:
        for key in sorted(rows):
            value = rows[key]
            if value is not None:
                cursor.put(key, value)
            elif cursor.set_key(key):
                cursor.delete()


class MemoryEngine:
    """Tables in memory for simulations. `durable` is what a crash leaves."""

    def __init__(
        self, tables: tuple[str, ...], on_commit: Callable[[], None] | None = None
    ) -> None:
        self.durable: dict[str, SortedDict[bytes, bytes]] = {name: SortedDict() for name in tables}
        self._on_commit = on_commit

    def get(self, table: str, key: bytes) -> bytes | None:
        return cast(bytes | None, self.durable[table].get(key))

    def get_anywhere(self, table: str, key: bytes) -> bytes | None:
        return self.get(table, key)

    def has(self, table: str, key: bytes) -> bool:
        return key in self.durable[table]

    def scan(self, table: str, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        rows = self.durable[table]
        for key in rows.irange(start, end, inclusive=(True, False)):
            yield key, rows[key]

    def count(self, table: str) -> int:
        return len(self.durable[table])

    def snapshot(self) -> "MemoryEngine":
        copy = MemoryEngine(tuple(self.durable))
        copy.durable = {name: rows.copy() for name, rows in self.durable.items()}
        return copy

    def bytes_used(self) -> int:
        return sum(len(value) for rows in self.durable.values() for value in rows.values())

    def commit(self, batch: Batch) -> None:
        if self._on_commit is not None:
            self._on_commit()  # may raise StoreError, as a full or failing disk does
        for table, rows in batch.items():
            for key, value in rows.items():
                if value is None:
                    self.durable[table].pop(key, None)
                else:
                    self.durable[table][key] = value

    def refresh(self) -> None:
        """Reads always see the newest commit."""

    def close(self) -> None:
        """Nothing to release."""
