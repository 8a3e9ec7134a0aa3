"""Local operations that are not published yet, and how they collapse.

Between two commits, writes of one record replace one another, and operations that touch a record
in common become one operation. So a file that is created, written and given its times is
published as one operation with one version, and a temporary file that comes and goes leaves
nothing. Sequence numbers are given at publication, in order; until then a write's own dot is
`PENDING_SEQ`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias, cast

from piperfs.core.ids import ChunkId, ReplicaId
from piperfs.core.record import PENDING_SEQ, AnyHead, Body, Head, Kind, XattrBody

RecordKey: TypeAlias = tuple[Kind, bytes]

WRITES_MAX: Final = 64  # a larger union is not worth one signature
BYTES_MAX: Final = 96 * 1024


@dataclass(slots=True)
class PendingWrite:
    """A write that has no number yet. `based_on` never holds a pending dot."""

    hlc: int
    based_on: dict[ReplicaId, int]
    refs: tuple[ChunkId, ...]
    body: Body

    @property
    def is_birth(self) -> bool:
        """Nobody else knows the record."""
        return not self.based_on

    def head(self, replica: ReplicaId) -> AnyHead:
        vector = {**self.based_on, replica: PENDING_SEQ}
        head = Head(replica, PENDING_SEQ, self.hlc, vector, self.refs, self.body)
        return cast(AnyHead, head)


@dataclass(slots=True)
class PendingOperation:
    """Writes that will be published together."""

    writes: dict[RecordKey, PendingWrite] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """A rough size: only chunk ids and attribute values can make an operation large."""
        return sum(
            160 + 32 * len(write.refs) + len(getattr(write.body, "value", None) or b"")
            if isinstance(write.body, XattrBody)
            else 160 + 41 * len(write.refs)
            for write in self.writes.values()
        )


class PendingOperations:
    """All unpublished operations, oldest first, and which one writes which record."""

    def __init__(self) -> None:
        self._operations: dict[int, PendingOperation] = {}
        self._writer: dict[RecordKey, int] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._operations)

    def write(self, key: RecordKey) -> PendingWrite | None:
        serial = self._writer.get(key)
        return None if serial is None else self._operations[serial].writes[key]

    def fits(self, touched: Iterable[RecordKey], more: int) -> bool:
        """Tell whether the operations that write `touched`, and `more` writes, can be one."""
        serials = {self._writer[key] for key in touched if key in self._writer}
        together = [self._operations[serial] for serial in serials]
        writes = sum(len(operation.writes) for operation in together)
        return writes + more <= WRITES_MAX and sum(o.bytes for o in together) <= BYTES_MAX

    def begin(self, touched: Iterable[RecordKey]) -> "PendingOperation":
        """A new operation at the end, which takes over those that write a touched record."""
        self._serial += 1
        operation = PendingOperation()
        for serial in sorted({self._writer[key] for key in touched if key in self._writer}):
            for key, write in self._operations.pop(serial).writes.items():
                operation.writes[key] = write
                self._writer[key] = self._serial
        self._operations[self._serial] = operation
        return operation

    def put(self, operation: PendingOperation, key: RecordKey, write: PendingWrite) -> None:
        assert self._operations[self._serial] is operation, "only the newest operation grows"
        operation.writes[key] = write
        self._writer[key] = self._serial

    def drop(self, operation: PendingOperation, keys: Iterable[RecordKey]) -> None:
        """Forget writes of records that nobody will ever know."""
        for key in keys:
            if operation.writes.pop(key, None) is not None:
                del self._writer[key]
        if not operation.writes:
            del self._operations[self._serial]

    def take_all(self) -> list[PendingOperation]:
        # A damaged row may have ended one before its first write.
        taken = [operation for operation in self._operations.values() if operation.writes]
        self._operations.clear()
        self._writer.clear()
        return taken
