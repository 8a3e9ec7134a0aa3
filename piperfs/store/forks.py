"""What the store knows of authors that signed twice, and what it holds back of them.

Held operations are as durable as others, but count for nothing: they are in no record, no log and
no fingerprint, and are not passed on. They wait for an admin, or for their author to go on under
another identity.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from piperfs.core import limits
from piperfs.core.forks import Fork, make_fork, point_of
from piperfs.core.ids import OperationId, ReplicaId
from piperfs.core.operation import Operation
from piperfs.store.oplog import OperationLog, dot_key
from piperfs.store.schema import Tables, after

END: Final = b"\xff" * 57


class Forks:
    """Proofs by author, and the operations that they stop."""

    def __init__(self, tables: Tables, log: OperationLog) -> None:
        self._tables = tables
        self._log = log
        self.known: dict[ReplicaId, int] = {
            ReplicaId(replica): point_of(fork).seq for replica, fork in tables.fork.scan(b"", END)
        }
        self.limits: Mapping[ReplicaId, int] = self.known  # those that are in force
        self._held: Counter[ReplicaId] = Counter()
        self._held_bytes = 0
        for key, raw in tables.held.scan(b"", END):
            self._held[ReplicaId(key[:16])] += 1
            self._held_bytes += len(raw)

    def proofs(self) -> list[Fork]:
        """One for each author that is known to have signed twice."""
        return [fork for _, fork in self._tables.fork.scan(b"", END)]

    def put(self, fork: Fork) -> bool:
        """Keep a proof that was checked; tells whether it says more than what is known."""
        point = point_of(fork)
        if point.seq >= self.known.get(point.replica, limits.SEQ_MAX + 1):
            return False
        self.known[point.replica] = point.seq
        self._tables.fork.put(point.replica, fork)
        return True

    def find(self, operation: Operation) -> Fork | None:
        """The proof that a verified operation makes together with a live one."""
        rival = self._log.under(dot_key(operation.replica, operation.seq))
        if rival is None or rival == operation.id:
            return None
        raw = self._log.signed(rival)
        return None if raw is None else make_fork(raw, operation.envelope)

    def stops(self, dot: bytes) -> bool:
        """Whether a number lies beyond the fork of its author."""
        if not self.limits:
            return False
        limit = self.limits.get(ReplicaId(dot[:16]))
        return limit is not None and int.from_bytes(dot[16:], "big") > limit

    def hold(self, dot: bytes, operation: OperationId, raw: bytes) -> bool:
        """Keep an operation aside if there is room; tells whether it is new here."""
        key = dot + operation
        if self._tables.held.has(key) or self._held_bytes + len(raw) > limits.HELD_BYTES_MAX:
            return False
        self._tables.held.put(key, raw)
        self._held_bytes += len(raw)
        self._held[ReplicaId(dot[:16])] += 1
        return True

    @property
    def held_count(self) -> int:
        """How many operations are held of all authors together."""
        return self._held.total()

    def held_of(self, replica: ReplicaId) -> int:
        """How many operations are held of one author."""
        return self._held[replica]

    def take(self, replica: ReplicaId) -> list[tuple[int, bytes]]:
        """Hold nothing of an author any more; returns what there was."""
        rows = list(self._tables.held.scan(replica, after(replica)))
        for key, raw in rows:
            self._tables.held.delete(key)
            self._held_bytes -= len(raw)
        del self._held[replica]
        return [(int.from_bytes(key[16:24], "big"), raw) for key, raw in rows]
