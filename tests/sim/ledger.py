"""What people wrote and what they knowingly let go, kept apart from everything the program knows.

Every write puts a token that occurs nowhere else into a file. Whoever overwrites, truncates,
replaces or deletes a file lets go of the tokens that the file showed at that moment. At the end
each token must be readable somewhere on every computer, or somebody must have let go of it in
favour of something that is itself accounted for. A token may be missing only if its computer lost
power, or was set back, before anybody was told that it is durable. This asks of the whole system
what convergence alone cannot: that no write was overwritten by somebody who never saw it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

TOKEN = re.compile(rb"\[(\d+)\]")


def tokens_in(data: bytes) -> frozenset[int]:
    return frozenset(int(number) for number in TOKEN.findall(data))


@dataclass(slots=True)
class Written:
    """One token."""

    machine: str
    boot: int
    acked: bool = False  # it was promised to survive
    excused: bool = False  # it may be lost: power failed, or the disk was set back


@dataclass
class Ledger:
    """All tokens."""

    written: dict[int, Written] = field(default_factory=dict)
    let_go: dict[int, list[int | None]] = field(default_factory=dict)  # None: deleted
    _next: int = 0

    @property
    def acknowledged(self) -> frozenset[int]:
        """All tokens that were promised to survive."""
        return frozenset(token for token, written in self.written.items() if written.acked)

    def new(self, machine: str, boot: int) -> int:
        self._next += 1
        self.written[self._next] = Written(machine, boot)
        return self._next

    def release(self, tokens: Iterable[int], by: int | None) -> None:
        """Somebody saw these tokens and wrote `by` in their place, or deleted them."""
        for token in tokens:
            self.let_go.setdefault(token, []).append(by)

    def acknowledge(self, machine: str, tokens: Iterable[int]) -> None:
        for token in tokens:
            assert self.written[token].machine == machine
            self.written[token].acked = True

    def of(self, machine: str, boot: int) -> list[int]:
        return [
            token
            for token, written in self.written.items()
            if (written.machine, written.boot) == (machine, boot)
        ]

    def crashed(self, machine: str, boot: int) -> None:
        """What was not promised may be lost."""
        for token in self.of(machine, boot):
            if not self.written[token].acked:
                self.written[token].excused = True

    def excuse(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            self.written[token].excused = True

    def missing(self, visible: frozenset[int]) -> list[int]:
        """Tokens that are neither visible, nor let go, nor excused."""
        accounted = set(visible)
        waiting = [
            token
            for token, by in self.let_go.items()
            if any(each is None or each in accounted for each in by)
        ]
        accounted.update(waiting)
        changed = True
        while changed:
            changed = False
            for token, by in self.let_go.items():
                if token not in accounted and any(each in accounted for each in by):
                    accounted.add(token)
                    changed = True
        return [
            token
            for token, written in self.written.items()
            if token not in accounted and not written.excused
        ]
