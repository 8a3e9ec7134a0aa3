"""Superseded versions that are still kept, gathered by record.

History is local: a replica keeps what was superseded while it was there, for the retention time,
and what it never had it cannot show. The table is in order of time, so a question about a record
looks through all of it, a page at a time.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from piperfs.core.operation import Unseal, decode, decode_header
from piperfs.core.record import AnyHead
from piperfs.store.pending import RecordKey
from piperfs.store.schema import Tables

PAGE_ROWS: Final = 200
END: Final = b"\xff" * 41


@dataclass(frozen=True, slots=True)
class Past:
    """A write that is no head any more, and when it ceased to be one here."""

    head: AnyHead
    superseded_ns: int


@dataclass(slots=True)
class Gathering:
    """Past writes by record, newest first once `steps` has run to its end."""

    found: dict[RecordKey, list[Past]] = field(default_factory=lambda: defaultdict(list))

    def steps(
        self, tables: Tables, unseal: Unseal, is_wanted: Callable[[RecordKey], bool]
    ) -> Iterator[None]:
        """Look through the whole history; the caller may do other things between steps."""
        known: set[tuple[RecordKey, bytes]] = set()
        for rows in tables.history.pages(b"", END, PAGE_ROWS):
            for _, row in rows:
                header = decode_header(row.envelope)
                if not any(is_wanted((write.kind, write.key)) for write in header.writes):
                    continue
                operation = decode(row.envelope, unseal)
                for write in operation.writes:
                    key = (write.kind, write.key)
                    if is_wanted(key) and (key, operation.id) not in known:
                        known.add((key, operation.id))
                        self.found[key].append(Past(operation.head(write), row.superseded_ns))
            yield
        for versions in self.found.values():
            versions.sort(key=lambda past: past.head.stamp, reverse=True)
