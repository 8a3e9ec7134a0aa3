"""Bodies of local writes, made from the change and from what the record says now. Pure."""

import dataclasses
from collections.abc import Sequence

from msgspec.structs import replace

from piperfs.core.ids import ReplicaId
from piperfs.core.limits import PREVIOUS_PARENTS_MAX
from piperfs.core.record import (
    AttributesBody,
    AttributesHead,
    Body,
    ContentBody,
    ContentHead,
    Field,
    LinkBody,
    PreviousPlace,
    Stamp,
    Times,
)
from piperfs.core.resolve import merge_attributes
from piperfs.store.change import KillLink, MoveLink, PutLink, RetargetLink, SetAttributes


def link_body(
    change: PutLink | MoveLink | RetargetLink | KillLink,
    before: LinkBody | None,
    hlc: int,
    replica: ReplicaId,
    content_seen: dict[ReplicaId, int],
) -> LinkBody:
    """The link after the change; only a new parent renews `moved`."""
    moved = Stamp(hlc, replica)
    if isinstance(change, PutLink):
        birth = change.birth
        if birth is not None and not birth.born_ns:
            birth = replace(birth, born_ns=hlc)
        return LinkBody(True, change.parent, change.name, change.target, moved, (), birth)  # noqa: FBT003
    assert before is not None, "only a known link changes"
    match change:
        case KillLink():
            return replace(before, alive=False, content_seen=content_seen)
        case RetargetLink():
            return replace(before, target=change.target, content_seen={})
        case MoveLink():
            if change.parent == before.parent:
                return replace(before, alive=True, name=change.name, content_seen={})
            return replace(
                before,
                alive=True,
                parent=change.parent,
                name=change.name,
                moved=moved,
                previous=_remember(before, change),
                content_seen={},
            )


def _remember(before: LinkBody, change: MoveLink) -> tuple[PreviousPlace, ...]:
    places = (PreviousPlace(before.parent, before.moved), *before.previous)
    return tuple(p for p in places if p.parent != change.parent)[:PREVIOUS_PARENTS_MAX]


def fold(change: SetAttributes, body: Body, *, birth_is_open: bool) -> tuple[Body, SetAttributes]:
    """Put attributes into an unpublished version; returns it and what is left to write.

    Mode, owner and group go into a birth that nobody knows yet; a time goes into any version of
    a file that nobody knows yet.
    """
    assert isinstance(body, LinkBody | ContentBody)
    birth = body.birth
    if birth_is_open and birth is not None:
        birth = replace(
            birth,
            mode=birth.mode if change.mode is None else change.mode,
            owner=birth.owner if change.owner is None else change.owner,
            group=birth.group if change.group is None else change.group,
        )
        body = replace(body, birth=birth)
        change = dataclasses.replace(change, mode=None, owner=None, group=None)
    if isinstance(body, ContentBody) and change.mtime_ns is not None:
        body = replace(body, mtime_ns=change.mtime_ns)
        change = dataclasses.replace(change, mtime_ns=None)
    return body, change


def is_empty(change: SetAttributes) -> bool:
    return (change.mode, change.owner, change.group, change.mtime_ns) == (None,) * 4


def attributes_body(
    change: SetAttributes,
    heads: Sequence[AttributesHead],
    content: ContentHead | None,
    hlc: int,
    replica: ReplicaId,
) -> AttributesBody:
    """All that was ever set, with the fields of the change on top."""
    stamp = Stamp(hlc, replica)
    body = merge_attributes(heads)

    def field(value: int | str | None, old: Field | None) -> Field | None:
        return old if value is None else Field(value, stamp)

    times = body.times
    if change.mtime_ns is not None:
        dot = (content.replica, content.seq) if content else (ReplicaId(b""), 0)
        times = Times(change.mtime_ns, stamp, *dot)
    return AttributesBody(
        field(change.mode, body.mode),
        field(change.owner, body.owner),
        field(change.group, body.group),
        times,
    )
