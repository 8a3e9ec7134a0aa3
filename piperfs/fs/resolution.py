"""Ending a conflict on request: which version stays, for commands that name it.

What a person can do by hand with `mv` and `rm` on the versions that they see, these changes do in
one operation. What is dropped stays in history.
"""

from msgspec.structs import replace

from piperfs.core import resolve
from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.ids import InodeId, LinkId, is_directory
from piperfs.core.record import ContentHead
from piperfs.fs import conflicts
from piperfs.store.change import Change, DeleteContent, KillLink, MoveLink, PutContent
from piperfs.store.directory import Found
from piperfs.store.store import Store


def keep_both(store: Store, directory: InodeId, name: bytes, copy: Found) -> list[Change]:
    """Make what lost a name a file of its own, under the name it is shown by."""
    del name
    if copy.copy_of is not None:
        return conflicts.settle(store, copy.copy_of)
    assert copy.place is not None
    return [MoveLink(copy.place.link, _parent(store, copy, directory), copy.name)]


def drop(store: Store, directory: InodeId, name: bytes, copy: Found) -> list[Change]:
    """Remove what lost a name, or the file that it has become meanwhile."""
    del directory, name
    if copy.copy_of is not None:
        return conflicts.discard(store, copy)
    return _removal(store, copy)


def promote(store: Store, directory: InodeId, name: bytes, copy: Found) -> list[Change]:
    """Give what lost a name that name, and drop what has it now. Raises FsError."""
    winner = store.lookup(directory, name)
    if winner is None or is_directory(winner.inode) or winner.place is None:
        raise FsError(ErrorKind.IS_A_DIRECTORY)
    if copy.copy_of is not None:
        assert copy.head is not None
        rest = [
            change
            for change in conflicts.materialise(store, copy.copy_of)
            if not conflicts.concerns(change, copy.inode)
        ]
        return [*rest, _as_version(copy.copy_of, copy.head)]
    if copy.inode[0] == winner.inode[0]:
        content = resolve.current_content(store.contents(copy.inode))
        kept = conflicts.materialise(store, winner.inode)
        return [*kept, _as_version(winner.inode, content), *_removal(store, copy)]
    assert copy.place is not None
    again = MoveLink(copy.place.link, _parent(store, copy, directory), name)
    return [*_removal(store, winner), again]


def _as_version(inode: InodeId, head: ContentHead) -> PutContent:
    body = replace(head.body, alive=True, base=b"", directories=(), links_seen={})
    return PutContent(inode, body, head.refs)


def _removal(store: Store, found: Found) -> list[Change]:
    row = store.inode(found.inode)
    assert found.place is not None
    if row is not None and len(row.links) > 1:
        return [KillLink(found.place.link)]
    return [*conflicts.materialise(store, found.inode), DeleteContent(found.inode)]


def _parent(store: Store, found: Found, directory: InodeId) -> InodeId:
    row = store.inode(found.inode)
    assert found.place is not None
    link: LinkId = found.place.link
    parents = [place.parent for place in (row.links if row else ()) if place.link == link]
    return parents[0] if parents else directory
