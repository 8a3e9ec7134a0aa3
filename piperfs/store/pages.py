"""The store's file page by page, read without LMDB, which trusts every number in it.

LMDB has no checksums, and follows a damaged page number or length into unmapped memory, which ends
the process. This reader believes nothing: it walks all trees with bounds, tells what is wrong, and
hands out the rows of every page that is in order. So a check can look at any file, and a repair
can take out of it what is left.
"""

import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from piperfs.core.errors import StoreError

PAGE_BYTES: Final = 4096
HEADER: Final = Struct("<QHHHH")  # number, pad, flags, lower, upper
HEADER_BYTES: Final = HEADER.size
OVERFLOW: Final = Struct("<QHHI")  # number, pad, flags, pages
NODE: Final = Struct("<HHHH")  # low, high, flags, key bytes
TREE: Final = Struct("<IHHQQQQQ")  # pad, flags, depth, branches, leaves, overflows, entries, root
META: Final = Struct("<IIQQ")  # magic, version, address, map size
ENDS: Final = Struct("<QQ")  # last page, transaction
MAGIC: Final = 0xBEEFC0DE
BRANCH: Final = 1
LEAF: Final = 2
LARGE: Final = 4
IS_META: Final = 8
BIG_DATA: Final = 1
SUB_DATA: Final = 2
NOWHERE: Final = (1 << 64) - 1
DEPTH_MAX: Final = 32


class DamagedPageError(StoreError):
    """A page is not what the page above it says."""


class Tree(NamedTuple):
    """Where a tree begins, and how much there should be of it."""

    depth: int
    branches: int
    leaves: int
    overflows: int
    entries: int
    root: int


class Meta(NamedTuple):
    """A root of everything: one commit."""

    transaction: int
    last_page: int
    free: Tree
    main: Tree


@dataclass(slots=True)
class Count:
    """What a walk through one tree found, in the words of `Tree`."""

    branches: int = 0
    leaves: int = 0
    overflows: int = 0
    entries: int = 0


class Place(NamedTuple):
    """Where a value lies in the file."""

    offset: int
    length: int


@dataclass(slots=True)
class Walk:
    """What a walk through trees came across."""

    used: dict[int, int] = field(default_factory=dict)  # page -> how many pages begin there
    damage: list[str] = field(default_factory=list)


