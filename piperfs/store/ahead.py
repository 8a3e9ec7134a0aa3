"""Operations that are dated more than a day ahead of this computer's clock: kept, and not merged.

A stamp orders concurrent writes, so one from the far future would win for years. It is no reason
to refuse the operation either, since this clock may be the wrong one, and a rule that rests on a
local clock would split replicas for ever. So the operation waits here, durably and unseen by
merge, log and digest, until the clock passes it; then it is judged like one that has just come.
Its content is fetched at once, since its author may be gone by then. It is not passed on meanwhile:
whoever's clock has passed it gets it from its author, or from somebody who merged it. A replica
whose own clock is wrong only delays itself.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from piperfs.core.ids import OperationId, ReplicaId
from piperfs.core.limits import AHEAD_BYTES_MAX, CLOCK_AHEAD_S_MAX
from piperfs.core.operation import Operation, latest_stamp
from piperfs.obs.log import get_logger
from piperfs.store.rows import AheadRow
from piperfs.store.tables import Table

log = get_logger("store")
AHEAD_NS_MAX: Final = CLOCK_AHEAD_S_MAX * 1_000_000_000
END: Final = b"\xff" * 41
STAMP_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class AheadOf:
    """What waits of one author."""

    operations: int
    until_ns: int  # when the clock here passes the last of them


class Ahead:
    """The operations that wait, by the stamp that they wait for."""

    def __init__(self, table: Table[AheadRow]) -> None:
        self._table = table
        self._keys: dict[OperationId, bytes] = {}
        self._count: Counter[ReplicaId] = Counter()
        self._bytes: Counter[ReplicaId] = Counter()
        self._from: Counter[ReplicaId] = Counter()
        for key, row in table.scan(b"", END):
            self._note(key, row, 1)

    def _note(self, key: bytes, row: AheadRow, step: int) -> None:
        operation = OperationId(key[STAMP_BYTES:])
        if step > 0:
            self._keys[operation] = key
        else:
            del self._keys[operation]
        for counter, replica in ((self._count, row.author), (self._from, row.source)):
            counter[replica] += step
            if not counter[replica]:
                del counter[replica]
        self._bytes[row.author] += step * len(row.envelope)

    def __contains__(self, operation: OperationId) -> bool:
        return operation in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def is_early(self, operation: Operation, now_ns: int) -> bool:
        """Whether an operation must wait."""
        return latest_stamp(operation) > now_ns + AHEAD_NS_MAX

    def add(self, operation: Operation, source: ReplicaId) -> bool:
        """Keep an operation; False if so much of its author waits that there is no room."""
        if operation.id in self._keys:
            return True
        if self._bytes[operation.replica] + len(operation.envelope) > AHEAD_BYTES_MAX:
            return False
        row = AheadRow(operation.envelope, operation.replica, operation.seq, source)
        stamp = latest_stamp(operation)
        if operation.replica not in self._count:
            log.warning("operations.ahead", author=operation.replica.hex()[:12], stamp_ns=stamp)
        key = stamp.to_bytes(STAMP_BYTES, "big") + operation.id
        self._table.put(key, row)
        self._note(key, row, 1)
        return True

    def take_due(self, now_ns: int, count: int) -> list[bytes]:
        """Take out those that need not wait any more, as signed, at most so many."""
        end = max(0, now_ns + AHEAD_NS_MAX + 1).to_bytes(STAMP_BYTES, "big")
        due = list(islice(self._table.scan(b"", end), count))
        for key, row in due:
            self._remove(key, row)
        return [row.envelope for _, row in due]

    def drop(self, counts: Callable[[ReplicaId, int], bool]) -> int:
        """Forget operations whose authors had no right to them; returns how many."""
        void = [
            (key, row)
            for key, row in self._table.scan(b"", END)
            if not counts(row.author, row.seq)
        ] if self._keys else []  # fmt: skip
        for key, row in void:
            self._remove(key, row)
        return len(void)

    def _remove(self, key: bytes, row: AheadRow) -> None:
        self._table.delete(key)
        self._note(key, row, -1)

    # Facts

    def came_from(self, source: ReplicaId) -> bool:
        """Whether something waits that a peer sent."""
        return source in self._from

    def highest_seq(self, author: ReplicaId) -> int:
        """The highest number among an author's operations that wait."""
        if author not in self._count:
            return 0
        rows = (row for _, row in self._table.scan(b"", END))
        return max(row.seq for row in rows if row.author == author)

    def facts(self) -> dict[ReplicaId, AheadOf]:
        """What waits, by author."""
        until: dict[ReplicaId, int] = {}
        for key, row in self._table.scan(b"", END) if self._keys else ():
            until[row.author] = int.from_bytes(key[:STAMP_BYTES], "big") - AHEAD_NS_MAX
        return {author: AheadOf(self._count[author], until[author]) for author in until}
