"""The oracle of lost updates: what people wrote, and what they knowingly replaced or removed.

A person who saves over, renames over or deletes a file acts on the version that they see at that
moment, and on no other. So after everybody has heard of everything, each content ever written must
still be readable somewhere unless somebody acted on it. The oracle needs to know nothing of
vectors, heads or records: convergence checks cannot find a lost update, this one does.
"""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Ledger:
    """Contents by their bytes, which a test makes unique for each write."""

    written: set[bytes] = field(default_factory=set)
    replaced: set[bytes] = field(default_factory=set)
    unlinked: Counter[bytes] = field(default_factory=Counter)
    links: dict[bytes, int] = field(default_factory=dict)

    def write(self, before: bytes | None, after: bytes) -> None:
        """Somebody who saw `before` saved `after`."""
        if before is not None and before != after:
            self.replaced.add(before)
        self.written.add(after)

    def remove(self, seen: bytes, links: int) -> None:
        """Somebody removed one of so many names of what they saw."""
        self.unlinked[seen] += 1
        self.links[seen] = max(links, self.links.get(seen, 0))

    def may_be_gone(self, content: bytes) -> bool:
        removed = self.unlinked[content]
        return content in self.replaced or (removed > 0 and removed >= self.links[content])

    def lost(self, visible: set[bytes]) -> set[bytes]:
        """Contents that nobody knowingly gave up and that cannot be read any more."""
        return {c for c in self.written - visible if not self.may_be_gone(c)}

    def join(self, other: "Ledger") -> None:
        self.written |= other.written
        self.replaced |= other.replaced
        self.unlinked += other.unlinked
        for content, links in other.links.items():
            self.links[content] = max(links, self.links.get(content, 0))
