"""Directory cycles: `mv a b/` here and `mv b a/` there must end as one tree on every replica.

Each directory has a finite list of places it may hang, best first; its pointer says which one is
in force, and beyond the list hangs the orphans directory, a root. While the current places form a
cycle, the member that moved last gives up its place:

    repeat: for each cycle, victim = member whose current edge has the greatest (moved, inode)
            pointer[victim] += 1

It ends, since every step uses up a place. The result does not depend on the order in which
cycles are treated: in a functional graph cycles share no member, a cycle's edges change only
through its own victim, so any two pending steps commute, and by Newman's lemma there is one
normal form. Where the best places already form a tree nothing changes.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from piperfs.core.ids import ORPHANS, InodeId
from piperfs.core.record import LinkHead, Stamp
from piperfs.core.resolve import current_link

Place: TypeAlias = tuple[InodeId, Stamp]  # parent, and when the directory was moved there


def places(heads: Sequence[LinkHead]) -> tuple[Place, ...]:
    """Where a directory may hang, best first: winner, losing heads, then remembered parents."""
    winner = current_link(heads)
    losers = sorted(
        (head for head in heads if head is not winner),
        key=lambda head: (head.body.alive, head.stamp),
        reverse=True,
    )
    found: dict[InodeId, Stamp] = {}
    for head in (winner, *losers):
        found.setdefault(head.body.parent, head.body.moved)
    for head in (winner, *losers):
        for place in head.body.previous:
            found.setdefault(place.parent, place.moved)
    return tuple(found.items())


def break_cycles(candidates: Mapping[InodeId, Sequence[Place]]) -> dict[InodeId, int]:
    """Pointers that are not 0 once no cycle is left.

    Args:
        candidates: for each directory its places, best first. Parents that are not keys (the
            root, unknown directories) are roots; the orphans directory always is one.
    """
    assert ORPHANS not in candidates, "whoever has used up all places must find rest somewhere"
    pointers: dict[InodeId, int] = {}
    clean: set[InodeId] = set()
    pending = sorted(candidates)
    while pending:
        start = pending.pop()
        cycle = _find_cycle(start, candidates, pointers, clean)
        if cycle is None:
            continue
        victim = max(cycle, key=lambda inode: (_edge(inode, candidates, pointers)[1], inode))
        pointers[victim] = pointers.get(victim, 0) + 1
        pending.append(start)
        pending.append(victim)
    return pointers


def _edge(
    inode: InodeId, candidates: Mapping[InodeId, Sequence[Place]], pointers: Mapping[InodeId, int]
) -> Place:
    options = candidates[inode]
    index = pointers.get(inode, 0)
    return options[index] if index < len(options) else (ORPHANS, Stamp(0, options[0][1].replica))


def _find_cycle(
    start: InodeId,
    candidates: Mapping[InodeId, Sequence[Place]],
    pointers: Mapping[InodeId, int],
    clean: set[InodeId],
) -> list[InodeId] | None:
    """Walk up from `start`; directories that reach a root are remembered in `clean`."""
    path: list[InodeId] = []
    on_path: dict[InodeId, int] = {}
    inode = start
    while inode in candidates and inode not in clean:
        if inode in on_path:
            return path[on_path[inode] :]
        on_path[inode] = len(path)
        path.append(inode)
        inode = _edge(inode, candidates, pointers)[0]
    clean.update(path)
    return None
