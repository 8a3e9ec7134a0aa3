"""Local changes, as the file system states them; the store turns them into writes.

A change says what a system call did. Stamps, vectors, remembered parents and the links that a
deletion has seen are the store's business, so that there is one place to get them right.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from piperfs.core.ids import ChunkId, InodeId, LinkId
from piperfs.core.record import Birth, ContentBody, ContentHead


@dataclass(eq=False, slots=True)
class Pin:
    """The versions that an open file's writer is based on.

    Taken when an inode is first opened for writing. A commit of the session supersedes exactly
    these; what arrives from elsewhere meanwhile stays beside it. The store moves the pin along
    with each commit of the session.
    """

    inode: InodeId
    heads: tuple[ContentHead, ...]


@dataclass(frozen=True, slots=True)
class PutLink:
    """A new name for an inode. A directory's link id is its inode id and it needs a birth."""

    link: LinkId
    parent: InodeId
    name: bytes
    target: InodeId
    birth: Birth | None = None


@dataclass(frozen=True, slots=True)
class MoveLink:
    """Another place or name for a link; brings a dead one back."""

    link: LinkId
    parent: InodeId
    name: bytes


@dataclass(frozen=True, slots=True)
class RetargetLink:
    """The name now stands for another inode (a rename over one of several hard links)."""

    link: LinkId
    target: InodeId


@dataclass(frozen=True, slots=True)
class KillLink:
    """One of several hard links, or a directory, is removed.

    Whoever removed it knew the pinned versions of the file, or all current ones without a pin.
    """

    link: LinkId
    pin: Pin | None = None


@dataclass(frozen=True, slots=True)
class PutContent:
    """A new version. It supersedes the pinned versions, or all current ones without a pin.

    One that `replaces` the file came by a rename over its names: their directories changed.
    """

    inode: InodeId
    body: ContentBody
    refs: tuple[ChunkId, ...] = ()
    pin: Pin | None = None
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class DeleteContent:
    """The last name of a file or symlink is removed.

    That takes the pinned versions away, or all current ones without a pin.
    """

    inode: InodeId
    pin: Pin | None = None


@dataclass(frozen=True, slots=True)
class SetAttributes:
    """chmod, chown, utimens: only the fields that are set."""

    inode: InodeId
    mode: int | None = None
    owner: str | None = None
    group: str | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class SetXattr:
    """One extended attribute; a value of None removes it."""

    inode: InodeId
    name: bytes
    value: bytes | None


Change: TypeAlias = (
    PutLink
    | MoveLink
    | RetargetLink
    | KillLink
    | PutContent
    | DeleteContent
    | SetAttributes
    | SetXattr
)


def chunks_of(changes: Sequence[Change]) -> Iterator[tuple[ChunkId, int]]:
    """What new versions refer to: chunks and heights."""
    for change in changes:
        if isinstance(change, PutContent):
            yield from ((chunk, change.body.height) for chunk in change.refs)
