"""The replicated values: four kinds of record, and the heads that a record's state consists of.

A record is a register that many replicas write. Its state is the set of its *heads*: the writes
that no other known write covers. One head is the rule; several mean that people wrote at once.
The kinds are separate records so that a rename never conflicts with a write, and a chmod with
neither:

* LINK: where an inode hangs (parent, name). A directory's link id is its inode id, so a
  directory hangs in one place by construction, whatever a hostile writer sends.
* CONTENT: a file's size, times and manifest, a symlink's target; or their deletion.
* ATTRIBUTES: what chmod, chown and utimens set after birth; fields merge one by one.
* XATTR: one extended attribute; its key is a hash of inode id and name.
"""

import enum
from collections.abc import Iterator
from typing import Generic, TypeAlias, TypeVar

import msgspec
from blake3 import blake3

from piperfs.core.ids import ChunkId, InodeId, LinkId, OperationId, ReplicaId

PENDING = OperationId(b"")  # the operation of a local write that is not yet published
PENDING_SEQ = 1 << 63  # its sequence number: beyond every real one, replaced at publication


class Kind(enum.IntEnum):
    """Kinds of record; the number is the first byte of a record's key."""

    LINK = 1
    CONTENT = 2
    ATTRIBUTES = 3
    XATTR = 4


class Stamp(msgspec.Struct, array_like=True, frozen=True, order=True, gc=False):
    """A hybrid logical time and who took it; orders concurrent writes, nothing else."""

    hlc: int
    replica: ReplicaId


class Birth(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Attributes an inode is born with: permission bits, owner and group by name, and where."""

    mode: int
    owner: str
    group: str
    replica: ReplicaId = ReplicaId(b"")
    born_ns: int = 0  # when; a directory's is filled in when the write is made


class PreviousPlace(msgspec.Struct, array_like=True, frozen=True):
    """An earlier parent, for falling back when moves made at once would close a cycle."""

    parent: InodeId
    moved: Stamp


class LinkBody(msgspec.Struct, array_like=True, frozen=True):
    """Where an inode hangs. `moved` is the stamp of the write that last changed the parent.

    A removed link of a file keeps `content_seen`, the vector of the versions that its remover knew,
    so that a version written meanwhile does not vanish with the last of several names.
    """

    alive: bool
    parent: InodeId
    name: bytes
    target: InodeId
    moved: Stamp
    previous: tuple[PreviousPlace, ...] = ()
    birth: Birth | None = None  # directories only; a file's is in its content
    content_seen: dict[ReplicaId, int] = {}


class ContentBody(msgspec.Struct, array_like=True, frozen=True):
    """One version of a file's or symlink's content, or its deletion.

    The manifest's chunk ids travel in the clear part of the operation (`Head.refs`), so that a
    replica without keys can fetch and keep them; `lengths` holds the extents' lengths in bytes,
    a hole being a negative one that uses up no chunk id. With `height` > 0 the chunks are nodes
    of a manifest tree.

    A deletion keeps the last live version (for undelete) and `links_seen`: for each link the
    vector that the deleting replica had seen, so that a link it had not seen survives.
    """

    alive: bool
    size: int
    mtime_ns: int
    birth: Birth
    height: int = 0
    lengths: tuple[int, ...] = ()
    target: bytes = b""
    base: bytes = b""  # digest of the version that was knowingly replaced
    directories: tuple[InodeId, ...] = ()  # whose names a rename over them or a deletion changed
    links_seen: dict[LinkId, dict[ReplicaId, int]] = {}


class Field(msgspec.Struct, array_like=True, frozen=True):
    """One attribute with the stamp of the write that set it."""

    value: int | str
    stamp: Stamp


class Times(msgspec.Struct, array_like=True, frozen=True):
    """A modification time set by hand; it holds for the content write `replica`, `seq` only."""

    mtime_ns: int
    stamp: Stamp
    replica: ReplicaId = ReplicaId(b"")
    seq: int = 0


class AttributesBody(msgspec.Struct, array_like=True, frozen=True):
    """What was set after birth; None where a field was never touched."""

    mode: Field | None = None
    owner: Field | None = None
    group: Field | None = None
    times: Times | None = None


class XattrBody(msgspec.Struct, array_like=True, frozen=True):
    """One extended attribute; a value of None is a removal."""

    inode: InodeId
    name: bytes
    value: bytes | None


Body: TypeAlias = LinkBody | ContentBody | AttributesBody | XattrBody
B = TypeVar("B", bound="Body")

BODY_TYPES: dict[Kind, type[Body]] = {
    Kind.LINK: LinkBody,
    Kind.CONTENT: ContentBody,
    Kind.ATTRIBUTES: AttributesBody,
    Kind.XATTR: XattrBody,
}


class Head(msgspec.Struct, Generic[B], array_like=True, frozen=True):
    """One write of a record, as every replica keeps it while nothing covers it.

    `vector` includes the write's own dot: `vector[replica] == seq`.
    """

    replica: ReplicaId
    seq: int
    hlc: int
    vector: dict[ReplicaId, int]
    refs: tuple[ChunkId, ...]
    body: B
    operation: OperationId = PENDING

    @property
    def stamp(self) -> tuple[int, bytes, int, bytes]:
        """A total order over all writes; only tie-breaks between concurrent ones use it."""
        return (self.hlc, self.replica, self.seq, self.operation)

    @property
    def moment(self) -> Stamp:
        return Stamp(self.hlc, self.replica)


LinkHead: TypeAlias = Head[LinkBody]
ContentHead: TypeAlias = Head[ContentBody]
AttributesHead: TypeAlias = Head[AttributesBody]
XattrHead: TypeAlias = Head[XattrBody]
AnyHead: TypeAlias = Head[LinkBody] | Head[ContentBody] | Head[AttributesBody] | Head[XattrBody]


def record_key(kind: Kind, key: bytes) -> bytes:
    return bytes((kind,)) + key


def xattr_key(inode: InodeId, name: bytes) -> bytes:
    """Key of the record that holds one extended attribute: 16 bytes."""
    return blake3(inode + name).digest(length=16)


def is_alive(head: "AnyHead") -> bool:
    """Whether what a head tells of is there; where bodies are unreadable, all are taken so."""
    return getattr(head.body, "alive", True)


def refs_of(head: ContentHead) -> Iterator[tuple[ChunkId, int]]:
    """A version's chunks with their heights; where bodies are unreadable, any may be a node."""
    height = getattr(head.body, "height", 1)
    return ((chunk, height) for chunk in head.refs)


def content_digest(body: ContentBody, refs: tuple[bytes, ...]) -> bytes:
    """16 bytes that are equal exactly when two versions have the same bytes in the same chunks."""
    shape = repr((body.size, body.height, body.lengths)).encode()
    return blake3(b"".join((shape, b"\x00", body.target, b"\x00", *refs))).digest(length=16)
