"""Whether an acknowledged version got lost, judged from what the workers wrote down.

A version that an fsync acknowledged must be visible, or covered by a write, rename or removal
whose maker had it before his eyes. What a crash took before it was acknowledged is owed to
nobody; what was under way at a crash may have happened or not.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CONTENT: Final = frozenset({"create", "overwrite", "append", "replace"})


@dataclass(slots=True)
class Operation:
    """One call of one worker that could cover versions."""

    token: str
    action: str
    path: str
    saw: set[str]
    fate: str = "open"  # then done, acknowledged, void or lost
    blind: bool = False  # it covered something else than what it had looked at

    @property
    def makes_version(self) -> bool:
        return self.action in CONTENT


@dataclass(slots=True)
class History:
    """All workers' records since the last check."""

    logs: list[Path]
    owed: dict[str, Operation] = field(default_factory=dict)  # acknowledged, seen at the last check
    checked: int = 0
    excused: int = 0  # gone, but as many calls hit files that they had not looked at
    _offsets: dict[Path, int] = field(default_factory=dict)

    def check(self, visible: Iterable[str]) -> list[str]:
        """Judge everything since the last check; returns what was lost."""
        shown = set(visible)
        operations = [operation for log in self.logs for operation in self._read(log)]
        by_token = self.owed | {operation.token: operation for operation in operations}
        covering: dict[str, list[Operation]] = defaultdict(list)
        for operation in operations:
            for token in operation.saw:
                covering[token].append(operation)
        owed = {o.token for o in operations if o.fate == "acknowledged" and o.makes_version}
        owed |= set(self.owed)
        self.checked += len(owed)
        kept = _kept(shown, covering)
        gone = {token for token in owed if not kept(token)}
        # One call takes a version along with all that it replaced, so only the last is counted.
        lost = sorted(gone - {saw for token in gone for saw in by_token[token].saw})
        excused = min(len(lost), sum(operation.blind for operation in operations))
        self.excused += excused
        lost = lost[excused:]
        self.owed = {token: by_token[token] for token in owed & shown}
        return [_describe(by_token[token], covering[token]) for token in lost]

    def _read(self, log: Path) -> list[Operation]:
        """The operations of one worker, with what became of each."""
        with log.open() as file:
            file.seek(self._offsets.get(log, 0))
            lines = file.readlines()
            self._offsets[log] = file.tell()
        found: list[Operation] = []
        unacknowledged: list[Operation] = []
        for line in map(json.loads, lines):
            if line["kind"] == "op":
                found.append(
                    Operation(line["token"], line["action"], line["path"], set(line["saw"]))
                )
                unacknowledged.append(found[-1])
            elif line["kind"] in ("done", "void"):
                found[-1].fate = line["kind"]
                found[-1].saw |= set(line.get("saw", ()))
                found[-1].blind = line.get("blind", False)
            else:
                _settle(unacknowledged, "acknowledged" if line["kind"] == "ack" else "lost")
                unacknowledged = []
        return [operation for operation in found if operation.fate != "void"]


def _settle(operations: list[Operation], fate: str) -> None:
    for operation in operations:
        if operation.fate == "done":
            operation.fate = fate


def _kept(shown: set[str], covering: dict[str, list[Operation]]):  # noqa: ANN202 - a function
    """Tells whether a token is visible or rightly covered."""

    def kept(token: str) -> bool:
        pending, seen = [token], {token}
        while pending:
            current = pending.pop()
            if current in shown:
                return True
            for operation in covering.get(current, ()):
                if not operation.makes_version or operation.fate == "open":
                    return True
                if operation.token not in seen:
                    seen.add(operation.token)
                    pending.append(operation.token)
        return False

    return kept


def _describe(operation: Operation, covering: list[Operation]) -> str:
    by = ", ".join(f"{o.token} ({o.action} {o.path}, {o.fate})" for o in covering) or "nothing"
    return (
        f"the acknowledged version {operation.token} ({operation.action} {operation.path}) "
        f"is gone; covered by {by}"
    )
