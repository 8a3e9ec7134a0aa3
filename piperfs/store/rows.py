"""Values of the store's tables. All are immutable; the tables of `schema.py` say what they key.

The index rows (`InodeRow`, `Entry` groups) are derived from the records and could be rebuilt from
them; they exist so that a lookup or a stat is one read.
"""

import msgspec

from piperfs.core.ids import ChunkId, InodeId, LinkId, ReplicaId, StoreId


class Place(msgspec.Struct, array_like=True, frozen=True):
    """A link that shows: where, under which name, and the stamp of the write that put it there."""

    link: LinkId
    parent: InodeId
    name: bytes
    hlc: int
    replica: ReplicaId


class InodeRow(msgspec.Struct, array_like=True, frozen=True):
    """Everything a stat needs, merged from the inode's records.

    Files and symlinks have one `Place` for each shown link; a directory has one while it is
    alive (the root none). `hidden` are known links that do not show, kept for re-evaluation.
    Times are ns since 1970; `changed_ns` is the newest change of a directory's entries.
    """

    mode: int  # permission bits, without the type
    owner: str
    group: str
    owner_set_by: ReplicaId
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    links: tuple[Place, ...] = ()
    hidden: tuple[LinkId, ...] = ()
    copies: int = 0  # losing versions shown as conflict copies
    entries: int = 0  # shown children (directories)
    subdirs: int = 0  # how many of them are directories
    changed_ns: int = 0
    times_ns: int = 0  # stamp of the explicitly set mtime, 0 if none (directories)
    rdev: int = 0  # device nodes
    data_bytes: int = 0  # how much of the size is data, the rest being holes
    born_ns: int = 0
    xattrs: dict[bytes, bytes] = {}  # of nodes that only this replica has; others have records


class LocalRow(msgspec.Struct, array_like=True, frozen=True):
    """What this replica knows of an inode and never tells anyone."""

    ino: int = 0  # kernel number that overrides the derived one; 0 = none
    atime_ns: int | None = None
    ctime_ns: int = 0  # of changes that only this replica knows, such as of the access time


class XattrValue(msgspec.Struct, array_like=True, frozen=True):
    """A live extended attribute and the stamp of the write that set it."""

    value: bytes
    replica: ReplicaId


class XattrsRow(msgspec.Struct, array_like=True, frozen=True):
    """All extended attributes of one inode, and the newest stamp of each, removed ones included."""

    values: dict[bytes, XattrValue]
    stamps: dict[bytes, int] = {}

    @property
    def changed_ns(self) -> int:
        """When any of them was last set or removed."""
        return max(self.stamps.values(), default=0)


class OperationRow(msgspec.Struct, array_like=True, frozen=True):
    """Where a live operation's envelope is, and how many of its writes are still heads."""

    lseq: int
    live: int


class Bucket(msgspec.Struct, array_like=True, frozen=True):
    """How many live operation ids begin with one two-byte prefix, and their sum mod 2^256."""

    count: int
    total: bytes


class WantRow(msgspec.Struct, array_like=True, frozen=True):
    """An absent chunk that a live version needs; `height` > 0 means that it may be a manifest node.

    One that is `lost` was here and turned out to be damaged: what it lists may be here still.
    """

    height: int
    order: int
    lost: bool = False


class AheadRow(msgspec.Struct, array_like=True, frozen=True):
    """An operation that is dated too far ahead to be merged yet, as signed, and who sent it."""

    envelope: bytes
    author: ReplicaId
    seq: int
    source: ReplicaId


class PeerRow(msgspec.Struct, array_like=True, frozen=True):
    """What is remembered of a peer between connections."""

    store: StoreId | None = None  # the peer's store that `cursor` counts in
    cursor: int = 0  # everything of the peer up to this lseq is durable here
    addresses: tuple[str, ...] = ()
    last_contact_ns: int = 0
    is_whole: bool = False  # nothing up to `cursor` was refused, or was lost here since


class OffenceRow(msgspec.Struct, array_like=True, frozen=True):
    """How often a member did something wrong, and what it was the last time."""

    count: int
    first_ns: int
    last_ns: int
    detail: str


class HistoryRow(msgspec.Struct, array_like=True, frozen=True):
    """A superseded version of a file's content, kept for undo; `envelope` is as signed."""

    envelope: bytes
    superseded_ns: int


class DigestRow(msgspec.Struct, array_like=True, frozen=True):
    """Which chunk holds a plaintext with this keyed digest."""

    chunk: ChunkId
