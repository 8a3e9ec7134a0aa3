"""Engines: ordered tables of bytes with atomic, durable commits.

`LmdbEngine` is the real one; `MemoryEngine` serves the simulator and passes the same contract.
The LMDB file always commits with sync on: every lazier setting lost or damaged data under power
cuts, and group commit makes up for the cost. One huge sparse map is opened once, since a resized
map turns outstanding views into crashes.
"""

import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, cast

import lmdb
from sortedcontainers import SortedDict

from piperfs.core.errors import ErrorKind, StoreError
from piperfs.store.pages import PAGE_BYTES, PageFile, rows_in

# Address space for the map, not disk: the first that can be had. Some computers have 39 bits of it.
MAP_BYTES: Final = tuple(1 << bits for bits in (44, 38, 36, 34, 32, 30))
TABLES_MAX: Final = 32
DATA_FILE: Final = "data.mdb"
DAMAGED: Final = "the store's file is damaged ({}): run piperfs fsck"
FAILING: Final = "the store is failing: restart it first"
PATH_PAGES: Final = 6  # of a tree, copied when one of its leaves changes
FREE_PAGES_MAX: Final = 1 << 18  # that are looked at: a gigabyte is not short of room
ROW_BYTES: Final = 256  # a key, what LMDB adds, and what a page leaves empty
ERRNO_FULL: Final = {errno.ENOSPC: ErrorKind.NO_SPACE, errno.EFBIG: ErrorKind.NO_SPACE,
                     errno.EDQUOT: ErrorKind.QUOTA}  # fmt: skip

Batch: TypeAlias = Mapping[str, Mapping[bytes, bytes | None]]  # table -> key -> value; None deletes


