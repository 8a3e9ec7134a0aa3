"""Bringing back earlier states, as new writes: one version of a file, or all that a member did.

Nothing is rewritten: an undo is an operation like any other, so it reaches everybody, meets what
others do at the same time as any edit does, and can itself be undone.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, cast

from msgspec.structs import replace

from piperfs.core import resolve
from piperfs.core.ids import InodeId, LinkId, ReplicaId, is_directory
from piperfs.core.record import (
    AnyHead,
    AttributesHead,
    Birth,
    ContentBody,
    ContentHead,
    Field,
    Kind,
    LinkHead,
    XattrHead,
)
from piperfs.core.view import NOBODY
from piperfs.fs import conflicts
from piperfs.store.change import (
    Change,
    DeleteContent,
    KillLink,
    MoveLink,
    PutContent,
    RetargetLink,
    SetAttributes,
    SetXattr,
)
from piperfs.store.history import Past
from piperfs.store.pending import RecordKey
from piperfs.store.store import Store

MS_NS: Final = 1_000_000
PAGE_ROWS: Final = 200
END: Final = b"\xff" * 17


def revived(head: ContentHead, now_ns: int) -> ContentBody:
    """A version as it is written again: changed now, for programs that look at times."""
    return replace(head.body, alive=True, mtime_ns=now_ns, base=b"", directories=(), links_seen={})


def bring_back(store: Store, inode: InodeId, head: ContentHead, now_ns: int) -> list[Change]:
    """Make a version the current one, and show the file again if it was deleted."""
    changes = conflicts.materialise(store, inode)
    changes.append(PutContent(inode, revived(head, now_ns), head.refs))
    row = store.inode(inode)
    links = [
        cast(LinkHead, store.heads(Kind.LINK, link)[0]) for link in (row.hidden if row else ())
    ]
    if row is not None and not row.links and not any(link.body.alive for link in links):
        newest = max(zip(row.hidden, links, strict=True), key=lambda pair: pair[1].stamp)
        changes.append(MoveLink(newest[0], newest[1].body.parent, newest[1].body.name))
    return changes


@dataclass(frozen=True, slots=True)
class Revert:
    """Undoes the writes of one member since a moment, record by record."""

    store: Store
    past: Mapping[RecordKey, Sequence[Past]]
    author: ReplicaId
    since_ns: int

    def is_theirs(self, head: AnyHead) -> bool:
        """By the stamps that the member itself gave; the number follows its clock too."""
        latest = max(head.hlc, head.seq * MS_NS)
        return head.replica == self.author and latest >= self.since_ns

    def steps(self, now_ns: Callable[[], int], counts: Counter[Kind]) -> Iterator[None]:
        """Undo everything; the caller may do other things between steps.

        Names that somebody else gave come first, so that a directory is back before what hangs in
        it; names of their own making go last, when it shows which of them are still needed.
        """
        touched: list[RecordKey] = []
        for kind, table in self.store.tables.records.items():
            for rows in table.pages(b"", END, PAGE_ROWS):
                theirs = (key for key, heads in rows if any(map(self.is_theirs, heads)))
                touched += [(kind, key) for key in theirs]
                yield
        for kind, key in sorted(touched, key=lambda key: (self._is_new_name(key), key)):
            changes = self.changes((kind, key))
            if changes:
                self.store.apply_command(changes, now_ns())
                counts[kind] += 1
            yield

    def _is_new_name(self, key: RecordKey) -> bool:
        return key[0] is Kind.LINK and not self._others(key)

    def _others(self, key: RecordKey) -> list[AnyHead]:
        """What others have in a record, or else the last state of it that was not theirs."""
        others = [head for head in self.store.heads(*key) if not self.is_theirs(head)]
        past = (p.head for p in self.past.get(key, ()) if not self.is_theirs(p.head))
        return others or list(islice(past, 1))

    def changes(self, key: RecordKey) -> list[Change]:
        """What gives one record its state without them; nothing if they did not touch it."""
        if not any(map(self.is_theirs, self.store.heads(*key))):
            return []
        kind, name = key
        undo: dict[Kind, Callable[[bytes, Sequence[AnyHead]], list[Change]]] = {
            Kind.LINK: self._link,
            Kind.CONTENT: self._content,
            Kind.ATTRIBUTES: self._attributes,
            Kind.XATTR: self._xattr,
        }
        return undo[kind](name, self._others(key))

    def _link(self, key: bytes, others: Sequence[AnyHead]) -> list[Change]:
        link = LinkId(key)
        now = resolve.current_link(cast(Sequence[LinkHead], self.store.heads(Kind.LINK, link))).body
        if not others:
            is_file = not is_directory(now.target)  # the link id of a file may begin like any other
            is_needed = is_file and not self._has_other_name(now.target, link)
            return [] if is_needed or not now.alive else [KillLink(link)]
        before = resolve.current_link(cast(Sequence[LinkHead], others)).body
        changes: list[Change] = []
        if before.target != now.target:
            changes.append(RetargetLink(link, before.target))
        if not before.alive:
            return [*changes, KillLink(link)] if now.alive else changes
        same = (now.alive, now.parent, now.name) == (True, before.parent, before.name)
        return changes if same else [*changes, MoveLink(link, before.parent, before.name)]

    def _has_other_name(self, inode: InodeId, link: LinkId) -> bool:
        """Whether a file shows under a name that they did not give it."""
        row = self.store.inode(inode)
        others = [place.link for place in (row.links if row else ()) if place.link != link]
        return any(not self.is_theirs(self.store.heads(Kind.LINK, other)[0]) for other in others)

    def _content(self, key: bytes, others: Sequence[AnyHead]) -> list[Change]:
        inode = InodeId(key)
        heads = self.store.contents(inode)
        now = resolve.current_content(heads)
        if not others:
            return self._undo_birth(inode, now)
        known = cast(Sequence[ContentHead], others)
        before = resolve.current_content(known)
        if not before.body.alive:
            return [DeleteContent(inode)] if now.body.alive else []
        beside = [head for head in known if head is not before and head.body.alive]
        body = replace(before.body, base=b"", directories=(), links_seen={})
        current = replace(now.body, base=b"", directories=(), links_seen={})
        if len(heads) == 1 and not beside and (current, now.refs) == (body, before.refs):
            return []
        kept = conflicts.split_off(self.store, inode, beside)
        return [*kept, PutContent(inode, body, before.refs)]

    def _undo_birth(self, inode: InodeId, now: ContentHead) -> list[Change]:
        """Nobody else's version is known: the file is theirs, or they deleted one unseen here."""
        if now.body.alive:
            return [] if self._is_known_elsewhere(now) else [DeleteContent(inode)]
        had_others = set(now.vector) - {self.author}
        if not had_others:
            return []
        return [PutContent(inode, replace(now.body, alive=True, links_seen={}), now.refs)]

    def _is_known_elsewhere(self, head: ContentHead) -> bool:
        """A conflict copy that they made a file of its own holds somebody else's bytes."""
        digest = resolve.digest_of(head)
        return any(
            kind is Kind.CONTENT and not self.is_theirs(past.head)
            and resolve.digest_of(cast(ContentHead, past.head)) == digest
            for (kind, _), versions in self.past.items()
            for past in versions
        )  # fmt: skip

    def _attributes(self, key: bytes, others: Sequence[AnyHead]) -> list[Change]:
        inode = InodeId(key)
        heads = cast(Sequence[AttributesHead], self.store.heads(Kind.ATTRIBUTES, key))
        past = (p.head for p in self.past.get((Kind.ATTRIBUTES, key), ()))
        bodies = [
            head.body for head in (*heads, *others, *cast(Sequence[AttributesHead], list(past)))
        ]
        birth = self._birth(inode)
        now = resolve.merge_attributes(heads)

        def before(field: str, at_birth: int | str) -> int | str | None:
            current: Field | None = getattr(now, field)
            if current is None or not self._set_by_them(current):
                return None
            known: list[Field] = [f for body in bodies if (f := getattr(body, field)) is not None]
            kept = [f for f in known if not self._set_by_them(f)]
            value = max(kept, key=lambda f: f.stamp).value if kept else at_birth
            return None if value == current.value else value

        mode, owner, group = (
            before(field, at_birth)
            for field, at_birth in (
                ("mode", birth.mode), ("owner", birth.owner), ("group", birth.group),
            )
        )  # fmt: skip
        if (mode, owner, group) == (None, None, None):
            return []
        change = SetAttributes(inode)
        return [
            SetAttributes(
                change.inode,
                mode=None if mode is None else int(mode),
                owner=None if owner is None else str(owner),
                group=None if group is None else str(group),
            )
        ]

    def _set_by_them(self, field: Field) -> bool:
        return field.stamp.replica == self.author and field.stamp.hlc >= self.since_ns

    def _birth(self, inode: InodeId) -> Birth:
        if is_directory(inode):
            heads = cast(Sequence[LinkHead], self.store.heads(Kind.LINK, inode))
            return (resolve.current_link(heads).body.birth if heads else None) or NOBODY
        contents = self.store.contents(inode)
        return resolve.current_content(contents).body.birth if contents else NOBODY

    def _xattr(self, key: bytes, others: Sequence[AnyHead]) -> list[Change]:
        now = cast(Sequence[XattrHead], self.store.heads(Kind.XATTR, key))
        body = now[0].body
        before = resolve.current_xattr(cast(Sequence[XattrHead], others)) if others else None
        if resolve.current_xattr(now) == before:
            return []
        return [SetXattr(body.inode, body.name, before)]
