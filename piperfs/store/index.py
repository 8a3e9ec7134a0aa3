"""The index: the view of `core.view`, kept up to date record by record.

After a record changed, the inode it belongs to is evaluated anew from its heads and the
difference to its old row is applied to the directories it hangs in. A directory is evaluated
again when it gains its first or loses its last entry, because a removed directory stays alive
while anything alive hangs in it. Moves of directories that could close a cycle, which are rare,
recompute the pointers of all directories by the specification itself.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from piperfs.core import cycles, resolve
from piperfs.core.ids import ORPHANS, InodeId, LinkId, ReplicaId, is_directory, is_symlink
from piperfs.core.moments import moments, newest_moments
from piperfs.core.names import Entry
from piperfs.core.record import AnyHead, Birth, ContentHead, Kind, LinkHead
from piperfs.store.cells import Cells
from piperfs.store.changes import ChangeSet
from piperfs.store.records import Records
from piperfs.store.rows import InodeRow, Place, XattrsRow, XattrValue
from piperfs.store.schema import Tables, after
from piperfs.store.tables import Table

NOBODY = Birth(0o755, "", "")
BLANK = InodeRow(0o755, "", "", ReplicaId(b""))


@dataclass(slots=True)
class Disputes:
    """How many names are disputed in which directory, and shared by directories anywhere."""

    names: dict[InodeId, int] = field(default_factory=dict)
    aliases: int = 0

    def count(self, parent: InodeId, step: int) -> None:
        self.names[parent] = self.names.get(parent, 0) + step
        if not self.names[parent]:
            del self.names[parent]


class Index:
    """Keeps inode rows, directory entries and conflict marks equal to the view."""

    def __init__(self, tables: Tables, cells: Cells, root: InodeId, records: Records) -> None:
        self._tables = tables
        self._cells = cells
        self._root = root
        self._records = records
        self._unsettled: list[InodeId] = []
        self.changes = ChangeSet()
        self.disputes = Disputes()
        for key, _ in tables.conflict.scan(b"", after(b"d")):
            self.disputes.count(InodeId(key[:16]), 1)
        self.disputes.aliases = sum(1 for _ in tables.alias.scan(b"", after(b"d")))
        self._has_pointers = any(True for _ in tables.pointer.scan(b"", after(b"d")))
        row = tables.inode.get(root)
        self.founded_ns = 0 if row is None else row.born_ns
        if row is None:
            tables.inode.put(root, BLANK)

    def entry_key(self, parent: InodeId, name: bytes) -> bytes:
        return parent + self._cells.name_hash(name)

    def refresh(self, inode: InodeId, links: Iterable[LinkId] = ()) -> None:
        """Evaluate an inode whose records changed; `links` are link records that name it."""
        if is_directory(inode):
            self._refresh_directory(inode)
        else:
            self._refresh_leaf(inode, links)
        while self._unsettled:
            self._place_directory(self._unsettled.pop())

    def refresh_xattr(self, inode: InodeId, key: bytes) -> None:
        """Take over one extended attribute from its record."""
        row = self._tables.xattrs.get(inode) or XattrsRow({})
        heads = self._records.xattr(key)
        newest = max(heads, key=lambda head: head.stamp)
        values = dict(row.values)
        values.pop(newest.body.name, None)
        if newest.body.value is not None:
            values[newest.body.name] = XattrValue(newest.body.value, newest.replica)
        stamps = {**row.stamps, newest.body.name: max(head.hlc for head in heads)}
        self._tables.xattrs.put(inode, XattrsRow(values, stamps))
        self.refresh(inode)

    def _refresh_leaf(self, inode: InodeId, link_ids: Iterable[LinkId]) -> None:
        old = self._tables.inode.get(inode)
        known = {*link_ids}
        if old is not None:
            known.update(place.link for place in old.links)
            known.update(old.hidden)
        links = self._links_to(inode, known)
        contents = self._records.contents(inode)
        if not links and not contents:
            self._forget(inode, old)
            return
        shown = resolve.shown_links(contents, links)
        places = tuple(_place(link, resolve.current_link(links[link])) for link in shown)
        if resolve.is_nameless(contents, links):
            places = (_lost(inode),)
        hidden = tuple(sorted(link for link in links if link not in shown))
        row = self._leaf_row(inode, contents, links)
        row = replace(row, links=places, hidden=hidden)
        if row == old:
            return
        self._tables.inode.put(inode, row)
        self._note(inode, old, row)
        self._move_leaf(inode, old.links if old else (), places)
        if row.copies or (old is not None and old.copies):
            for place in (*places, *(old.links if old else ())):
                self._mark(place.parent, place.name)

    def _links_to(
        self, inode: InodeId, known: Iterable[LinkId]
    ) -> dict[LinkId, tuple[LinkHead, ...]]:
        found = {}
        for link in known:
            heads = self._records.links(link)
            if heads and resolve.current_link(heads).body.target == inode:
                found[link] = heads
        return found

    def _leaf_row(
        self,
        inode: InodeId,
        contents: tuple[ContentHead, ...],
        links: Mapping[LinkId, tuple[LinkHead, ...]],
    ) -> InodeRow:
        if not contents:
            return BLANK
        winner = resolve.current_content(contents)
        attributes = self._records.attributes(inode)
        effective = resolve.effective_attributes(winner.body.birth, attributes)
        xattrs = self._tables.xattrs.get(inode)
        stamps = [head.hlc for head in contents] + [head.hlc for head in attributes]
        stamps += [head.hlc for heads in links.values() for head in heads]
        return InodeRow(
            effective.mode,
            effective.owner,
            effective.group,
            ReplicaId(effective.owner_set_by),
            size=len(winner.body.target) if is_symlink(inode) else winner.body.size,
            mtime_ns=resolve.file_mtime(winner, effective.times),
            ctime_ns=max(*stamps, xattrs.changed_ns if xattrs else 0),
            copies=len(resolve.conflict_copies(contents)),
            data_bytes=sum(length for length in winner.body.lengths if length > 0),
            born_ns=winner.body.birth.born_ns,
        )

    def _note(self, inode: InodeId, old: InodeRow | None, row: InodeRow) -> None:
        self.changes.attributes.add(inode)
        if old is None or (old.size, old.mtime_ns) != (row.size, row.mtime_ns):
            self.changes.content.add(inode)

    def note_content(self, inode: InodeId) -> None:
        """A content record changed: whatever caches data of it must look again."""
        self.changes.content.add(inode)

    def _move_leaf(
        self,
        inode: InodeId,
        before: tuple[Place, ...],
        now: tuple[Place, ...],
    ) -> None:
        if before == now:
            return
        for place in before:
            if place not in now:
                self._detach(place, inode)
        for place in now:
            if place not in before:
                self._attach(place, inode)

    def _forget(self, inode: InodeId, old: InodeRow | None) -> None:
        """Nothing is known of the inode any more: it was never published, and deleted."""
        if old is None:
            return
        for place in old.links:
            self._detach(place, inode)
        self._tables.inode.delete(inode)
        self.changes.attributes.add(inode)

    # Directories

    def _refresh_directory(self, inode: InodeId) -> None:
        old = self._tables.inode.get(inode)
        heads = self._records.links(inode)
        attributes = self._records.attributes(inode)
        is_parent = old is not None and old.entries
        if not (heads or attributes or is_parent or inode == self._root):
            self._forget(inode, old)
            return
        birth = resolve.current_link(heads).body.birth if heads else None
        if inode == self._root:
            birth = replace(NOBODY, born_ns=self.founded_ns)
        effective = resolve.effective_attributes(birth or NOBODY, attributes)
        xattrs = self._tables.xattrs.get(inode)
        base = old or BLANK
        stamps = [head.hlc for head in heads] + [head.hlc for head in attributes]
        times = effective.times
        born = birth.born_ns if birth else 0
        changed = max(base.changed_ns, born)
        explicit = times is not None and times.stamp.hlc >= changed
        row = replace(
            base,
            mode=effective.mode,
            owner=effective.owner,
            group=effective.group,
            owner_set_by=ReplicaId(effective.owner_set_by),
            times_ns=times.stamp.hlc if times else 0,
            mtime_ns=times.mtime_ns if times is not None and explicit else changed,
            ctime_ns=max(changed, xattrs.changed_ns if xattrs else 0, *stamps, 0),
            born_ns=born,
        )
        if row != old:
            self._tables.inode.put(inode, row)
            self.changes.attributes.add(inode)
        if heads and self._may_close_a_cycle(inode, old, heads):
            self._rearrange()
        self._place_directory(inode)

    def _parent_of(self, inode: InodeId) -> InodeId | None:
        """Where a directory hangs, alive or not; None for roots and unknown ones."""
        heads = self._records.links(inode)
        if not heads or inode in (self._root, ORPHANS):
            return None
        options = cycles.places(heads)
        pointer = self._tables.pointer.get(inode) or 0
        return options[pointer][0] if pointer < len(options) else ORPHANS

    def _may_close_a_cycle(
        self, inode: InodeId, old: InodeRow | None, heads: tuple[LinkHead, ...]
    ) -> bool:
        if self._has_pointers:
            return True
        above = resolve.current_link(heads).body.parent
        row = self._tables.inode.get(above)
        if old is None and (above == self._root or (row is not None and row.links)):
            return False  # nothing hangs in a new directory, and its parent hangs somewhere
        ancestor = self._parent_of(inode)
        steps = 0
        while ancestor is not None and ancestor != inode and steps < 1 << 16:
            ancestor, steps = self._parent_of(ancestor), steps + 1
        return ancestor is not None

    def _rearrange(self) -> None:
        """Recompute all fall-back pointers and move the directories whose pointer changed."""
        candidates = {}
        for key in self._directory_keys():
            heads = self._records.links(key)
            if heads and key not in (self._root, ORPHANS):
                candidates[InodeId(key)] = cycles.places(heads)
        pointers = cycles.break_cycles(candidates)
        known = dict(self._tables.pointer.scan(b"", after(b"d")))
        for key in known.keys() | pointers.keys():
            inode = InodeId(key)
            if known.get(key) == pointers.get(inode):
                continue
            if inode in pointers:
                self._tables.pointer.put(key, pointers[inode])
            else:
                self._tables.pointer.delete(key)
            self._unsettled.append(inode)
        self._has_pointers = bool(pointers)

    def _directory_keys(self) -> Iterable[bytes]:
        for key, row in list(self._tables.inode.scan(b"d", after(b"d"))):
            del row
            yield key

    def _place_directory(self, inode: InodeId) -> None:
        """Attach a living directory where it belongs, detach a dead one."""
        row = self._tables.inode.get(inode)
        if row is None or inode in (self._root, ORPHANS):
            return
        heads = self._records.links(inode)
        place, alive = self._wanted_place(inode, heads)
        wanted = (place,) if alive or row.entries else ()
        if wanted == row.links:
            return
        self._tables.inode.put(inode, replace(row, links=wanted))
        self.changes.attributes.add(inode)
        for old in row.links:
            self._detach(old, inode)
        if wanted:
            self._attach(place, inode)
        if row.links and row.links[0].parent != place.parent:
            self.changes.content.add(inode)  # its listing says what is above it

    def _wanted_place(self, inode: InodeId, heads: tuple[LinkHead, ...]) -> tuple[Place, bool]:
        """A directory that is only known as a parent hangs among the orphans, named by its id."""
        lost = _lost(inode)
        if not heads:
            return lost, False
        winner = resolve.current_link(heads)
        parent = self._parent_of(inode)
        if parent is None or parent == ORPHANS:
            return replace(lost, hlc=winner.hlc, replica=winner.replica), winner.body.alive
        return replace(_place(LinkId(inode), winner), parent=parent), winner.body.alive

    # Entries

    def attach_special(self, inode: InodeId, row: InodeRow) -> None:
        """Show a node that lives on this replica only (fifo, socket, device)."""
        self._tables.inode.put(inode, row)
        for place in row.links:
            self._attach(place, inode)
        self._settle()

    def move_special(self, inode: InodeId, links: tuple[Place, ...], now: int) -> None:
        """Give a node of this replica other links; with none it is gone."""
        old = self._tables.inode.get(inode)
        assert old is not None
        for place in old.links:
            if place not in links:
                self._detach(place, inode)
        if links:
            self._tables.inode.put(inode, replace(old, links=links, ctime_ns=now))
        else:
            self._tables.inode.delete(inode)
        for place in links:
            if place not in old.links:
                self._attach(place, inode)
        self._settle()

    def change_special(self, inode: InodeId, row: InodeRow) -> None:
        """Give a node of this replica other attributes, its links being the same."""
        self._tables.inode.put(inode, row)

    def _settle(self) -> None:
        while self._unsettled:
            self._place_directory(self._unsettled.pop())

    def _attach(self, place: Place, target: InodeId) -> None:
        key = self.entry_key(place.parent, place.name)
        group = self._tables.entry.get(key) or ()
        entry = Entry(place.link, target, place.name, place.hlc, place.replica)
        self._tables.entry.put(key, (*group, entry))
        self._count(place.parent, 1, target)
        if group:
            self._mark(place.parent, place.name)
        self.changes.entries.add((place.parent, place.name))

    def _detach(self, place: Place, target: InodeId) -> None:
        key = self.entry_key(place.parent, place.name)
        group = self._tables.entry.get(key) or ()
        # A link that changed hands may already stand here for its new target.
        left = tuple(e for e in group if (e.link, e.target) != (place.link, target))
        if left:
            self._tables.entry.put(key, left)
        else:
            self._tables.entry.delete(key)
        self._count(place.parent, -1, target)
        if len(group) > 1 or place.parent in self.disputes.names:
            self._mark(place.parent, place.name)
        self.changes.entries.add((place.parent, place.name))

    def _count(self, parent: InodeId, step: int, target: InodeId) -> None:
        row = self._tables.inode.get(parent) or self._blank(parent)
        row = replace(
            row,
            entries=row.entries + step,
            subdirs=row.subdirs + (step if is_directory(target) else 0),
        )
        self._tables.inode.put(parent, row)
        self.changes.attributes.add(parent)
        if row.entries <= 1:  # it may just have gained its first or lost its last entry
            self._unsettled.append(parent)

    def _blank(self, directory: InodeId) -> InodeRow:
        """The row of a directory known by what is in it alone; its attributes may be here too."""
        xattrs = self._tables.xattrs.get(directory)
        return BLANK if xattrs is None else replace(BLANK, ctime_ns=xattrs.changed_ns)

    def note_moments(self, head: AnyHead) -> None:
        """A head came: the directories whose entries it changed are that new."""
        for directory, moment in moments(head):
            self.touch(directory, moment)

    def touch(self, directory: InodeId, when: int) -> None:
        """The directory's entries changed at a moment, which may not be the newest."""
        row = self._tables.inode.get(directory) or self._blank(directory)
        if when > row.changed_ns:
            mtime = when if when > max(row.times_ns, row.born_ns) else row.mtime_ns
            ctime = max(row.ctime_ns, when)
            row = replace(row, changed_ns=when, mtime_ns=mtime, ctime_ns=ctime)
            self._tables.inode.put(directory, row)
            self.changes.attributes.add(directory)

    def recompute_moments(self, directories: Iterable[InodeId]) -> None:
        """Heads were taken out: ask all that are left when these directories changed."""
        wanted = dict.fromkeys(directories, 0)
        for kind in (Kind.LINK, Kind.CONTENT):
            for key in self._records.keys(kind):
                for directory, moment in newest_moments(self._records.heads(kind, key)).items():
                    if moment > wanted.get(directory, moment):
                        wanted[directory] = moment
        for directory, moment in wanted.items():
            row = self._tables.inode.get(directory)
            if row is not None:
                self._tables.inode.put(directory, replace(row, changed_ns=moment))
                self.refresh(directory)
            else:
                self.touch(directory, moment)  # something may yet hang in it again

    def found(self, founded_ns: int) -> None:
        """The volume was made then, and so was its root."""
        self.founded_ns = founded_ns
        row = self._tables.inode.get(self._root)
        if row is not None and row.born_ns != founded_ns:
            self.refresh(self._root)

    def _mark(self, parent: InodeId, name: bytes) -> None:
        """Remember whether the name is disputed, and whether several directories share it."""
        key = self.entry_key(parent, name)
        group = self._tables.entry.get(key) or ()
        directories = sum(1 for entry in group if is_directory(entry.target))
        others = [entry for entry in group if not is_directory(entry.target)]
        disputed = len(others) > (0 if directories else 1) or any(map(self._has_copies, others))
        self.changes.attributes.add(parent)  # the listing changes, though no plain name does
        if self._flag(self._tables.conflict, key, name, wanted=disputed):
            self.disputes.count(parent, 1 if disputed else -1)
        if self._flag(self._tables.alias, key, name, wanted=directories > 1):
            self.disputes.aliases += 1 if directories > 1 else -1

    def _has_copies(self, entry: Entry) -> bool:
        row = self._tables.inode.get(entry.target)
        return bool(row and row.copies and row.links and row.links[0].link == entry.link)

    @staticmethod
    def _flag(table: Table[bytes], key: bytes, name: bytes, *, wanted: bool) -> bool:
        """Set or clear a mark; tells whether it changed."""
        if table.has(key) == wanted:
            return False
        if wanted:
            table.put(key, name)
        else:
            table.delete(key)
        return True


def _lost(inode: InodeId) -> Place:
    """Where hangs what has no place of its own."""
    return Place(LinkId(inode), ORPHANS, inode.hex().encode(), 0, ReplicaId(b""))


def _place(link: LinkId, head: LinkHead) -> Place:
    return Place(link, head.body.parent, head.body.name, head.hlc, head.replica)