class PageFile:
    """One file, read from its newest sound commit, or from the one given."""

    def __init__(self, path: Path, transaction: int | None = None) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.damage: list[str] = []
        self._pages = os.fstat(self._file).st_size // PAGE_BYTES
        metas = [meta for number in (0, 1) if (meta := self._meta(number)) is not None]
        metas = [meta for meta in metas if transaction in (None, meta.transaction)]
        if not metas:
            os.close(self._file)
            raise StoreError(f"{path} holds no commit that can be read")
        self.meta = max(metas)

    def close(self) -> None:
        os.close(self._file)

    def _meta(self, number: int) -> Meta | None:
        raw = os.pread(self._file, PAGE_BYTES, number * PAGE_BYTES)
        if len(raw) < PAGE_BYTES:
            self.damage.append(f"page {number}: it is missing")
            return None
        _, _, flags, _, _ = HEADER.unpack_from(raw)
        magic, version, _, _ = META.unpack_from(raw, HEADER_BYTES)
        if flags & IS_META == 0 or magic != MAGIC or version != 1:
            self.damage.append(f"page {number}: it is no root of a store")
            return None
        at = HEADER_BYTES + META.size
        free, main = _tree(raw, at), _tree(raw, at + TREE.size)
        last, transaction = ENDS.unpack_from(raw, at + 2 * TREE.size)
        return Meta(transaction, last, free, main)

    def read(self, place: Place) -> bytes:
        """The bytes of a value."""
        return os.pread(self._file, place.length, place.offset)

    def free_pages(self, most: int) -> list[int]:
        """At most about so many pages that the next commit may use, in order.

        Those that the newest commit set free are not among them: it is still read.
        """
        found = array("Q")
        for key, place in self.rows(self.meta.free, Walk()):
            if int.from_bytes(key, "little") >= self.meta.transaction or len(found) > most:
                break
            numbers = place.length // 8 - 1  # after how many there are
            found.frombytes(self.read(place)[8 : 8 * numbers + 8])
        return sorted(found)

    # Walking

    def tables(self, walk: Walk) -> Iterator[tuple[bytes, Tree]]:
        """The named trees."""
        for name, place, flags in self._rows(self.meta.main, walk):
            if flags & SUB_DATA and place.length == TREE.size:
                yield name, _tree(self.read(place), 0)

    def rows(self, tree: Tree, walk: Walk) -> Iterator[tuple[bytes, Place]]:
        """Keys in order with the places of their values; damaged pages are noted and left out."""
        for key, place, _ in self._rows(tree, walk):
            yield key, place

    def _rows(self, tree: Tree, walk: Walk) -> Iterator[tuple[bytes, Place, int]]:
        count, last = Count(), b""
        if tree.root != NOWHERE:
            for key, place, flags in self._below(tree.root, tree.depth, walk, count):
                if tree is not self.meta.free and key <= last:
                    walk.damage.append(f"page {place.offset // PAGE_BYTES}: a key is out of order")
                last = key
                count.entries += 1
                yield key, place, flags
        found = (count.branches, count.leaves, count.overflows, count.entries)
        if found != tree[1:5]:
            walk.damage.append(f"a tree has {found} pages and rows instead of {tree[1:5]}")

    def _below(
        self, number: int, depth: int, walk: Walk, count: Count
    ) -> Iterator[tuple[bytes, Place, int]]:
        try:
            nodes = self._nodes(number, depth, walk)
        except DamagedPageError as damage:
            walk.damage.append(str(damage))
            return
        if depth > 1:
            count.branches += 1
            for _, low, high, flags, _ in nodes:
                yield from self._below(low | high << 16 | flags << 32, depth - 1, walk, count)
            return
        count.leaves += 1
        for offset, low, high, flags, key in nodes:
            try:
                place = self._place(number, offset + len(key), low | high << 16, flags, walk)
            except DamagedPageError as damage:
                walk.damage.append(str(damage))
                continue
            if flags & BIG_DATA:
                count.overflows += _pages_of(place.length)
            yield key, place, flags

    def _nodes(self, number: int, depth: int, walk: Walk) -> list[tuple[int, int, int, int, bytes]]:
        """The nodes of a branch or leaf: where each key begins, its three numbers, its key."""
        raw = self._claim(number, 1, walk)
        own, _, flags, lower, upper = HEADER.unpack_from(raw)
        kind = LEAF if depth == 1 else BRANCH
        if own != number or flags & 0xF != kind or not 0 < depth < DEPTH_MAX:
            raise DamagedPageError(f"page {number}: it is another kind of page than it should be")
        if not HEADER_BYTES <= lower <= upper <= PAGE_BYTES or lower % 2:
            raise DamagedPageError(f"page {number}: its borders are wrong")
        found = []
        for at in range(HEADER_BYTES, lower, 2):
            offset = int.from_bytes(raw[at : at + 2], "little")
            if not upper <= offset <= PAGE_BYTES - NODE.size:
                raise DamagedPageError(f"page {number}: a row lies outside")
            low, high, node_flags, key_bytes = NODE.unpack_from(raw, offset)
            begin = offset + NODE.size
            data = 0 if depth > 1 else 8 if node_flags & BIG_DATA else low | high << 16
            if begin + key_bytes + data > PAGE_BYTES:
                raise DamagedPageError(f"page {number}: a row does not fit")
            found.append((begin, low, high, node_flags, raw[begin : begin + key_bytes]))
        return found

    def _place(self, number: int, offset: int, length: int, flags: int, walk: Walk) -> Place:
        at = number * PAGE_BYTES + offset
        if not flags & BIG_DATA:
            return Place(at, length)
        first = int.from_bytes(self.read(Place(at, 8)), "little")
        pages = _pages_of(length)
        own, _, kind, said = OVERFLOW.unpack_from(self._claim(first, pages, walk))
        if own != first or kind & 0xF != LARGE or said != pages:
            raise DamagedPageError(f"page {first}: it does not hold the large value it should")
        return Place(first * PAGE_BYTES + HEADER_BYTES, length)

    def _claim(self, number: int, pages: int, walk: Walk) -> bytes:
        """The first of some pages, which nobody else may use."""
        last = number + pages - 1
        if not 1 < number <= last <= self.meta.last_page or last >= self._pages:
            raise DamagedPageError(f"page {number}: it is outside of the file")
        if number in walk.used:
            raise DamagedPageError(f"page {number}: it is used twice")
        walk.used[number] = pages
        return os.pread(self._file, PAGE_BYTES, number * PAGE_BYTES)

    # The whole

    def check(self) -> list[str]:
        """Everything that is wrong with the structure of the file."""
        walk = Walk(damage=list(self.damage))
        for _, tree in self.tables(walk):
            for _ in self.rows(tree, walk):
                pass
        taken = {page + n for page, count in walk.used.items() for n in range(count)}
        free: set[int] = set()
        for _, place in self.rows(self.meta.free, walk):
            raw = self.read(place)
            free.update(int.from_bytes(raw[at : at + 8], "little") for at in range(8, len(raw), 8))
        if both := taken & free:
            walk.damage.append(f"page {min(both)}: it is used and free at once")
        if free and max(free) > self.meta.last_page:
            walk.damage.append(f"page {max(free)}: it is free, and outside of the file")
        return walk.damage


def _pages_of(length: int) -> int:
    return (HEADER_BYTES + length + PAGE_BYTES - 1) // PAGE_BYTES


def _tree(raw: bytes, offset: int) -> Tree:
    _, _, depth, branches, leaves, overflows, entries, root = TREE.unpack_from(raw, offset)
    return Tree(depth, branches, leaves, overflows, entries, root)


def rows_in(pages: Sequence[int]) -> Counter[int]:
    """How many rows of pages there are of each length."""
    rows: Counter[int] = Counter()
    length = 0
    for page, following in pairwise((*pages, NOWHERE)):
        length += 1
        if following != page + 1:
            rows[length] += 1
            length = 0
    return rows


def check_file(path: Path, transaction: int | None = None) -> list[str]:
    """What is wrong with the structure of a store's file; empty if all is well."""
    try:
        pages = PageFile(path, transaction)
    except StoreError as error:
        return [str(error)]
    try:
        return pages.check()
    finally:
        pages.close()
