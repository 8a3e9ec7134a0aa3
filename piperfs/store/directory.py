"""Reading directories: lookup and listing, with conflict names worked out on the way.

Directories that share a name act as one (a class). Plain names are rows of the entry table; the
names of conflict copies are not stored but computed for directories that have disputes, which
`Index.disputes` knows, so that the ordinary lookup is a single read.
"""

from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import groupby, islice
from typing import TypeAlias

import msgspec

from piperfs.core import resolve
from piperfs.core.ids import InodeId, is_directory
from piperfs.core.names import CONFLICT_MARK, Entry, Group, Loser, arrange, copy_inode, name_losers
from piperfs.core.record import ContentHead
from piperfs.store.index import Index
from piperfs.store.records import Records
from piperfs.store.rows import Place
from piperfs.store.schema import Tables, after

Listed: TypeAlias = tuple[int, bytes, InodeId]  # cookie, name, inode id
COOKIE_FIRST = 3  # 0 is the start of a directory, 1 and 2 are `.` and `..`


class Found(msgspec.Struct, frozen=True):
    """What a name stands for.

    A plain entry or a losing link has `place`. A losing version of a file has `copy_of`, the file
    it is a version of, and `head`, that version; its inode id is the one it would have as a file
    of its own.
    """

    inode: InodeId
    name: bytes
    place: Place | None = None
    copy_of: InodeId | None = None
    head: ContentHead | None = None


