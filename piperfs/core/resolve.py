"""What one inode's heads mean: which version wins, which links show, which attributes hold.

These rules are pure functions of heads, so all replicas that hold the same heads show the same
tree; nobody "performs" a resolution. Edits beat deletions, renames beat deletions, attribute
changes do not. Both the executable specification (`view.py`) and the incremental index of the
store are built from this file.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from piperfs.core.ids import LinkId
from piperfs.core.record import (
    AttributesBody,
    AttributesHead,
    Birth,
    ContentHead,
    Field,
    LinkHead,
    Times,
    XattrHead,
    content_digest,
)
from piperfs.core.version_vector import covers


class Attributes(msgspec.Struct, frozen=True):
    """Effective permission bits, owner, group and explicitly set time of one inode."""

    mode: int
    owner: str
    group: str
    times: Times | None
    owner_set_by: bytes  # replica whose word the owner and group are
    changed: int  # newest stamp (ns) among the attribute writes, 0 if none


def current_link(heads: Sequence[LinkHead]) -> LinkHead:
    """The winning location: any live head beats every dead one; among equals the newest."""
    return max(heads, key=lambda head: (head.body.alive, head.stamp))


def current_content(heads: Sequence[ContentHead]) -> ContentHead:
    """The winning version: any live head beats every deletion; among equals the newest."""
    return max(heads, key=lambda head: (head.body.alive, head.stamp))


def digest_of(head: ContentHead) -> bytes:
    return content_digest(head.body, head.refs)


def conflict_copies(heads: Sequence[ContentHead]) -> list[ContentHead]:
    """Losing live versions that people must see, newest first.

    A loser with the winner's bytes, with the bytes that the winner knowingly replaced, or with
    the bytes of another loser is no news to anyone and is left out.
    """
    if len(heads) == 1:
        return []
    winner = current_content(heads)
    if not winner.body.alive:
        return []
    known = {digest_of(winner), winner.body.base}
    copies = []
    for head in sorted(heads, key=lambda head: head.stamp, reverse=True):
        digest = digest_of(head)
        if head.body.alive and digest not in known:
            known.add(digest)
            copies.append(head)
    return copies


def shown_links(
    contents: Sequence[ContentHead], links: Mapping[LinkId, Sequence[LinkHead]]
) -> list[LinkId]:
    """Which links of a file or symlink show, sorted.

    With a live version every live link shows. If none is left, the newest dead link comes back
    for a version that somebody who took the names away did not know. With only deletions a link
    shows if no deleter had seen it. Without any content head yet, nothing shows.
    """
    if not contents or not links:
        return []
    winners = {link: current_link(heads) for link, heads in links.items()}
    alive = sorted(link for link, head in winners.items() if head.body.alive)
    deletions = [head for head in contents if not head.body.alive]
    if len(deletions) < len(contents):
        if alive or not (deletions or _is_news(contents, winners.values())):
            return alive
        return [max(winners, key=lambda link: winners[link].stamp)]
    return [link for link in alive if not _was_seen(winners[link], link, deletions)]


def is_nameless(
    contents: Sequence[ContentHead], links: Mapping[LinkId, Sequence[LinkHead]]
) -> bool:
    """Whether there is a live version and no record of any name that it ever had.

    So it is where whoever made the file was removed, and others had written into it since.
    """
    return not links and any(head.body.alive for head in contents)


def _is_news(contents: Iterable[ContentHead], removed: Iterable[LinkHead]) -> bool:
    """Whether some version was not known to each of those who removed the names."""
    return any(
        not covers(link.body.content_seen, head.vector) for link in removed for head in contents
    )


def _was_seen(head: LinkHead, link: LinkId, deletions: Iterable[ContentHead]) -> bool:
    return any(
        link in deletion.body.links_seen and covers(deletion.body.links_seen[link], head.vector)
        for deletion in deletions
    )


def _newest(fields: Iterable[Field | None]) -> Field | None:
    return max((f for f in fields if f is not None), key=lambda f: f.stamp, default=None)


def merge_attributes(heads: Sequence[AttributesHead]) -> AttributesBody:
    """All fields of all heads, each from its newest setter."""
    bodies = [head.body for head in heads]
    times = [body.times for body in bodies if body.times is not None]
    return AttributesBody(
        mode=_newest(body.mode for body in bodies),
        owner=_newest(body.owner for body in bodies),
        group=_newest(body.group for body in bodies),
        times=max(times, key=lambda t: t.stamp, default=None),
    )


def effective_attributes(birth: Birth, heads: Sequence[AttributesHead]) -> Attributes:
    """Birth attributes overlaid with what was set later."""
    if not heads:
        return Attributes(birth.mode, birth.owner, birth.group, None, birth.replica, 0)
    merged = merge_attributes(heads)
    mode, owner, group = merged.mode, merged.owner, merged.group
    return Attributes(
        mode=int(mode.value) if mode else birth.mode,
        owner=str(owner.value) if owner else birth.owner,
        group=str(group.value) if group else birth.group,
        times=merged.times,
        owner_set_by=owner.stamp.replica if owner else birth.replica,
        changed=max(head.hlc for head in heads),
    )


def file_mtime(content: ContentHead, times: Times | None) -> int:
    """A time set by hand holds for the version it was set on; a later version brings its own."""
    if times is not None and (times.replica, times.seq) == (content.replica, content.seq):
        return times.mtime_ns
    return content.body.mtime_ns


def current_xattr(heads: Sequence[XattrHead]) -> bytes | None:
    """The newest value, or None if the newest write is a removal."""
    return max(heads, key=lambda head: head.stamp).body.value
