"""How far each author has counted, and the signed operation that shows it.

An operation claims to know writes of others: it covers them. Were such claims believed, a liar
could cover what an author has not written yet, and the author, who knows better, would be the only
one to refuse it. So a claim counts once its author is known to have issued that number. The
newest operation of each author is kept for this even when nothing of it is alive any more:
whoever passes an operation on can show that its claims are true, since he had to see it himself.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from piperfs.core.errors import StoreError
from piperfs.core.ids import ReplicaId
from piperfs.core.operation import Envelope, header_of
from piperfs.store.schema import Tables

UNKNOWN: Final = 0


class Shown(NamedTuple):
    """Proof of how far an author has counted: an operation whose signature was checked."""

    replica: ReplicaId
    seq: int
    envelope: Envelope


class Authors:
    """The highest number of each author of which an operation was seen."""

    def __init__(self, tables: Tables) -> None:
        self._table = tables.author
        self._highest: dict[ReplicaId, int] = {}

    def highest(self, replica: ReplicaId) -> int:
        """The highest number that an author is known to have issued."""
        known = self._highest.get(replica)
        if known is None:
            try:
                newest = self._table.get(replica)
            except StoreError:  # the next proof takes the place of what is damaged
                newest = None
            known = UNKNOWN if newest is None else header_of(newest).seq
            self._highest[replica] = known
        return known

    def note(self, shown: Shown) -> bool:
        """Remember a proof; tells whether it shows more than was known."""
        if shown.seq <= self.highest(shown.replica):
            return False
        self._highest[shown.replica] = shown.seq
        self._table.put(shown.replica, shown.envelope)
        return True

    def newest(self, replica: ReplicaId) -> Envelope | None:
        """The durable operation that shows how far an author has counted."""
        return self._table.get_durable(replica)

    def lacking(self, claims: Mapping[ReplicaId, int]) -> ReplicaId | None:
        """An author who is not known to have issued what is claimed of him, if there is one."""
        for replica, seq in claims.items():
            if seq > self.highest(replica):
                return replica
        return None