class Directories:
    """The read side of the index for names."""

    def __init__(
        self,
        tables: Tables,
        index: Index,
        root: InodeId,
        records: Records,
    ) -> None:
        self._tables = tables
        self._index = index
        self._root = root
        self._records = records

    def members(self, directory: InodeId) -> tuple[InodeId, ...]:
        """All directories that act as one with `directory`, sorted; usually itself alone."""
        if not self._index.disputes.aliases:
            return (directory,)
        path: list[tuple[InodeId, bytes]] = []
        inode = directory
        while (row := self._tables.inode.get(inode)) is not None and row.links:
            path.append((inode, row.links[0].name))
            inode = row.links[0].parent
        members: tuple[InodeId, ...] = (inode,)
        for below, name in reversed(path):
            same = {e.target for m in members for e in self._group(m, name)}
            members = tuple(sorted(filter(is_directory, same | {below})))
        return members

    def lookup(self, directory: InodeId, name: bytes) -> Found | None:
        members = self.members(directory)
        group = self._arranged(members, name)
        if group.directories:
            inode = group.directories[0]
            row = self._tables.inode.get(inode)
            return Found(inode, name, place=row.links[0] if row and row.links else None)
        if group.primary is not None:
            return _found(group.primary, name)
        if CONFLICT_MARK not in name:
            return None
        if len(members) > 1 or directory in self._index.disputes.names:
            return self.conflict_entries(members).get(name)
        return None

    def arranged(self, directory: InodeId, name: bytes) -> Group:
        """All links that claim the name in the directory's class, in order."""
        return self._arranged(self.members(directory), name)

    def list_directory(
        self,
        directory: InodeId,
        after_cookie: int,
        limit: int,
        copies: Sequence[Listed] | None = None,
    ) -> list[Listed]:
        """Up to `limit` entries beyond a cookie, in the order of cookies.

        A cookie is 63 bits of the name's keyed hash, so it neither moves nor is used twice while
        entries come and go. `copies` is what `list_copies` said when the listing began.
        """
        members = self.members(directory)
        copies = self._copies(members) if copies is None else copies
        plain = islice(self._plain(members, after_cookie), limit)
        extra = [copy for copy in copies if copy[0] > after_cookie]
        return sorted([*plain, *extra])[:limit] if extra else list(plain)

    def list_copies(self, directory: InodeId) -> list[Listed]:
        """The conflict copies among the entries: worked out once for a whole listing."""
        return self._copies(self.members(directory))

    def _copies(self, members: tuple[InodeId, ...]) -> list[Listed]:
        if len(members) == 1 and members[0] not in self._index.disputes.names:
            return []
        entries = self.conflict_entries(members)
        return [(self._cookie_of(name), name, found.inode) for name, found in entries.items()]

    def _plain(self, members: tuple[InodeId, ...], after_cookie: int) -> Iterator[Listed]:
        """Names that are rows, each once, however many of the members have it."""
        start = _position(after_cookie)
        scans = [self._tables.entry.scan(member + start, after(member)) for member in members]
        rows = scans[0] if len(scans) == 1 else merge(*scans, key=_name_hash)
        for name_hash, same in groupby(rows, key=_name_hash):
            cookie = _cookie(name_hash)
            if cookie <= after_cookie:
                continue
            entries = [entry for _, group in same for entry in group]
            name = entries[0].name
            several = len(entries) > 1
            yield cookie, name, _winner(arrange(name, entries)) if several else entries[0].target

    def is_empty(self, directory: InodeId) -> bool:
        rows = (self._tables.inode.get(member) for member in self.members(directory))
        return not any(row is not None and row.entries for row in rows)

    def conflict_entries(self, members: tuple[InodeId, ...]) -> dict[bytes, Found]:
        """The conflict copies of one directory class by the names they are shown under."""
        losers = self._named_losers(members)
        return {name: msgspec.structs.replace(found, name=name) for name, found in losers.items()}

    def _named_losers(self, members: tuple[InodeId, ...]) -> dict[bytes, Found]:
        """The same; each `Found.name` is the name that is disputed."""
        losers: dict[Loser, Found] = {}
        for name in self._disputed_names(members):
            losers.update(self._losers(members, name))
        named = name_losers(list(losers), lambda name: self._arranged_any(members, name))
        return {name: losers[loser] for name, loser in named.items()}

    def conflicts(self) -> Iterator[tuple[InodeId, bytes, bytes, Found]]:
        """Every conflict copy of the volume: directory, disputed name, shown name, copy."""
        for members in self._disputed_classes():
            for shown, found in sorted(self._named_losers(members).items()):
                copy = msgspec.structs.replace(found, name=shown)
                yield members[0], found.name, shown, copy

    def _disputed_classes(self) -> Iterator[tuple[InodeId, ...]]:
        """Directories with marked disputes, and all that are several: members dispute names."""
        waiting = [
            self.members(InodeId(key[:16]))
            for key, _ in self._tables.conflict.scan(b"", after(b"d"))
        ]
        waiting += [
            self.arranged(InodeId(key[:16]), name).directories
            for key, name in self._tables.alias.scan(b"", after(b"d"))
        ]
        seen: set[tuple[InodeId, ...]] = set()
        while waiting:
            members = waiting.pop()
            if members in seen:
                continue
            seen.add(members)
            yield members
            if len(members) > 1:
                groups = (self._arranged(members, n) for n in self._disputed_names(members))
                waiting += [g.directories for g in groups if len(g.directories) > 1]

    def _group(self, directory: InodeId, name: bytes) -> tuple[Entry, ...]:
        return self._tables.entry.get(self._index.entry_key(directory, name)) or ()

    def _arranged_any(self, members: tuple[InodeId, ...], name: bytes) -> bool:
        return any(self._group(member, name) for member in members)

    def _arranged(self, members: tuple[InodeId, ...], name: bytes) -> Group:
        if len(members) == 1:
            return arrange(name, self._group(members[0], name))
        return arrange(name, [e for member in members for e in self._group(member, name)])

    def _disputed_names(self, members: tuple[InodeId, ...]) -> list[bytes]:
        if len(members) == 1:
            directory = members[0]
            return [name for _, name in self._tables.conflict.scan(directory, after(directory))]
        marked = {
            name
            for member in members
            for _, name in self._tables.conflict.scan(member, after(member))
        }
        return sorted(marked | self._shared_names(members))

    def _shared_names(self, members: tuple[InodeId, ...]) -> set[bytes]:
        """Names that more than one of the members have."""
        scans = [self._tables.entry.keys(member, after(member)) for member in members]
        before = b""
        shared: set[bytes] = set()
        for key in merge(*scans, key=_hash_of):
            if key[16:] == before:
                shared.update(entry.name for entry in self._tables.entry.get(key) or ())
            before = key[16:]
        return shared

    def _losers(self, members: tuple[InodeId, ...], name: bytes) -> Iterator[tuple[Loser, Found]]:
        group = self._arranged(members, name)
        for entry in group.losers:
            loser = Loser(entry.link, entry.hlc, entry.replica, name)
            yield loser, _found(entry, name)
        shown = (group.primary, *group.losers) if group.primary else group.losers
        for entry in shown:
            yield from self._lost_versions(entry, name)

    def _lost_versions(self, entry: Entry, name: bytes) -> Iterator[tuple[Loser, Found]]:
        row = self._tables.inode.get(entry.target)
        if row is None or not row.copies or row.links[0].link != entry.link:
            return
        for head in resolve.conflict_copies(self._records.contents(entry.target)):
            loser = Loser(entry.link, head.hlc, head.replica, name, resolve.digest_of(head))
            inode = copy_inode(entry.target, loser)
            yield loser, Found(inode, name, copy_of=entry.target, head=head)

    def _cookie_of(self, name: bytes) -> int:
        return _cookie(self._index.entry_key(InodeId(b""), name))


def _found(entry: Entry, name: bytes) -> Found:
    return Found(entry.target, name, place=_place(entry))


def _place(entry: Entry) -> Place:
    # An entry's parent is known to whoever looked it up; the link record has it in any case.
    return Place(entry.link, InodeId(b""), entry.name, entry.hlc, entry.replica)


def _winner(group: Group) -> InodeId:
    if group.directories:
        return group.directories[0]
    assert group.primary is not None
    return group.primary.target


def _hash_of(key: bytes) -> bytes:
    return key[16:]


def _name_hash(row: tuple[bytes, object]) -> bytes:
    return row[0][16:]


def _cookie(name_hash: bytes) -> int:
    return max(COOKIE_FIRST, int.from_bytes(name_hash[:8], "big") >> 1)


def _position(cookie: int) -> bytes:
    """The least name hash that may have a greater cookie."""
    return b"" if cookie < COOKIE_FIRST else (cookie << 1).to_bytes(8, "big")
