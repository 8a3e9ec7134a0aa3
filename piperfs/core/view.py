"""The view: the tree that a set of records means, as one pure function of all of them.

This is the executable specification. It is written to be read, not to be fast: everything is
worked out anew on every call. The store keeps the same answer up to date record by record, and a
test compares the two after random histories.

Where things hang:

1. A link belongs to the target that its winning head names. A file's or symlink's links show as
   `resolve.shown_links` says; without any content head none does.
2. A directory hangs in the place that `cycles.break_cycles` leaves in force, removed ones taking
   part, under the name of its winning head. Beyond its last place, or if its record is unknown, it
   hangs among the orphans and its id in hexadecimal is its name. The root and the orphans
   directory hang nowhere, whatever a record says.
3. A directory is alive if its winning head is, or if anything that shows hangs in it.
4. From the top down, directories of one class (at first the root alone) that claim one name form
   the class below. `names.arrange` gives out the plain names of a class. Whoever lost, and each
   version that lost (it appears beside the file's first link only), gets a conflict name.

What they look like: attributes are those of birth overlaid with what was set later. A leaf's
`ctime` is the newest stamp among its content, attributes, extended attributes and links. A
directory's `mtime` is derived: the newest of its birth (the root's is the volume's) and of all
`moments` that heads tell of it, unless a time set by hand has a stamp at least as new.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias, cast

import msgspec
from msgspec.structs import replace

from piperfs.core import cycles, resolve
from piperfs.core.ids import ORPHANS, InodeId, LinkId, ReplicaId, is_directory, is_symlink
from piperfs.core.moments import newest_moments
from piperfs.core.names import Entry, Group, Loser, arrange, copy_inode, name_losers
from piperfs.core.record import (
    AnyHead,
    AttributesHead,
    Birth,
    ContentHead,
    Kind,
    LinkHead,
    Times,
    XattrHead,
)

RecordMap: TypeAlias = Mapping[tuple[Kind, bytes], Sequence[AnyHead]]

NOBODY: Final = Birth(0o755, "", "")


class Item(msgspec.Struct, frozen=True):
    """What a name leads to. `copy_of` is set for a losing version of that file.

    `version` is the digest of the content shown, empty for a directory.
    """

    inode: InodeId
    version: bytes = b""
    copy_of: InodeId | None = None


class Folder(msgspec.Struct, frozen=True):
    """A class of directories that act as one, and everything in it by name."""

    members: tuple[InodeId, ...]
    items: dict[bytes, Item]


class Link(msgspec.Struct, frozen=True, order=True):
    """One place where an inode shows, before names are given out."""

    link: LinkId
    parent: InodeId
    name: bytes


class Facts(msgspec.Struct, frozen=True):
    """What a stat of one inode tells, and its extended attributes. Times are ns since 1970."""

    mode: int
    owner: str
    group: str
    owner_set_by: ReplicaId
    size: int
    mtime_ns: int
    ctime_ns: int
    links: tuple[Link, ...]
    copies: int
    entries: int
    subdirs: int
    xattrs: dict[bytes, bytes]


class Tree(msgspec.Struct, frozen=True):
    """All of it: facts of each inode that shows, and folders by their least member."""

    root: InodeId
    facts: dict[InodeId, Facts]
    folders: dict[InodeId, Folder]

    def paths(self, top: InodeId | None = None) -> dict[bytes, Item]:
        """Everything below a folder (the root) by its path."""
        found: dict[bytes, Item] = {}
        waiting = [(b"", self.folders[top or self.root])]
        while waiting:
            prefix, folder = waiting.pop()
            for name, item in folder.items.items():
                found[prefix + name] = item
                if is_directory(item.inode):
                    waiting.append((prefix + name + b"/", self.folders[item.inode]))
        return dict(sorted(found.items()))

    def __str__(self) -> str:
        lines = [f"{path!r} {item.version.hex()[:8]}" for path, item in self.paths().items()]
        return "\n".join(lines)


def view(records: RecordMap, root: InodeId, founded_ns: int = 0) -> Tree:
    """The tree that the heads of all records mean, in a volume that was made at `founded_ns`."""
    return _View(records, root, founded_ns).tree()


class _View:
    """One evaluation; its attributes are the intermediate results, in the order of the rules."""

    def __init__(self, records: RecordMap, root: InodeId, founded_ns: int) -> None:
        self.root = root
        self.founded_ns = founded_ns
        self.changed = newest_moments(head for heads in records.values() for head in heads)
        self.links: dict[LinkId, Sequence[LinkHead]] = {}
        self.contents: dict[InodeId, Sequence[ContentHead]] = {}
        self.attributes: dict[InodeId, Sequence[AttributesHead]] = {}
        self.xattrs: dict[InodeId, list[Sequence[XattrHead]]] = defaultdict(list)
        for (kind, key), heads in records.items():
            if heads:
                self._sort_in(kind, key, heads)
        self.links_to: dict[InodeId, dict[LinkId, Sequence[LinkHead]]] = defaultdict(dict)
        for link, link_heads in self.links.items():
            self.links_to[resolve.current_link(link_heads).body.target][link] = link_heads
        self.entries: dict[InodeId, list[Entry]] = defaultdict(list)
        self.places: dict[InodeId, list[Link]] = defaultdict(list)
        self.folders: dict[InodeId, Folder] = {}

    def _sort_in(self, kind: Kind, key: bytes, heads: Sequence[AnyHead]) -> None:
        match kind:
            case Kind.LINK:
                self.links[LinkId(key)] = cast(Sequence[LinkHead], heads)
            case Kind.CONTENT:
                self.contents[InodeId(key)] = cast(Sequence[ContentHead], heads)
            case Kind.ATTRIBUTES:
                self.attributes[InodeId(key)] = cast(Sequence[AttributesHead], heads)
            case Kind.XATTR:
                xattr = cast(Sequence[XattrHead], heads)
                self.xattrs[xattr[0].body.inode].append(xattr)

    def tree(self) -> Tree:
        for inode, contents in self.contents.items():
            links = self.links_to[inode]
            for link in resolve.shown_links(contents, links):
                winner = resolve.current_link(links[link])
                self._hang(inode, link, winner.body.parent, winner.body.name, winner)
            if resolve.is_nameless(contents, links):
                self._hang(inode, LinkId(inode), ORPHANS, inode.hex().encode(), None)
        self._hang_directories()
        self._name_everything()
        inodes = {self.root, *self.places}
        return Tree(self.root, {inode: self._facts(inode) for inode in inodes}, self.folders)

    # Where things hang

    def _hang(
        self, inode: InodeId, link: LinkId, parent: InodeId, name: bytes, head: LinkHead | None
    ) -> None:
        hlc, replica = (head.hlc, head.replica) if head else (0, ReplicaId(b""))
        self.entries[parent].append(Entry(link, inode, name, hlc, replica))
        self.places[inode].append(Link(link, parent, name))

    def _hang_directories(self) -> None:
        """Hang the living, then whatever must live because something hangs in it."""
        roots = (self.root, ORPHANS)
        heads = {
            inode: self.links[LinkId(inode)]
            for inode in map(InodeId, self.links)
            if is_directory(self._target(inode)) and inode not in roots
        }
        places = {inode: cycles.places(link_heads) for inode, link_heads in heads.items()}
        pointers = cycles.break_cycles(places)
        waiting = [inode for inode in heads if resolve.current_link(heads[inode]).body.alive]
        waiting += [parent for parent in self.entries if parent not in roots]
        while waiting:
            inode = waiting.pop()
            if inode in self.places or inode in roots:
                continue
            options = places.get(inode, ())
            pointer = pointers.get(inode, 0)
            winner = resolve.current_link(heads[inode]) if inode in heads else None
            parent = options[pointer][0] if pointer < len(options) else ORPHANS
            lost = winner is None or parent == ORPHANS
            name = inode.hex().encode() if winner is None or lost else winner.body.name
            self._hang(inode, LinkId(inode), parent, name, winner)
            waiting.append(parent)

    def _target(self, link: bytes) -> InodeId:
        return resolve.current_link(self.links[LinkId(link)]).body.target

    # Names

    def _name_everything(self) -> None:
        waiting: list[tuple[InodeId, ...]] = [(self.root,)]
        if ORPHANS in self.entries:
            waiting.append((ORPHANS,))
        while waiting:
            members = waiting.pop()
            groups = self._groups(members)
            self.folders[members[0]] = Folder(members, self._items(groups))
            waiting += [group.directories for group in groups.values() if group.directories]

    def _groups(self, members: tuple[InodeId, ...]) -> dict[bytes, Group]:
        claims: dict[bytes, list[Entry]] = defaultdict(list)
        for member in members:
            for entry in self.entries.get(member, ()):
                claims[entry.name].append(entry)
        return {name: arrange(name, entries) for name, entries in claims.items()}

    def _items(self, groups: Mapping[bytes, Group]) -> dict[bytes, Item]:
        items: dict[bytes, Item] = {}
        losers: dict[Loser, Item] = {}
        for name, group in groups.items():
            if group.directories:
                items[name] = Item(group.directories[0])
            elif group.primary is not None:
                items[name] = self._item(group.primary)
            for entry in group.losers:
                loser = Loser(entry.link, entry.hlc, entry.replica, name)
                losers[loser] = self._item(entry)
            shown = group.losers if group.primary is None else (group.primary, *group.losers)
            for entry in shown:
                losers.update(self._lost_versions(entry, name))
        named = name_losers(list(losers), lambda name: name in groups)
        items.update((name, losers[loser]) for name, loser in named.items())
        return dict(sorted(items.items()))

    def _item(self, entry: Entry) -> Item:
        winner = resolve.current_content(self.contents[entry.target])
        return Item(entry.target, resolve.digest_of(winner))

    def _lost_versions(self, entry: Entry, name: bytes) -> Iterator[tuple[Loser, Item]]:
        if entry.link != min(place.link for place in self.places[entry.target]):
            return
        for head in resolve.conflict_copies(self.contents[entry.target]):
            digest = resolve.digest_of(head)
            loser = Loser(entry.link, head.hlc, head.replica, name, digest)
            yield loser, Item(copy_inode(entry.target, loser), digest, entry.target)

    # What they look like

    def _facts(self, inode: InodeId) -> Facts:
        contents = self.contents.get(inode, ())
        winner = resolve.current_content(contents) if contents else None
        effective = resolve.effective_attributes(
            winner.body.birth if winner else self._birth(inode), self.attributes.get(inode, ())
        )
        mtime, changed = self._times(inode, winner, effective.times)
        entries = self.entries.get(inode, ())
        return Facts(
            effective.mode,
            effective.owner,
            effective.group,
            ReplicaId(effective.owner_set_by),
            size=_size(inode, winner),
            mtime_ns=mtime,
            ctime_ns=max(changed, *self._stamps(inode), 0),
            links=tuple(sorted(self.places.get(inode, ()))),
            copies=len(resolve.conflict_copies(contents)) if contents else 0,
            entries=len(entries),
            subdirs=sum(1 for entry in entries if is_directory(entry.target)),
            xattrs=self._current_xattrs(inode),
        )

    def _birth(self, inode: InodeId) -> Birth:
        if inode == self.root:
            return replace(NOBODY, born_ns=self.founded_ns)
        heads = self.links.get(LinkId(inode))
        return (resolve.current_link(heads).body.birth if heads else None) or NOBODY

    def _current_xattrs(self, inode: InodeId) -> dict[bytes, bytes]:
        current = {heads[0].body.name: resolve.current_xattr(heads) for heads in self.xattrs[inode]}
        return {name: value for name, value in sorted(current.items()) if value is not None}

    def _stamps(self, inode: InodeId) -> Iterator[int]:
        """When the inode's own records were written."""
        groups: list[Sequence[AnyHead]] = [self.contents.get(inode, ()), *self.xattrs[inode]]
        groups += [self.attributes.get(inode, ()), *self.links_to[inode].values()]
        for heads in groups:
            yield from (head.hlc for head in heads)

    def _times(
        self, inode: InodeId, winner: ContentHead | None, explicit: Times | None
    ) -> tuple[int, int]:
        """The mtime, and for directories the newest change of their entries."""
        if winner is not None:
            return resolve.file_mtime(winner, explicit), 0
        changed = max(self._birth(inode).born_ns, self.changed.get(inode, 0))
        if explicit is not None and explicit.stamp.hlc >= changed:
            return explicit.mtime_ns, changed
        return changed, changed


def _size(inode: InodeId, winner: ContentHead | None) -> int:
    if winner is None:
        return 0
    return len(winner.body.target) if is_symlink(inode) else winner.body.size
