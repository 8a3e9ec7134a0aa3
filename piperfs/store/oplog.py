"""The log of live operations: local order for peers that were here before, ranges for repair.

An operation is live while one of its writes is a head of its record. Which operations are live
is a function of the operations received, so two replicas with the same state list the same ids;
range fingerprints over the ids find any difference, whatever made it.
"""

from collections.abc import Iterator
from math import inf
from typing import Final

import msgspec

from piperfs.core.errors import StoreError
from piperfs.core.ids import OperationId, ReplicaId
from piperfs.core.operation import Envelope
from piperfs.store.rows import Bucket, HistoryRow, OperationRow
from piperfs.store.schema import Tables, after

ZERO: Final = bytes(32)
MODULUS: Final = 1 << 256
PAGE_KEYS: Final = 1024
END: Final = b"\xff" * 33
SUM: Final = b"log_sum"  # count and sum of all live ids, in the table of facts

_pack_envelope = msgspec.msgpack.Encoder().encode


def lseq_key(lseq: int) -> bytes:
    return lseq.to_bytes(8, "big")


def dot_key(replica: ReplicaId, seq: int) -> bytes:
    """An author and one of its numbers, in the order of numbers."""
    return replica + seq.to_bytes(8, "big")


class OperationLog:
    """Live operations by local sequence number and by id.

    `last_lseq` counts every operation ever stored here; `durable_lseq` those a crash cannot take
    back, the only ones that a peer may be told of.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        raw = tables.meta.get(b"last_lseq")
        self.last_lseq = int.from_bytes(raw or b"", "big")
        self.durable_lseq = self.last_lseq
        self._count, self._total = self._sum_buckets()
        self._frozen = self.durable_sum = (self._count, self._total)
        self.whole_until: float = inf  # lseq; what comes next was found to be damaged
        self.outdated = 0  # writes that others took the place of, since the start

    def _sum_buckets(self) -> tuple[int, int]:
        known = self._tables.meta.get(SUM)
        if known is not None:
            return int.from_bytes(known[:8], "big"), int.from_bytes(known[8:], "big")
        rows = [bucket for _, bucket in self._tables.bucket.scan(b"", END)]
        total = sum(int.from_bytes(bucket.total, "big") for bucket in rows) % MODULUS
        return sum(bucket.count for bucket in rows), total

    def append(self, operation: OperationId, dot: bytes, envelope: Envelope, live: int) -> None:
        assert live > 0
        row = self._tables.operation.get(operation)
        if row is not None:  # some of its writes were superseded, and are not any more
            self._tables.operation.put(operation, OperationRow(row.lseq, row.live + live))
            return
        self.last_lseq += 1
        self._tables.operation.put(operation, OperationRow(self.last_lseq, live))
        self._tables.envelope.put(lseq_key(self.last_lseq), envelope)
        if not self._tables.dot.has(dot):
            self._tables.dot.put(dot, operation)
        self._add(operation, 1)

    def meet(self, dot: bytes) -> None:
        """Read what adding or releasing would: raises StoreError, before any change, for damage."""
        self._tables.dot.get(dot)

    def note_position(self) -> None:
        """Write the counter down; once for each commit."""
        self._tables.meta.put(b"last_lseq", lseq_key(self.last_lseq))
        self._frozen = (self._count, self._total)
        row = self._count.to_bytes(8, "big") + self._total.to_bytes(32, "big")
        self._tables.meta.put(SUM, row)

    def note_durable(self, lseq: int) -> None:
        """What was noted last is on stable storage now."""
        self.durable_lseq = lseq
        self.durable_sum = self._frozen

    def count(self) -> int:
        """How many operations are live and durable."""
        return self._tables.operation.count_durable()

    def has(self, operation: OperationId) -> bool:
        return self._tables.operation.has(operation)

    def release(self, operation: OperationId, dot: bytes, now_ns: int, *, keep: bool) -> None:
        """One write of the operation is no head any more; the last one takes it out.

        What is damaged stays for `fsck --repair`: the change that it gave way to must not be made
        by half.
        """
        try:
            row = self._tables.operation.get(operation)
            assert row is not None, "a head's operation is live"
            key = lseq_key(row.lseq)
            envelope = self._tables.envelope.get(key) if keep else None
        except StoreError:
            return
        self.outdated += 1
        if keep:
            assert envelope is not None
            raw = _pack_envelope(envelope)
            self._tables.history.put(lseq_key(now_ns) + operation, HistoryRow(raw, now_ns))
        if row.live > 1:
            self._tables.operation.put(operation, OperationRow(row.lseq, row.live - 1))
            return
        self._take_out(operation, dot, key)

    def remove(self, operation: OperationId, dot: bytes) -> None:
        """Take an operation out as if it had never come."""
        row = self._tables.operation.get(operation)
        assert row is not None, "only live operations are removed"
        self._take_out(operation, dot, lseq_key(row.lseq))

    def _take_out(self, operation: OperationId, dot: bytes, key: bytes) -> None:
        self._tables.operation.delete(operation)
        self._tables.envelope.delete(key)
        if self._tables.dot.get(dot) == operation:
            self._tables.dot.delete(dot)
        self._add(operation, -1)

    def under(self, dot: bytes) -> OperationId | None:
        """The live operation that has an author's number."""
        found = self._tables.dot.get(dot)
        return None if found is None else OperationId(found)

    def has_beyond(self, author: ReplicaId, seq: int) -> bool:
        """Whether a live operation of an author has a greater number."""
        later = self._tables.dot.keys(dot_key(author, seq + 1), after(author))
        return next(iter(later), None) is not None

    def signed(self, operation: OperationId) -> bytes | None:
        """A live operation, durable or not; our own newest ones are not signed yet."""
        row = self._tables.operation.get(operation)
        found = None if row is None else self._tables.envelope.get(lseq_key(row.lseq))
        return None if found is None or not found.signature else _pack_envelope(found)

    def _add(self, operation: OperationId, step: int) -> None:
        """Count an operation that came, or went, a moment ago."""
        key = operation[:2]
        value = int.from_bytes(operation, "big") * step
        self._count += step
        self._total = (self._total + value) % MODULUS
        try:
            bucket = self._tables.bucket.get(key) or Bucket(0, ZERO)
            count, total = bucket.count + step, int.from_bytes(bucket.total, "big") + value
        except StoreError:  # damaged; it follows from the ids
            ids = list(self._tables.operation.keys(key, key + END))
            count, total = len(ids), sum(int.from_bytes(each, "big") for each in ids)
        self._tables.bucket.put(key, Bucket(count, (total % MODULUS).to_bytes(32, "big")))

    def envelope(self, operation: OperationId) -> bytes | None:
        """A live operation that is durable, as signed."""
        row = self._tables.operation.get_durable(operation)
        found = None if row is None else self._tables.envelope.get_durable(lseq_key(row.lseq))
        return None if found is None else _pack_envelope(found)

    def after(self, lseq: int, bytes_max: int) -> list[tuple[int, bytes]]:
        """Durable live operations beyond a local sequence number, oldest first.

        At least one is returned if there is any, then as many as fit `bytes_max`.
        """
        found: list[tuple[int, bytes]] = []
        total = 0
        for key, envelope in self._tables.envelope.scan_durable(lseq_key(lseq + 1), b"\xff" * 9):
            raw = _pack_envelope(envelope)
            total += len(raw)
            if found and total > bytes_max:
                break
            found.append((int.from_bytes(key, "big"), raw))
        return found

    def after_with_ids(self, lseq: int, bytes_max: int) -> list[tuple[int, OperationId, Envelope]]:
        """Like `after`, as envelopes with their ids; what is damaged is left out."""
        found: list[tuple[int, OperationId, Envelope]] = []
        total = 0
        for key, envelope in self._readable(lseq_key(lseq + 1)):
            total += len(envelope.header) + len(envelope.sealed) + 80
            if found and total > bytes_max:
                break
            found.append((int.from_bytes(key, "big"), envelope.id, envelope))
        return found

    def _readable(self, start: bytes) -> Iterator[tuple[bytes, Envelope]]:
        """Envelopes in order. Those behind the first damaged one are no prefix any more."""
        end = b"\xff" * 9
        while True:
            try:
                for key, envelope in self._tables.envelope.scan_durable(start, end):
                    start = after(key)
                    yield key, envelope
            except StoreError:
                (damaged,) = next(self._tables.envelope.durable_keys(start, end, 1))
                self.whole_until = min(self.whole_until, int.from_bytes(damaged, "big") - 1)
                start = after(damaged)
            else:
                return

    def fingerprint(self, lower: bytes, upper: bytes) -> tuple[int, bytes]:
        """Count and sum (mod 2^256) of the live durable ids with lower <= id < upper."""
        if not lower and upper >= END:
            count, total = self.durable_sum
            return count, total.to_bytes(32, "big")
        count, total = 0, 0
        for part_count, part_total in self._parts(lower, upper):
            count += part_count
            total += part_total
        return count, (total % MODULUS).to_bytes(32, "big")

    def _parts(self, lower: bytes, upper: bytes) -> Iterator[tuple[int, int]]:
        """Whole buckets where the range covers them, single ids at its edges."""
        first = lower[:2] if not lower[2:].strip(b"\0") else _next_bucket(lower)
        last = upper[:2] if upper < END else b"\xff\xff\xff"
        if first is None or first >= last:
            yield from self._ids(lower, upper)
            return
        yield from self._ids(lower, first)
        yield from self._buckets(first, last)
        if upper < END:
            yield from self._ids(last, upper)

    def _buckets(self, first: bytes, last: bytes) -> list[tuple[int, int]]:
        buckets = self._tables.bucket.scan_durable(first, last)
        try:
            return [(bucket.count, int.from_bytes(bucket.total, "big")) for _, bucket in buckets]
        except StoreError:  # one is damaged; they follow from the ids
            return list(self._ids(first, last))

    def _ids(self, lower: bytes, upper: bytes) -> Iterator[tuple[int, int]]:
        for keys in self._tables.operation.durable_keys(lower, upper, PAGE_KEYS):
            for key in keys:
                yield 1, int.from_bytes(key, "big")

    def ids(self, lower: bytes, upper: bytes, limit: int) -> list[OperationId]:
        """Live durable ids with lower <= id < upper, sorted, at most `limit`."""
        first = next(self._tables.operation.durable_keys(lower, upper, limit), [])
        return [OperationId(key) for key in first]


def _next_bucket(lower: bytes) -> bytes | None:
    prefix = lower[:2].ljust(2, b"\0")
    return None if prefix == b"\xff\xff" else after(prefix).ljust(2, b"\0")
