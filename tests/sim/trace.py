"""What happened in a run: a hash that two runs of one seed share, and the rare states reached."""

from collections import Counter

import trio
from blake3 import blake3


class Trace:
    """Takes down every event of a run with its virtual time."""

    def __init__(self, *, keep: bool = False) -> None:
        self._hasher = blake3()
        self.lines: list[str] | None = [] if keep else None
        self.reached: Counter[str] = Counter()
        self.events = 0

    def note(self, *facts: object) -> None:
        """Something happened; equal runs note equal facts at equal times."""
        self.events += 1
        now = trio.current_time()
        parts = [fact if type(fact) is bytes else str(fact).encode() for fact in facts]
        self._hasher.update(b"%.9f %d %b\n" % (now, len(parts), b"|".join(parts)))
        if self.lines is not None:
            self.lines.append(f"{now:.9f} {facts}\n")

    def sometimes(self, state: str) -> None:
        """A state that every campaign must reach has been reached."""
        self.reached[state] += 1

    @property
    def digest(self) -> str:
        return self._hasher.hexdigest(length=16)
