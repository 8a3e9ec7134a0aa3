"""Reading directories: lookup and listing, with conflict names worked out on the way.

Directories that share a name act as one (a class). Plain names are rows of the entry table; the
names of conflict copies are not stored but computed for directories that have disputes, which
`Index.disputes` knows, so that the ordinary lookup is a single read.
"""

from collections.abc import Iterator

import msgspec

from piperfs.core import resolve
from piperfs.core.ids import InodeId, is_directory
from piperfs.core.names import Entry, Group, Loser, arrange, copy_inode, name_losers
from piperfs.core.record import ContentHead
from piperfs.store.index import Index
from piperfs.store.records import Records
from piperfs.store.rows import Place
from piperfs.store.schema import Tables, after

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
        if len(members) > 1 or directory in self._index.disputes.names:
            return self.conflict_entries(members).get(name)
        return None

    def arranged(self, directory: InodeId, name: bytes) -> Group:
        """All links that claim the name in the directory's class, in order."""
        return self._arranged(self.members(directory), name)

    def list_directory(
        self, directory: InodeId, after_cookie: int, limit: int
    ) -> list[tuple[int, bytes, InodeId]]:
        """Up to `limit` entries beyond a cookie: (cookie, name, inode id) in cookie order.

        A cookie is 63 bits of the name's keyed hash, so it neither moves nor is used twice while
        entries come and go.
        """
        members = self.members(directory)
        if len(members) > 1:
            return self._list_class(members, after_cookie, limit)
        listed = []
        start = directory + _position(after_cookie)
        for key, entries in self._tables.entry.scan(start, after(directory)):
            cookie = _cookie(key[16:])
            if cookie <= after_cookie:
                continue
            group = arrange(entries[0].name, entries) if len(entries) > 1 else None
            target = entries[0].target if group is None else _winner(group)
            listed.append((cookie, entries[0].name, target))
            if len(listed) == limit:
                break
        if directory in self._index.disputes.names:
            extra = self._virtual(members, after_cookie)
            listed = sorted([*listed, *extra])[:limit]
        return listed

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
        names = {
            entry.name
            for member in members
            for _, group in self._tables.entry.scan(member, after(member))
            for entry in group
        }
        return sorted(names)

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

    def _list_class(
        self, members: tuple[InodeId, ...], after_cookie: int, limit: int
    ) -> list[tuple[int, bytes, InodeId]]:
        names = self._disputed_names(members)
        plain = [
            (self._cookie_of(name), name, _winner(self._arranged(members, name))) for name in names
        ]
        listed = [item for item in plain if item[0] > after_cookie]
        return sorted([*listed, *self._virtual(members, after_cookie)])[:limit]

    def _virtual(
        self, members: tuple[InodeId, ...], after_cookie: int
    ) -> list[tuple[int, bytes, InodeId]]:
        entries = self.conflict_entries(members)
        found = [(self._cookie_of(name), name, entry.inode) for name, entry in entries.items()]
        return [item for item in found if item[0] > after_cookie]

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


def _cookie(name_hash: bytes) -> int:
    return max(COOKIE_FIRST, int.from_bytes(name_hash[:8], "big") >> 1)


def _position(cookie: int) -> bytes:
    """The least name hash that may have a greater cookie."""
    return b"" if cookie < COOKIE_FIRST else (cookie << 1).to_bytes(8, "big")
