"""Taking out operations that turned out not to count, and putting back what they had superseded.

A removal reaches some replicas later than what the removed member wrote meanwhile. Once it is
known, the state must be the one that a replica has which refused those operations from the start,
or replicas would differ for ever. Versions come back from the log and from history; what is in
neither comes back from replicas that never gave it up.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from piperfs.core.ids import ChunkId, InodeId, LinkId, OperationId, ReplicaId, is_directory
from piperfs.core.moments import newest_moments
from piperfs.core.operation import Envelope, Operation, Unseal, decode, decode_header
from piperfs.core.record import AnyHead, Kind, LinkBody, XattrBody
from piperfs.store.chunks import ChunkStore
from piperfs.store.local import Parts
from piperfs.store.oplog import dot_key
from piperfs.store.pending import RecordKey
from piperfs.store.remote import RemoteWriter
from piperfs.store.rows import XattrsRow

END: Final = b"\xff" * 41
LONG_END: Final = b"\xff" * 57

_pack = msgspec.msgpack.Encoder().encode
_Stale = tuple[RecordKey, tuple[AnyHead, ...]]  # a record that lost heads, with all it had


@dataclass(slots=True)
class _Plan:
    """What goes, and what might come back."""

    void: dict[OperationId, bytes] = field(default_factory=dict)  # with the dot of each
    records: set[RecordKey] = field(default_factory=set)
    chunks: set[ChunkId] = field(default_factory=set)
    kept: set[ChunkId] = field(default_factory=set)


class Withdrawal:
    """One run, on the event-loop thread."""

    def __init__(self, parts: Parts, chunks: ChunkStore, remote: RemoteWriter) -> None:
        self._parts = parts
        self._forks = remote.forks
        self._chunks = chunks
        self._remote = remote

    def run(self, until: Mapping[ReplicaId, int], unseal: Unseal | None, now_ns: int) -> int:
        """Take out all operations of an author beyond a number; returns how many there were."""
        plan = self._plan(until)
        revived = sorted(self._superseded(plan, until, unseal), key=lambda op: (op.seq, op.id))
        stale = self._drop(plan)
        for operation in revived:
            self._remote.reapply(operation, now_ns)
        if not self._remote.is_blind:
            self._parts.index.recompute_moments(_directories(stale))
        return len(plan.void)

    def _envelopes(self) -> Iterator[bytes]:
        for _, envelope in self._parts.tables.envelope.scan(b"", END):
            yield _pack(envelope)
        for _, row in self._parts.tables.history.scan(b"", END):
            yield row.envelope

    def _plan(self, until: Mapping[ReplicaId, int]) -> _Plan:
        plan = _Plan()
        for _, envelope in self._parts.tables.envelope.scan(b"", END):
            header = decode_header(_pack(envelope))
            refs = {ref for write in header.writes for ref in write.refs}
            if header.replica in until and header.seq > until[header.replica]:
                plan.void[envelope.id] = dot_key(header.replica, header.seq)
                plan.records.update((write.kind, write.key) for write in header.writes)
                plan.chunks |= refs
            else:
                plan.kept |= refs
        return plan

    def _superseded(
        self, plan: _Plan, until: Mapping[ReplicaId, int], unseal: Unseal | None
    ) -> Iterable[Operation]:
        """Operations that count and write one of the records concerned."""
        found: dict[OperationId, Operation] = {}
        for raw in self._envelopes():
            header = decode_header(raw)
            is_void = header.replica in until and header.seq > until[header.replica]
            if is_void or not any((w.kind, w.key) in plan.records for w in header.writes):
                continue
            if self._is_signed(raw):
                operation = decode(raw, unseal)
                found[operation.id] = operation
        return found.values()

    @staticmethod
    def _is_signed(raw: bytes) -> bool:
        """Our own newest operations are signed when they are committed; they are heads still."""
        envelope: Envelope = msgspec.msgpack.decode(raw, type=Envelope)
        return bool(envelope.signature)

    def _hold(self, operation: OperationId, dot: bytes) -> None:
        """Keep what a fork stopped, for whoever decides about it."""
        raw = self._parts.log.signed(operation)
        if raw is not None and self._forks.stops(dot):
            self._forks.hold(dot, operation, raw)

    def _aside(self) -> set[ChunkId]:
        """What is referred to by operations that do not count now, and may later."""
        tables = self._parts.tables
        raws = [raw for _, raw in tables.held.scan(b"", LONG_END)]
        raws += [row.envelope for _, row in tables.ahead.scan(b"", END)]
        headers = map(decode_header, raws)
        return {ref for header in headers for write in header.writes for ref in write.refs}

    def _drop(self, plan: _Plan) -> list[_Stale]:
        stale: list[_Stale] = []
        for key in plan.records:
            before = self._parts.records.heads(*key)
            kept = tuple(head for head in before if head.operation not in plan.void)
            self._parts.records.replace(*key, kept)
            stale.append((key, before))
        for operation, dot in plan.void.items():
            self._hold(operation, dot)
            self._parts.log.remove(operation, dot)
        for chunk in plan.chunks - plan.kept - self._aside():
            self._chunks.forget_want(chunk)
        if not self._remote.is_blind:
            for record, before in stale:
                self._refresh(record, before)
        return stale

    def _refresh(self, key: RecordKey, before: tuple[AnyHead, ...]) -> None:
        index, (kind, name) = self._parts.index, key
        heads = self._parts.records.heads(kind, name)
        if kind is Kind.LINK:
            bodies = [head.body for head in (*before, *heads)]
            for target in {body.target for body in bodies if isinstance(body, LinkBody)}:
                index.refresh(target, [LinkId(name)])
        elif kind is Kind.XATTR and heads:
            index.refresh_xattr(_inode_of(heads), name)
        elif kind is Kind.XATTR and before:
            self._forget_xattr(before)
        else:
            index.note_content(InodeId(name))
            index.refresh(InodeId(name))

    def _forget_xattr(self, before: tuple[AnyHead, ...]) -> None:
        inode = _inode_of(before)
        row = self._parts.tables.xattrs.get(inode)
        if row is not None:
            gone = {head.body.name for head in before if isinstance(head.body, XattrBody)}
            values = {name: value for name, value in row.values.items() if name not in gone}
            stamps = {name: stamp for name, stamp in row.stamps.items() if name not in gone}
            self._parts.tables.xattrs.put(inode, XattrsRow(values, stamps))
        self._parts.index.refresh(inode)


def _directories(stale: Iterable[_Stale]) -> set[InodeId]:
    """Those whose times may come from a head that went, or that are not known any more."""
    found = set(newest_moments(head for _, before in stale for head in before))
    keys = (InodeId(key) for (kind, key), _ in stale if kind in (Kind.ATTRIBUTES, Kind.LINK))
    return found | {key for key in keys if is_directory(key)}


def _inode_of(heads: tuple[AnyHead, ...]) -> InodeId:
    body = heads[0].body
    assert isinstance(body, XattrBody)
    return body.inode
