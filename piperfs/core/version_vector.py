"""Version vectors: for each replica, the highest sequence number of its writes that is covered.

A vector is a plain `dict` that nobody changes after it was made; a missing replica counts as 0.
Order is pointwise, so it is a partial order whatever a hostile author writes into a vector: the
merge laws in `merge.py` rest on nothing else.
"""

import enum
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from piperfs.core.ids import ReplicaId

VersionVector: TypeAlias = Mapping[ReplicaId, int]

EMPTY: VersionVector = {}


class Order(enum.Enum):
    """How two vectors relate."""

    EQUAL = "equal"
    BEFORE = "before"
    AFTER = "after"
    CONCURRENT = "concurrent"


def covers(upper: VersionVector, lower: VersionVector) -> bool:
    """Tell whether `lower <= upper` holds pointwise."""
    return all(upper.get(replica, 0) >= seq for replica, seq in lower.items())


def compare(left: VersionVector, right: VersionVector) -> Order:
    below, above = covers(right, left), covers(left, right)
    if below and above:
        return Order.EQUAL
    if below:
        return Order.BEFORE
    return Order.AFTER if above else Order.CONCURRENT


def join(vectors: Iterable[VersionVector]) -> dict[ReplicaId, int]:
    """The least vector that covers all of `vectors`."""
    joined: dict[ReplicaId, int] = {}
    for vector in vectors:
        for replica, seq in vector.items():
            if seq > joined.get(replica, 0):
                joined[replica] = seq
    return joined


def extend(base: VersionVector, replica: ReplicaId, seq: int) -> dict[ReplicaId, int]:
    """The vector of a new write: what it is based on, and its own dot."""
    assert seq > base.get(replica, 0), "a replica's own entry only grows"
    return {**base, replica: seq}
