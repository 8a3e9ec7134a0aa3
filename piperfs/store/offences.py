"""What members did wrong, remembered over connections and restarts, so that status names them.

A row for each member and kind of offence. The table is small and stays so: when it is full the
row that was not added to for longest goes, and so does what is older than a month.
"""

from typing import Final

from piperfs.core.ids import ReplicaId
from piperfs.core.limits import OFFENCES_MAX
from piperfs.core.offences import Offence
from piperfs.store.rows import OffenceRow
from piperfs.store.schema import Tables

FORGOTTEN_NS: Final = 30 * 86_400 * 10**9
END: Final = b"\xff" * 48
REPLICA_BYTES: Final = 16
DETAIL_CHARS_MAX: Final = 200


class Offences:
    """All rows, in memory too."""

    def __init__(self, tables: Tables) -> None:
        self._table = tables.offence
        self._rows: dict[bytes, OffenceRow] | None = None

    def _known(self) -> dict[bytes, OffenceRow]:
        if self._rows is None:
            self._rows = dict(self._table.scan(b"", END))
        return self._rows

    def note(self, replica: ReplicaId, offence: Offence, detail: str, now_ns: int) -> bool:
        """Count one more; tells whether it is the first of its kind."""
        rows, key = self._known(), replica + offence.value.encode()
        row = rows.get(key)
        first = now_ns if row is None else row.first_ns
        if row is None:
            self._make_room(rows, now_ns)
        count = 1 if row is None else row.count + 1
        rows[key] = OffenceRow(count, first, now_ns, detail[:DETAIL_CHARS_MAX])
        self._table.put(key, rows[key])
        return row is None

    def _make_room(self, rows: dict[bytes, OffenceRow], now_ns: int) -> None:
        oldest = sorted(rows, key=lambda key: rows[key].last_ns)
        spare = oldest[: max(0, len(rows) + 1 - OFFENCES_MAX)]
        old = [key for key in oldest if rows[key].last_ns < now_ns - FORGOTTEN_NS]
        for key in {*spare, *old}:
            del rows[key]
            self._table.delete(key)

    def all(self, now_ns: int) -> list[tuple[ReplicaId, Offence, OffenceRow]]:
        """What is remembered, the newest first."""
        found = [
            (ReplicaId(key[:REPLICA_BYTES]), Offence(key[REPLICA_BYTES:].decode()), row)
            for key, row in self._known().items()
            if row.last_ns >= now_ns - FORGOTTEN_NS
        ]
        return sorted(found, key=lambda each: each[2].last_ns, reverse=True)
