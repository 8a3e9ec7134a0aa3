"""Merge: the state of a record is the set of its maximal writes under the order of vectors.

    a < b      iff  vector(a) <= vector(b) pointwise, and they differ
    heads(W) = {w in W : no v in W with w < v}
    merge(S, T) = heads(S | T)

`<` is a strict partial order for any vectors at all, honest or forged, so every write lies below
some maximal one, and heads(heads(S) | heads(T)) = heads(S | T). Union is commutative,
associative and idempotent; so is merge. Two different writes with equal vectors (a replica that
signed twice under one dot) are incomparable, and both stay.

The obvious shortcut, to drop a write whose dot lies inside another's vector, is not associative
once a vector is forged; and keeping one side's value beside a joined clock, as a register with a
vector clock often does, leaves two replicas with equal clocks and different values for ever.
"""

from collections.abc import Iterable, Sequence

from piperfs.core.record import AnyHead
from piperfs.core.version_vector import covers


def is_same_write(left: AnyHead, right: AnyHead) -> bool:
    return (
        left.seq == right.seq
        and left.replica == right.replica
        and left.operation == right.operation
    )


def is_covered(write: AnyHead, by: AnyHead) -> bool:
    """Tell whether `write < by`: `by` was made knowing `write` or something that covers it."""
    return write.vector != by.vector and covers(by.vector, write.vector)


def insert(heads: Sequence[AnyHead], write: AnyHead) -> tuple[AnyHead, ...]:
    """Merge one write into a record's heads; returns `heads` itself when it adds nothing.

    The result is ordered by stamp, newest first, so that equal sets are equal tuples.
    """
    if any(is_same_write(write, head) or is_covered(write, head) for head in heads):
        return heads if isinstance(heads, tuple) else tuple(heads)
    kept = [head for head in heads if not is_covered(head, write)]
    return tuple(sorted([*kept, write], key=lambda head: head.stamp, reverse=True))


def merge(left: Iterable[AnyHead], right: Iterable[AnyHead]) -> tuple[AnyHead, ...]:
    """Join of two states of one record; needs nothing of either but that they are writes."""
    heads: tuple[AnyHead, ...] = ()
    for write in (*left, *right):
        heads = insert(heads, write)
    return heads
