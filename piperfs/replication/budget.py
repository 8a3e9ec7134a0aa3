"""So much at once, and after that so much a second: what one stranger or one peer may cost."""

from dataclasses import dataclass


@dataclass(slots=True)
class Budget:
    """What is left to spend. Times are seconds of any one clock; `since` is its last look at it."""

    per_s: float
    most: float
    left: float
    since: float

    def earn(self, now: float) -> float:
        """What is left at this time; negative is a debt."""
        self.left = min(self.most, self.left + (now - self.since) * self.per_s)
        self.since = now
        return self.left

    def spend(self, count: float, now: float) -> float:
        """Spend in any case; returns for how many seconds a debt stays."""
        self.earn(now)
        self.left -= count
        return max(0.0, -self.left / self.per_s)
