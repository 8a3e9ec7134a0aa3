"""The tree that a store's index shows, in the words of the view, so that the two can be compared.

The index follows record by record, the view works everything out anew; whatever differs between
them is a bug of one.
"""

from msgspec.structs import replace

from piperfs.core.ids import ORPHANS, InodeId, is_directory
from piperfs.core.record import AnyHead, Kind
from piperfs.core.resolve import current_content, digest_of
from piperfs.core.view import Facts, Folder, Item, Link, Tree
from piperfs.store.store import Store

Records = dict[tuple[Kind, bytes], tuple[AnyHead, ...]]
END = b"\xff" * 17

_decoded: dict[tuple[str, bytes, bytes], tuple[AnyHead, ...]] = {}


def facts_of(store: Store, inode: InodeId) -> Facts:
    """What the index knows of an inode."""
    row = store.inode(inode)
    assert row is not None
    return Facts(
        row.mode, row.owner, row.group, row.owner_set_by, row.size, row.mtime_ns, row.ctime_ns,
        tuple(Link(place.link, place.parent, place.name) for place in row.links),
        row.copies, row.entries, row.subdirs, dict(sorted(store.xattrs(inode).items())),
    )  # fmt: skip


def folder_of(store: Store, canonical: InodeId) -> Folder:
    """A listing; each name that is listed must be found too."""
    items = {}
    for _, name, inode in store.list_directory(canonical, 0, 1 << 20):
        found = store.lookup(canonical, name)
        assert found is not None, (name, "is listed and not found")
        assert (found.inode, found.name) == (inode, name)
        version = b""
        if not is_directory(inode):
            version = digest_of(found.head or current_content(store.contents(inode)))
        items[name] = Item(inode, version, found.copy_of)
    return Folder(store.members(canonical), dict(sorted(items.items())))


def index_tree(store: Store) -> Tree:
    """Everything that shows, without the times that directories derive."""
    inodes = [
        InodeId(key)
        for key, row in store.tables.inode.scan(b"", END)
        if row.links or row.entries or key == store.root
    ]
    facts = {inode: facts_of(store, inode) for inode in inodes if inode != ORPHANS}
    folders: dict[InodeId, Folder] = {}
    waiting = [store.root, *(inode for inode in inodes if inode == ORPHANS)]
    while waiting:
        members = store.members(waiting.pop())
        folder = folders[members[0]] = folder_of(store, members[0])
        waiting += [item.inode for item in folder.items.values() if is_directory(item.inode)]
    return comparable(Tree(store.root, facts, folders))


def comparable(tree: Tree) -> Tree:
    """A directory's times are maxima of what was seen, which the index sees more of."""
    facts = {
        inode: replace(f, mtime_ns=0, ctime_ns=0) if is_directory(inode) else f
        for inode, f in tree.facts.items()
    }
    return replace(tree, facts=facts)


def records_of(store: Store) -> Records:
    """All heads of a store, unpublished ones included. Rows that are alike are decoded once."""
    found: Records = {}
    for kind, table in store.tables.records.items():
        for key, raw in store._engine.scan(table.name, b"", END):
            if table._active.get(key) is None:
                mark = (table.name, key, raw)
                if mark not in _decoded:
                    _decoded[mark] = table.get_durable(key)
                found[kind, key] = _decoded[mark]
        found.update(((kind, key), heads) for key, heads in table._active.items() if heads)
    found.update(store._records._pending)
    return found