class Engine(Protocol):
    """Ordered key-value tables. Reads see the last `refresh`; `commit` may run in a thread."""

    def get(self, table: str, key: bytes) -> bytes | None: ...

    def get_anywhere(self, table: str, key: bytes) -> bytes | None:
        """Like `get`, from any thread, out of the newest commit."""

    def has(self, table: str, key: bytes) -> bool: ...

    def scan(self, table: str, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end in key order; valid until the next `refresh`."""

    def keys(self, table: str, start: bytes, end: bytes) -> Iterator[bytes]:
        """The keys that `scan` gives, without touching the values."""

    def count(self, table: str) -> int: ...

    def table_bytes(self, table: str) -> int:
        """About how many bytes a table takes."""

    def bytes_used(self) -> int: ...

    def bytes_free(self) -> int:
        """How much of what is used could be used again, if all of it were of use."""

    def free_rows(self) -> Counter[int]:
        """Rows of free pages that the next commit can use, by length. Takes longer."""

    def snapshot(self) -> "Engine":
        """The newest commit as it is now, to be read by one other thread; close it soon."""

    def renew(self) -> None:
        """Let a snapshot be of the newest commit, so that what was freed meanwhile can be used."""

    def commit(self, batch: Batch) -> None:
        """Write all or nothing and return when it is on stable storage. Raises StoreError."""

    def refresh(self) -> None:
        """Let reads see the newest commit."""

    @property
    def is_failed(self) -> bool:
        """Whether no commit will succeed any more in this process."""

    def fail(self, reason: str) -> None:
        """Take no more commits: somebody else found that they would be lost."""

    def require_unbroken(self) -> None:
        """Raises StoreError, with the reason, if no commit will succeed any more."""

    def close(self) -> None: ...


def _always(count: int) -> bool:
    """There is room for anything."""
    del count
    return True


def _never(count: int) -> bool:
    """Room is nothing to think of."""
    del count
    return False


def _open(directory: Path, *, create: bool) -> lmdb.Environment:
    for map_size in MAP_BYTES:
        with suppress(lmdb.MemoryError):
            return lmdb.open(
                os.fsencode(directory), map_size=map_size, max_dbs=TABLES_MAX, mode=0o600,
                readahead=True, create=create,
            )  # fmt: skip
    raise StoreError(f"{directory} needs more address space than it may have: see ulimit -v")


class LmdbEngine:
    """The store's file. Reads belong to one thread; one commit at a time may run in another.

    `claim_room` is asked before a commit whether the disk has room for so many bytes: LMDB, and
    the kernel below it, report a disk that fills up in the middle of a commit as all kinds of
    errors, some of which cannot be told from a broken disk. `is_tight` tells whether the disk is
    so full that one of them may have been that; room may come back before anybody can look.
    """

    def __init__(
        self,
        directory: Path,
        tables: tuple[str, ...],
        *,
        create: bool = True,
    ) -> None:
        assert len(tables) <= TABLES_MAX
        if create:
            directory.mkdir(mode=0o700, exist_ok=True)
        self.claim_room: Callable[[int], bool] = _always
        self.is_tight: Callable[[int], bool] = _never
        try:
            self._env = _open(directory, create=create)
            self._pad(directory / DATA_FILE)
            self._witness = os.open(directory / DATA_FILE, os.O_RDONLY | os.O_CLOEXEC)
            self._tables = {
                name: self._env.open_db(name.encode(), create=create) for name in tables
            }
        except (lmdb.Error, OSError) as error:
            raise StoreError(f"cannot open the store in {directory}: {error}") from error
        self._reader: lmdb.Transaction = self._env.begin()
        self._spare: lmdb.Transaction = self._env.begin()  # for other threads, after a panic
        self._spare_lock = threading.Lock()
        self._failed: str | None = None
        self._file = directory / DATA_FILE
        self._rows_of: tuple[int, Counter[int]] = (-1, Counter())  # of a commit

    def _pad(self, file: Path) -> None:
        """Let a file that lost its end be as long as it says: zeros are an error, not a crash."""
        length = (int(self._env.info()["last_pgno"]) + 1) * PAGE_BYTES
        if file.stat().st_size < length:
            with file.open("r+b") as data:
                data.truncate(length)

    def get(self, table: str, key: bytes) -> bytes | None:
        try:
            value = self._reader.get(key, db=self._tables[table])
        except lmdb.Error as error:
            raise self._damaged(error) from error
        return cast(bytes | None, value)

    def get_anywhere(self, table: str, key: bytes) -> bytes | None:
        try:
            with self._env.begin() as transaction:
                return transaction.get(key, db=self._tables[table])
        except lmdb.PanicError:  # a commit failed: LMDB begins nothing any more
            with self._spare_lock:
                return cast(bytes | None, self._spare.get(key, db=self._tables[table]))
        except lmdb.Error as error:
            raise StoreError(DAMAGED.format(error)) from error

    def has(self, table: str, key: bytes) -> bool:
        try:
            with self._reader.cursor(db=self._tables[table]) as cursor:
                return bool(cursor.set_key(key))
        except lmdb.Error as error:
            raise self._damaged(error) from error

    def scan(self, table: str, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            with self._reader.cursor(db=self._tables[table]) as cursor:
                if not cursor.set_range(start):
                    return
                for key, value in cast(Iterator[tuple[bytes, bytes]], iter(cursor)):
                    if key >= end:
                        return
                    yield key, value
        except lmdb.Error as error:
            raise self._damaged(error) from error

    def _damaged(self, error: lmdb.Error) -> StoreError:
        """A page of the file is not what it was. The failed reader answers nothing any more."""
        self.refresh()
        return StoreError(DAMAGED.format(error))

    def keys(self, table: str, start: bytes, end: bytes) -> Iterator[bytes]:
        try:
            with self._reader.cursor(db=self._tables[table]) as cursor:
                if not cursor.set_range(start):
                    return
                for key in cast(Iterator[bytes], cursor.iternext(keys=True, values=False)):
                    if key >= end:
                        return
                    yield key
        except lmdb.Error as error:
            raise self._damaged(error) from error

    def table_bytes(self, table: str) -> int:
        stat = self._reader.stat(self._tables[table])
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return int(pages) * PAGE_BYTES

    def count(self, table: str) -> int:
        return int(self._reader.stat(self._tables[table])["entries"])

    def bytes_used(self) -> int:
        """Size of the file, free pages included."""
        return int(self._env.info()["last_pgno"] + 1) * int(self._env.stat()["psize"])

    def bytes_free(self) -> int:
        """Pages of the file that no table uses."""
        tables = [self._reader.stat(db) for db in self._tables.values()]
        used = sum(t["branch_pages"] + t["leaf_pages"] + t["overflow_pages"] for t in tables)
        return max(0, int(self._env.info()["last_pgno"]) - used) * PAGE_BYTES

    def free_rows(self) -> Counter[int]:
        known, rows = self._rows_of
        if known != self.transaction:
            try:
                pages = PageFile(self._file, self.transaction)
            except (StoreError, OSError):
                return Counter()  # a newer commit is being written
            try:
                rows = rows_in(pages.free_pages(FREE_PAGES_MAX))
            finally:
                pages.close()
            self._rows_of = (pages.meta.transaction, rows)
        return rows

    def snapshot(self) -> "LmdbEngine":
        """The newest commit as it is now, to be read by one other thread; close it soon."""
        copy = object.__new__(_LmdbSnapshot)
        copy._env, copy._tables, copy._failed = self._env, self._tables, "it is a snapshot"
        try:
            copy._reader = self._env.begin()
        except lmdb.PanicError as error:
            raise StoreError(FAILING) from error
        return copy

    def renew(self) -> None:
        """Let a snapshot be of the newest commit, so that pages freed meanwhile can be used."""

    @property
    def transaction(self) -> int:
        """The number of the commit that reads see."""
        return int(self._reader.id())

    def commit(self, batch: Batch) -> None:
        self.require_unbroken()
        needed, is_tight = 0, False
        try:
            with self._env.begin(write=True) as transaction:
                needed = self._bytes_needed(transaction, batch)
                if not self.claim_room(needed):
                    raise StoreError("the disk is full", ErrorKind.NO_SPACE)
                is_tight = self.is_tight(needed)
                for table, rows in batch.items():
                    _write_rows(transaction, self._tables[table], rows)
        except (lmdb.Error, OSError) as error:
            self._fail(error, needed, is_tight=is_tight)

    def _bytes_needed(self, transaction: lmdb.Transaction, batch: Batch) -> int:
        """At most how much a commit lets the file grow.

        A page that changes is written anew, so a row may cost a page; but no page costs twice.
        """
        total = 0
        for table, rows in batch.items():
            stat = transaction.stat(self._tables[table])
            pages = int(stat["branch_pages"] + stat["leaf_pages"])
            total += (min(len(rows), pages) + PATH_PAGES) * PAGE_BYTES if rows else 0
            total += sum(_bytes_of(value) for value in rows.values() if value is not None)
        return total

    def _fail(self, error: Exception, needed: int, *, is_tight: bool) -> None:
        """A failed commit is final: the kernel may have dropped the pages it could not write.

        A full disk is the exception, if it was met before the page that makes the commit valid:
        the next try writes every page of it again.
        """
        kind = self._kind_of(error, needed, is_tight=is_tight)
        if kind is ErrorKind.IO or self._is_panicked():
            self._failed = str(error)
        elif kind is ErrorKind.NO_SPACE:
            self.claim_room(MAP_BYTES[0])  # the reserve is given up for the next try
        raise StoreError(f"the store could not commit: {error}", kind) from error

    def _kind_of(self, error: Exception, needed: int, *, is_tight: bool) -> ErrorKind:
        if isinstance(error, lmdb.MapFullError):
            return ErrorKind.NO_SPACE
        code = int((error.errno if isinstance(error, OSError) else getattr(error, "code", 0)) or 0)
        if code == errno.EIO:  # also LMDB's word for a write that the disk took half of
            may_be_full = is_tight or self.is_tight(needed)
            if not self.claim_room(needed) or (may_be_full and self._is_sound()):
                return ErrorKind.NO_SPACE
        return ERRNO_FULL.get(code, ErrorKind.IO)

    def _is_sound(self) -> bool:
        """Whether the kernel lost no page, of which it tells each open file once."""
        try:
            os.fdatasync(self._witness)
        except OSError:
            return False
        return True

    def _is_panicked(self) -> bool:
        try:
            self._env.begin().abort()
        except lmdb.Error:
            return True
        return False

    @property
    def is_failed(self) -> bool:
        """Whether no commit will succeed any more in this process."""
        return self._failed is not None

    def fail(self, reason: str) -> None:
        """Take no more commits: somebody else found that they would be lost."""
        self._failed = self._failed or reason

    def require_unbroken(self) -> None:
        """Raises StoreError, with the reason, if no commit will succeed any more."""
        if self._failed is not None:
            raise _stopped(self._failed)

    def refresh(self) -> None:
        """After a failure readers stay where they are: what they see is sound."""
        if self._failed is None:
            self._reader.abort()
            self._reader = self._env.begin()
            with self._spare_lock:
                self._spare.abort()
                self._spare = self._env.begin()

    def close(self) -> None:
        self._reader.abort()
        self._spare.abort()
        self._env.close()
        os.close(self._witness)


class _LmdbSnapshot(LmdbEngine):
    """Shares the file of another engine, which outlives it."""

    def refresh(self) -> None:
        """A snapshot stays as it is."""

    def renew(self) -> None:
        self._reader.abort()
        try:
            self._reader = self._env.begin()
        except lmdb.PanicError as error:
            raise StoreError(FAILING) from error

    def close(self) -> None:
        self._reader.abort()


def _stopped(reason: str) -> StoreError:
    return StoreError(f"the store stopped taking writes after an error: {reason}")


def _bytes_of(value: bytes) -> int:
    """At most what a value takes: pages of its own, or a share of pages that may be half empty."""
    return len(value) + PAGE_BYTES if len(value) > PAGE_BYTES // 4 else 2 * len(value) + ROW_BYTES


def _write_rows(transaction: lmdb.Transaction, db: Any, rows: Mapping[bytes, bytes | None]) -> None:
    with transaction.cursor(db=db) as cursor:
        cursor.putmulti(sorted((key, value) for key, value in rows.items() if value is not None))
        for key in sorted(key for key, value in rows.items() if value is None):
            if cursor.set_key(key):
                cursor.delete()


class MemoryEngine:
    """Tables in memory for simulations, with the two moments of a commit kept apart.

    `commit` makes a batch durable, `refresh` lets reads see it; a crash between the two loses
    nothing. `before_commit` may raise OSError, as a full or failing disk does.
    """

    def __init__(self, tables: tuple[str, ...]) -> None:
        self._rows: dict[str, SortedDict[bytes, bytes]] = {name: SortedDict() for name in tables}
        self._unseen: list[Batch] = []  # durable, but not refreshed yet
        self.failed: str | None = None
        self.before_commit: Callable[[Batch], None] = lambda _batch: None

    def get(self, table: str, key: bytes) -> bytes | None:
        return cast(bytes | None, self._rows[table].get(key))

    def get_anywhere(self, table: str, key: bytes) -> bytes | None:
        for batch in reversed(self._unseen):
            rows = batch.get(table, {})
            if key in rows:
                return rows[key]
        return self.get(table, key)

    def has(self, table: str, key: bytes) -> bool:
        return key in self._rows[table]

    def scan(self, table: str, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        rows = self._rows[table]
        for key in rows.irange(start, end, inclusive=(True, False)):
            yield key, rows[key]

    def keys(self, table: str, start: bytes, end: bytes) -> Iterator[bytes]:
        return iter(self._rows[table].irange(start, end, inclusive=(True, False)))

    def count(self, table: str) -> int:
        return len(self._rows[table])

    def table_bytes(self, table: str) -> int:
        return sum(map(len, self._rows[table].values()))

    def bytes_used(self) -> int:
        return sum(len(value) for rows in self._rows.values() for value in rows.values())

    def snapshot(self) -> "MemoryEngine":
        """What is durable now; also what a crash leaves, or a copy of the disk holds."""
        copy = MemoryEngine(())
        copy._rows = {name: rows.copy() for name, rows in self._rows.items()}
        copy._unseen = list(self._unseen)
        copy.refresh()
        return copy

    def bytes_free(self) -> int:
        return 0

    def free_rows(self) -> Counter[int]:
        return Counter()

    def renew(self) -> None:
        """A copy holds nothing up."""

    @property
    def is_failed(self) -> bool:
        return self.failed is not None

    def fail(self, reason: str) -> None:
        self.failed = self.failed or reason

    def require_unbroken(self) -> None:
        if self.failed is not None:
            raise _stopped(self.failed)

    def commit(self, batch: Batch) -> None:
        self.require_unbroken()
        try:
            self.before_commit(batch)
        except OSError as error:
            kind = ERRNO_FULL.get(error.errno or 0, ErrorKind.IO)
            if kind is ErrorKind.IO:
                self.failed = str(error)
            raise StoreError(f"the store could not commit: {error}", kind) from error
        self.accept(batch)

    def accept(self, batch: Batch) -> None:
        """The batch is durable from here on, whatever becomes of the program."""
        self._unseen.append(batch)

    def refresh(self) -> None:
        for batch in self._unseen:
            for table, changes in batch.items():
                rows = self._rows[table]
                for key, value in changes.items():
                    if value is None:
                        rows.pop(key, None)
                    else:
                        rows[key] = value
        self._unseen = []

    def damage(self, table: str, key: bytes, value: bytes | None) -> None:
        """Change or lose a durable value behind the store's back, as a failing medium does."""
        if value is None:
            del self._rows[table][key]
        else:
            self._rows[table][key] = value

    def close(self) -> None:
        """Nothing to release."""
