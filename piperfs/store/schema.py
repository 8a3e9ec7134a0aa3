"""The tables of a store: what each is keyed by, what it holds, and what always holds for it.

| table      | key                              | value                      |
|------------|----------------------------------|----------------------------|
| meta       | name                             | bytes                      |
| link, content, attributes, xattr | record key (16) | heads, newest first      |
| inode      | inode id                         | InodeRow                   |
| entry      | parent (16), name hash (16)      | links that claim the name  |
| conflict   | parent (16), name hash (16)      | name, while it is disputed |
| alias      | parent (16), name hash (16)      | name, while several directories share it |
| pointer    | directory                        | fall-back place in force, never 0 |
| xattrs     | inode id                         | XattrsRow                  |
| local      | inode id                         | LocalRow                   |
| operation  | operation id                     | OperationRow               |
| envelope   | lseq (8)                         | signed operation           |
| author     | replica id                       | its newest signed operation |
| bucket     | first two bytes of operation ids | Bucket                     |
| history    | superseded at (8), operation id  | HistoryRow                 |
| chunk      | chunk id                         | sealed bytes (checked by their hash) |
| digest     | keyed hash of plaintext (32)     | chunk id                   |
| want       | chunk id                         | WantRow, while absent      |
| ahead      | stamp (8), operation id          | AheadRow, until the clock passes it |
| peer       | replica id                       | PeerRow                    |
| offence    | replica id, kind                 | OffenceRow                 |
| member     | membership record id             | signed record              |
| dot        | replica id, number (8)           | live operation with that number |
| fork       | replica id                       | proof that it signed twice |
| held       | replica id, number (8), operation id | signed operation beyond a fork |

Invariants: the heads of a record are pairwise incomparable; `operation.live` counts the heads
that come from the operation and is never 0; buckets sum up exactly the keys of `operation`, and
only numbers of those are in `dot`; the
rows from `inode` to `pointer` are a function of the records.
"""

from typing import Final

import msgspec

from piperfs.core.forks import Fork
from piperfs.core.ids import ChunkId
from piperfs.core.names import Entry
from piperfs.core.operation import Envelope
from piperfs.core.record import AttributesBody, ContentBody, Head, Kind, LinkBody, XattrBody
from piperfs.store.cells import Cells
from piperfs.store.engine import Engine
from piperfs.store.rows import (
    AheadRow,
    Bucket,
    HistoryRow,
    InodeRow,
    LocalRow,
    OffenceRow,
    OperationRow,
    PeerRow,
    WantRow,
    XattrsRow,
)
from piperfs.store.tables import Codec, Encode, Table, raw_bytes, sealed

FORMAT: Final = 1

NAMES: Final = (
    "meta",
    "link",
    "content",
    "attributes",
    "xattr",
    "inode",
    "entry",
    "conflict",
    "alias",
    "pointer",
    "xattrs",
    "local",
    "operation",
    "envelope",
    "author",
    "bucket",
    "history",
    "chunk",
    "digest",
    "want",
    "ahead",
    "peer",
    "offence",
    "member",
    "dot",
    "fork",
    "held",
)


def after(prefix: bytes) -> bytes:
    """The least key beyond all keys that begin with `prefix`."""
    stripped = prefix.rstrip(b"\xff")
    assert stripped, "a prefix of only ff bytes has no end"
    return stripped[:-1] + bytes((stripped[-1] + 1,))


class Tables:
    """All tables of one store. `sign_envelope` signs what is not yet signed and encodes it."""

    def __init__(
        self, engine: Engine, cells: Cells, sign_envelope: Encode[Envelope], *, is_blind: bool
    ) -> None:
        def table(name: str, kind: object) -> Table:  # type: ignore[type-arg]
            return Table(name, engine, sealed(kind, cells))

        self.meta: Table[bytes] = Table("meta", engine, raw_bytes(cells))
        self.link: Table[tuple[Head[LinkBody], ...]] = table("link", tuple[Head[LinkBody], ...])
        self.content: Table[tuple[Head[ContentBody], ...]] = table(
            "content", tuple[Head[ContentBody], ...]
        )
        self.attributes: Table[tuple[Head[AttributesBody], ...]] = table(
            "attributes", tuple[Head[AttributesBody], ...]
        )
        self.xattr: Table[tuple[Head[XattrBody], ...]] = table("xattr", tuple[Head[XattrBody], ...])
        self.inode: Table[InodeRow] = table("inode", InodeRow)
        self.entry: Table[tuple[Entry, ...]] = table("entry", tuple[Entry, ...])
        self.conflict: Table[bytes] = Table("conflict", engine, raw_bytes(cells))
        self.alias: Table[bytes] = Table("alias", engine, raw_bytes(cells))
        self.pointer: Table[int] = table("pointer", int)
        self.xattrs: Table[XattrsRow] = table("xattrs", XattrsRow)
        self.local: Table[LocalRow] = table("local", LocalRow)
        self.operation: Table[OperationRow] = table("operation", OperationRow)
        signed = Codec(sign_envelope, msgspec.msgpack.Decoder(Envelope).decode, cells)
        self.envelope: Table[Envelope] = Table("envelope", engine, signed)
        self.author: Table[Envelope] = Table("author", engine, signed)
        self.bucket: Table[Bucket] = table("bucket", Bucket)
        self.history: Table[HistoryRow] = table("history", HistoryRow)
        self.chunk: Table[bytes] = Table("chunk", engine, raw_bytes())
        self.digest: Table[ChunkId] = table("digest", ChunkId)
        self.want: Table[WantRow] = table("want", WantRow)
        self.ahead: Table[AheadRow] = table("ahead", AheadRow)
        self.peer: Table[PeerRow] = table("peer", PeerRow)
        self.offence: Table[OffenceRow] = table("offence", OffenceRow)
        self.member: Table[bytes] = Table("member", engine, raw_bytes(cells))
        self.dot: Table[bytes] = Table("dot", engine, raw_bytes(cells))
        self.fork: Table[Fork] = table("fork", Fork)
        self.held: Table[bytes] = Table("held", engine, raw_bytes(cells))
        self.records: dict[Kind, Table] = {  # type: ignore[type-arg]
            Kind.LINK: self.link,
            Kind.CONTENT: self.content,
            Kind.ATTRIBUTES: self.attributes,
            Kind.XATTR: self.xattr,
        }
        if is_blind:  # heads without bodies
            for kind, each in self.records.items():
                self.records[kind] = table(each.name, tuple[Head[None], ...])  # type: ignore[type-var]
            self.link, self.content = self.records[Kind.LINK], self.records[Kind.CONTENT]
            self.attributes, self.xattr = self.records[Kind.ATTRIBUTES], self.records[Kind.XATTR]
        self.all: tuple[Table, ...] = tuple(getattr(self, name) for name in NAMES)  # type: ignore[type-arg]
