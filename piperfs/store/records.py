"""The heads of every record, with the local writes that are not published yet on top."""

from collections.abc import Iterator
from typing import cast

from piperfs.core.ids import ChunkId, OperationId
from piperfs.core.record import (
    PENDING,
    AnyHead,
    AttributesHead,
    ContentHead,
    Kind,
    LinkHead,
    XattrHead,
)
from piperfs.store.pending import RecordKey
from piperfs.store.schema import Tables


class Records:
    """Reads and replaces heads. A record with a pending head lives in memory only."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._pending: dict[RecordKey, tuple[AnyHead, ...]] = {}

    def heads(self, kind: Kind, key: bytes) -> tuple[AnyHead, ...]:
        """Current heads, newest first; empty if the record is unknown."""
        pending = self._pending.get((kind, key))
        if pending is not None:
            return pending
        return cast(tuple[AnyHead, ...], self._tables.records[kind].get(key) or ())

    def keys(self, kind: Kind) -> Iterator[bytes]:
        """Every record of a kind, in no order."""
        pending = {key for each, key in self._pending if each is kind}
        yield from pending
        stored = self._tables.records[kind].scan(b"", b"\xff" * 17)
        yield from (key for key, _ in stored if key not in pending)

    def unpublished_refs(self) -> Iterator[tuple[ChunkId, int]]:
        """Chunks that records in memory refer to, with their heights."""
        for (kind, _), heads in self._pending.items():
            for head in cast(tuple[ContentHead, ...], heads) if kind is Kind.CONTENT else ():
                yield from ((chunk, head.body.height) for chunk in head.refs)

    def links(self, key: bytes) -> tuple[LinkHead, ...]:
        return cast(tuple[LinkHead, ...], self.heads(Kind.LINK, key))

    def contents(self, key: bytes) -> tuple[ContentHead, ...]:
        return cast(tuple[ContentHead, ...], self.heads(Kind.CONTENT, key))

    def attributes(self, key: bytes) -> tuple[AttributesHead, ...]:
        return cast(tuple[AttributesHead, ...], self.heads(Kind.ATTRIBUTES, key))

    def xattr(self, key: bytes) -> tuple[XattrHead, ...]:
        return cast(tuple[XattrHead, ...], self.heads(Kind.XATTR, key))

    def put(self, kind: Kind, key: bytes, heads: tuple[AnyHead, ...]) -> None:
        if any(head.operation == PENDING for head in heads):
            self._pending[kind, key] = heads
        else:
            self._pending.pop((kind, key), None)
            self._tables.records[kind].put(key, heads)

    def replace(self, kind: Kind, key: bytes, heads: tuple[AnyHead, ...]) -> None:
        """Like `put`; with no heads left the record is unknown again."""
        if heads:
            self.put(kind, key, heads)
        else:
            self._tables.records[kind].delete(key)

    def forget(self, kind: Kind, key: bytes) -> None:
        """Drop a record that was never published."""
        del self._pending[kind, key]

    def publish(self, kind: Kind, key: bytes, final: AnyHead) -> None:
        """Give the pending head its number and its operation."""
        heads = self._pending.pop((kind, key))
        numbered = tuple(final if head.operation == PENDING else head for head in heads)
        self._tables.records[kind].put(key, numbered)


def operations_of(heads: tuple[AnyHead, ...]) -> list[OperationId]:
    """The published operations that heads come from."""
    return [head.operation for head in heads if head.operation != PENDING]
