"""Operations that claim more than is known to be true, until it is, or for ever.

Honest replicas send the proof in front of the claim, so nothing of theirs waits here. What waits
is in no log and no digest, and in memory only: it is found again by comparing. What does not fit
is dropped for the same reason, so a liar fills no more than his own share.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from piperfs.core.ids import OperationId, ReplicaId
from piperfs.core.limits import (
    WAITING_BYTES_PER_SENDER_MAX,
    WAITING_OPERATIONS_MAX,
    WAITING_PER_SENDER_MAX,
)
from piperfs.core.operation import Operation


@dataclass(frozen=True, slots=True)
class Unproved:
    """An operation, who sent it, and whose number it lacks the proof of."""

    operation: Operation
    sender: ReplicaId | None
    lacks: ReplicaId


@dataclass(slots=True)
class Waiting:
    """All of them, by id, oldest first."""

    _entries: dict[OperationId, Unproved] = field(default_factory=dict)
    _count: Counter[ReplicaId | None] = field(default_factory=Counter)  # by sender
    _bytes: Counter[ReplicaId | None] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Unproved]:
        return iter(self._entries.values())

    def has(self, operation: OperationId) -> bool:
        return operation in self._entries

    def add(self, entry: Unproved) -> None:
        """Let an operation wait, if there is room."""
        size, sender = len(entry.operation.envelope), entry.sender
        if (
            self.has(entry.operation.id)
            or len(self._entries) >= WAITING_OPERATIONS_MAX
            or self._count[sender] >= WAITING_PER_SENDER_MAX
            or self._bytes[sender] + size > WAITING_BYTES_PER_SENDER_MAX
        ):
            return
        self._entries[entry.operation.id] = entry
        self._count[sender] += 1
        self._bytes[sender] += size

    def take(self, author: ReplicaId) -> list[Unproved]:
        """Those that lack a proof of this author's numbers; they wait no more."""
        found = [each for each in self if each.lacks == author]
        for each in found:
            self.drop(each)
        return found

    def drop_beyond(self, until: Mapping[ReplicaId, int]) -> None:
        """Forget what authors had no right to write, as it turned out."""
        for each in list(self):
            author = each.operation.replica
            if author in until and each.operation.seq > until[author]:
                self.drop(each)

    def drop(self, entry: Unproved) -> None:
        if self._entries.pop(entry.operation.id, None) is not None:
            self._count[entry.sender] -= 1
            self._bytes[entry.sender] -= len(entry.operation.envelope)
