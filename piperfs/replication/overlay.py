"""Whom to know among many: addresses to dial, and which of them to tell others.

Members tell each other at random of members that they have met, so that everybody's short list
becomes a fair draw of the whole volume, whoever let them in at first. Connections made from such
lists form a random graph: it stays in one piece when many of its members are gone.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from piperfs.core.ids import ReplicaId

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Dial:
    """An address that is dialled."""

    address: str
    again: trio.Event = field(default_factory=trio.Event)
    reason: str = "not dialled yet"
    replica: ReplicaId | None = None
    is_given: bool = False  # by the user, so never forgotten
    failures: int = 0  # since somebody answered
    was_brief: bool = False  # its last connection soon ended, as where there is no room
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


def known(
    dials: Iterable[Dial], sessions: Mapping[ReplicaId, tuple[str, ...]], asking: ReplicaId
) -> list[tuple[ReplicaId, tuple[str, ...]]]:
    """Members that answered at an address, connected or not; not the one that asks."""
    found: dict[ReplicaId, tuple[str, ...]] = {}
    for dial in dials:
        if dial.replica is not None and not dial.failures:
            found[dial.replica] = (dial.address,)
    found |= {replica: addresses[:4] for replica, addresses in sessions.items() if addresses}
    found.pop(asking, None)
    return list(found.items())


def draw(choices: list[T], count: int, entropy: Callable[[int], bytes]) -> list[T]:
    """Some of the choices, at random."""
    left = list(choices)
    drawn: list[T] = []
    while left and len(drawn) < count:
        drawn.append(left.pop(int.from_bytes(entropy(4), "big") % len(left)))
    return drawn
