"""What a merge changed, in the words of the kernel's caches.

The index fills a `ChangeSet` while it applies operations; whoever holds caches (the kernel, the
open files) empties it. Nothing is decided from it.
"""

from dataclasses import dataclass, field

from piperfs.core.ids import InodeId


@dataclass(slots=True)
class ChangeSet:
    """Inodes with other attributes or other content, and directory entries that differ."""

    attributes: set[InodeId] = field(default_factory=set)
    content: set[InodeId] = field(default_factory=set)
    entries: set[tuple[InodeId, bytes]] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.attributes or self.content or self.entries)
