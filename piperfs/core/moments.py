"""When directories changed: what each head says of the directories whose entries it changed.

A directory's time is the newest of all these moments and of the times set by hand. Each head tells
its moments alone, so the maximum over all heads is a function of the records. It never goes back as
long as whoever supersedes the head with the newest moment of a directory says so in its stead: by
a head that tells the same, or by setting the directory's time (`store/local.py`).
"""

from collections.abc import Iterable, Iterator

from piperfs.core.ids import InodeId
from piperfs.core.record import AnyHead, ContentBody, LinkBody


def moments(head: AnyHead) -> Iterator[tuple[InodeId, int]]:
    """Directories that a write changed, with the moments it remembers."""
    body = head.body
    if isinstance(body, LinkBody):
        yield body.parent, head.hlc
        left = body.moved
        for place in body.previous:
            yield place.parent, place.moved.hlc
            yield place.parent, left.hlc
            left = place.moved
    elif isinstance(body, ContentBody):
        for directory in body.directories:
            yield directory, head.hlc


def newest_moments(heads: Iterable[AnyHead]) -> dict[InodeId, int]:
    """The newest moment of each directory."""
    newest: dict[InodeId, int] = {}
    for head in heads:
        for directory, moment in moments(head):
            newest[directory] = max(moment, newest.get(directory, 0))
    return newest


def forgotten(superseded: Iterable[AnyHead], kept: Iterable[AnyHead]) -> dict[InodeId, int]:
    """The newest moments that go with some heads, since none of those that stay tells of them."""
    known = newest_moments(kept)
    return {
        directory: moment
        for directory, moment in newest_moments(superseded).items()
        if moment > known.get(directory, 0)
    }
