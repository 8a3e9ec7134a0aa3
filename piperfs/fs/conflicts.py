"""Turning conflict copies into files, before something is done to what they are versions of.

A losing version is shown but is no file of its own. Whoever changes the file, or the copy, first
makes it one, in the same operation and under ids that every replica would choose, so that two
replicas that do this at once do the same. Nothing is ever lost by a write that did not know of it.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from piperfs.core import resolve
from piperfs.core.ids import ORPHANS, InodeId, LinkId
from piperfs.core.names import Loser, copy_inode, copy_link, name_losers
from piperfs.core.record import PENDING_SEQ, ContentHead
from piperfs.core.version_vector import covers, join
from piperfs.store.change import Change, MoveLink, Pin, PutContent, PutLink
from piperfs.store.directory import Found
from piperfs.store.rows import Place
from piperfs.store.store import Store


def materialise(store: Store, inode: InodeId) -> list[Change]:
    """Make each losing version of a file a file of its own, under the name it is shown by."""
    row = store.inode(inode)
    if row is None or not row.copies or not row.links:
        return []
    changes: list[Change] = []
    directory = row.links[0].parent
    for name, found in sorted(store.conflict_entries(directory).items()):
        if found.copy_of == inode:
            changes += _as_file(store, found, directory, name)
    return changes


def _as_file(store: Store, found: Found, directory: InodeId, name: bytes) -> Iterable[Change]:
    """Make a version a file, with what was shown, under its id.

    Somebody may have done so and written on, of which only the latter has come as yet. Nobody here
    has seen it under this name, so it becomes another copy.
    """
    assert found.head is not None
    shown = resolve.digest_of(found.head)
    link = copy_link(found.inode)
    for head in store.contents(found.inode):
        if head.body.alive and resolve.digest_of(head) != shown:
            place = Place(link, directory, name, head.hlc, head.replica)
            later, file = _name(store, found.inode, place, head)
            yield from _as_file(store, file, directory, later)
    body = replace(found.head.body, base=b"", directories=(), links_seen={})
    if directory != ORPHANS:  # where files hang without any link
        yield PutLink(link, directory, name, found.inode)
    yield PutContent(found.inode, body, found.head.refs)


def split_off(store: Store, inode: InodeId, heads: Iterable[ContentHead]) -> list[Change]:
    """Make given versions of a file files of their own, for a write that will supersede them."""
    row = store.inode(inode)
    if row is None or not row.links:
        return []
    place = row.links[0]
    shown = {
        resolve.digest_of(found.head): (name, found)
        for name, found in store.conflict_entries(place.parent).items()
        if found.copy_of == inode and found.head is not None
    }
    changes: list[Change] = []
    for head in heads:
        digest = resolve.digest_of(head)
        name, found = shown.get(digest) or _name(store, inode, place, head)
        changes += _as_file(store, found, place.parent, name)
    return changes


def _name(store: Store, inode: InodeId, place: Place, head: ContentHead) -> tuple[bytes, Found]:
    """Name a version that is not shown as a copy, as all replicas would."""
    loser = Loser(place.link, head.hlc, head.replica, place.name, resolve.digest_of(head))
    named = name_losers([loser], lambda name: store.lookup(place.parent, name) is not None)
    name = next(iter(named))
    return name, Found(copy_inode(inode, loser), name, copy_of=inode, head=head)


def superseded(store: Store, pin: Pin) -> list[ContentHead]:
    """Versions that a session's next write would supersede, whether it knows them or not.

    Those are the ones it saw when it began, and what is based on this replica's own earlier
    writes, which a version vector cannot leave out.
    """
    covered = join(head.vector for head in pin.heads)
    covered[store.replica] = PENDING_SEQ
    return [head for head in store.contents(pin.inode) if covers(covered, head.vector)]


def needs_no_copy(pin: Pin, head: ContentHead) -> bool:
    """Whether nothing is lost with a version: it is a deletion, or what the session shows."""
    shown = resolve.current_content(pin.heads)
    return not head.body.alive or resolve.digest_of(head) in (
        resolve.digest_of(shown), shown.body.base,
    )  # fmt: skip


def superseded_unseen(store: Store, pin: Pin) -> list[ContentHead]:
    """Of the versions that would be superseded those that need a copy, one of each content."""
    if not pin.heads:
        return []
    lost = [head for head in superseded(store, pin) if not needs_no_copy(pin, head)]
    return list({resolve.digest_of(head): head for head in reversed(lost)}.values())[::-1]


def unseen(store: Store, pin: Pin | None) -> bool:
    """Whether there are versions that a session neither shows nor is based on."""
    if pin is None or not pin.heads:
        return False
    shown = resolve.current_content(pin.heads)
    known = {resolve.digest_of(shown), shown.body.base, *map(resolve.digest_of, pin.heads)}
    heads = store.contents(pin.inode)
    return any(head.body.alive and resolve.digest_of(head) not in known for head in heads)


def before_superseding(store: Store, inode: InodeId, pin: Pin | None) -> list[Change]:
    """What keeps the versions that the next write of `inode`, based on `pin`, would take along."""
    if pin is None:
        return materialise(store, inode)
    if not pin.heads:
        return []
    lost = superseded_unseen(store, pin)
    copied = {resolve.digest_of(head) for head in lost}
    pin.heads += tuple(
        head
        for head in superseded(store, pin)
        if needs_no_copy(pin, head) or resolve.digest_of(head) in copied
    )
    return split_off(store, inode, lost)


def settle(store: Store, inode: InodeId) -> list[Change]:
    """Materialise the losers and confirm the winner as the one version that is left."""
    changes = materialise(store, inode)
    if changes:
        changes.append(confirm(store, inode))
    return changes


def confirm(store: Store, inode: InodeId) -> PutContent:
    """Write the winning version again, knowing all others."""
    winner = resolve.current_content(store.contents(inode))
    return PutContent(inode, replace(winner.body, base=b"", directories=()), winner.refs)


def discard(store: Store, found: Found) -> list[Change]:
    """Remove one losing version; other losers of the file become files of their own."""
    assert found.copy_of is not None
    changes = [
        change for change in materialise(store, found.copy_of) if not concerns(change, found.inode)
    ]
    return [*changes, confirm(store, found.copy_of)]


def concerns(change: Change, inode: InodeId) -> bool:
    if isinstance(change, PutLink):
        return change.target == inode
    return isinstance(change, PutContent) and change.inode == inode


def fix_losing_links(store: Store, directory: InodeId, name: bytes) -> list[Change]:
    """Give links that lost a name the names they are shown by, before the winner leaves it."""
    if len(store.arranged(directory, name).losers) == 0:
        return []
    return [
        MoveLink(LinkId(found.place.link), _parent_of(store, found, directory), shown)
        for shown, found in sorted(store.conflict_entries(directory).items())
        if found.place is not None and found.place.name == name
    ]


def _parent_of(store: Store, found: Found, directory: InodeId) -> InodeId:
    row = store.inode(found.inode)
    assert found.place is not None
    places = row.links if row else ()
    parents = [place.parent for place in places if place.link == found.place.link]
    return parents[0] if parents else directory
