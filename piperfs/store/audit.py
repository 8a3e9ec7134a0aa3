"""The index held against its specification: what a store shows, and what its records mean.

The index follows record by record, the view works everything out anew; where they differ, one of
them has a bug. Tests compare them after every step; a check of a running volume compares them
once in a while and counts what differs, which must be nothing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from piperfs.core.ids import ORPHANS, TYPES, InodeId, is_directory
from piperfs.core.record import AnyHead, Kind
from piperfs.core.resolve import current_content, digest_of
from piperfs.core.view import Facts, Folder, Item, Link, Tree, view
from piperfs.store.directory import Found
from piperfs.store.store import Store

RecordMap: TypeAlias = dict[tuple[Kind, bytes], tuple[AnyHead, ...]]
END: Final = b"\xff" * 17
LISTED_MAX: Final = 1 << 62


def mismatches(store: Store) -> Iterator[InodeId]:
    """Inodes and directories that the index shows otherwise than the view. Costs a full view."""
    expected = view(durable_records(store), store.root, store.founded_ns)
    found = index_tree(store)
    yield from _differing(expected.facts, found.facts)
    yield from _differing(expected.folders, found.folders)


def _differing(
    expected: dict[InodeId, Facts] | dict[InodeId, Folder],
    found: dict[InodeId, Facts] | dict[InodeId, Folder],
) -> Iterable[InodeId]:
    return (i for i in expected.keys() | found.keys() if expected.get(i) != found.get(i))


def durable_records(store: Store) -> RecordMap:
    """The heads of all records that are on the disk."""
    return {
        (kind, key): heads
        for kind, table in store.tables.records.items()
        for key, heads in table.scan_durable(b"", END)
    }


def index_tree(store: Store) -> Tree:
    """Everything replicated that the index shows."""
    rows = [(InodeId(key), row) for key, row in store.tables.inode.scan(b"", END)]
    special = Counter(p.parent for i, row in rows if not _is_replicated(i) for p in row.links)
    inodes = [i for i, row in rows if row.links or row.entries or i == store.root]
    facts = {
        inode: _facts_of(store, inode, special[inode])
        for inode in inodes
        if inode != ORPHANS and _is_replicated(inode)
    }
    folders: dict[InodeId, Folder] = {}
    waiting = [store.root, *(inode for inode in inodes if inode == ORPHANS)]
    while waiting:
        members = store.members(waiting.pop())
        folder = folders[members[0]] = _folder_of(store, members[0])
        waiting += [item.inode for item in folder.items.values() if is_directory(item.inode)]
    return Tree(store.root, facts, folders)


def _is_replicated(inode: InodeId) -> bool:
    return inode[0] in TYPES


def _facts_of(store: Store, inode: InodeId, special: int) -> Facts:
    """What the index knows of an inode; `special` of its entries are this replica's alone."""
    row = store.inode(inode)
    assert row is not None
    return Facts(
        row.mode, row.owner, row.group, row.owner_set_by, row.size, row.mtime_ns, row.ctime_ns,
        tuple(Link(place.link, place.parent, place.name) for place in row.links),
        row.copies, row.entries - special, row.subdirs, dict(sorted(store.xattrs(inode).items())),
    )  # fmt: skip


def _folder_of(store: Store, canonical: InodeId) -> Folder:
    """A listing; a name that is listed and not found again is left out, and so differs."""
    items = {}
    for _, name, inode in store.list_directory(canonical, 0, LISTED_MAX):
        found = store.lookup(canonical, name)
        shown = found is not None and (found.inode, found.name) == (inode, name)
        if found is not None and shown and _is_replicated(inode):
            items[name] = Item(inode, _version_of(store, found), found.copy_of)
    return Folder(store.members(canonical), dict(sorted(items.items())))


def _version_of(store: Store, found: Found) -> bytes:
    if is_directory(found.inode):
        return b""
    return digest_of(found.head or current_content(store.contents(found.inode)))
