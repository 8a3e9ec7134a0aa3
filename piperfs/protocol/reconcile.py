"""Finding the difference between two sets of operation ids without sending them.

Both ends compare fingerprints (count and sum modulo 2^256) of ranges of ids. Equal ranges are
done; unequal ones are cut into sixteen; short ones are sent as ids. The exchange needs some
logarithm of the set's size in rounds, and bytes in proportion to the difference. After Aljoscha
Meyer, "Range-Based Set Reconciliation" (SRDS 2023).

Pure and stateless: each message is answered from the message and the set.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from piperfs.core.errors import PeerError
from piperfs.core.ids import OperationId
from piperfs.protocol.messages import ITEMS_MAX, Range

BRANCHES: Final = 16
LEAF_IDS: Final = 32
RANGES_MAX: Final = 1024  # of one message; the rest is found in the next exchange
LOWEST: Final = b""
HIGHEST: Final = b"\xff" * 33

Fingerprint = Callable[[bytes, bytes], tuple[int, bytes]]
Ids = Callable[[bytes, bytes, int], Sequence[OperationId]]


@dataclass(slots=True)
class Difference:
    """What one message taught: ranges to answer with, ids to ask for, ids to send."""

    ranges: list[Range] = field(default_factory=list)
    wanted: list[OperationId] = field(default_factory=list)
    offered: list[OperationId] = field(default_factory=list)


def begin(fingerprint: Fingerprint) -> tuple[Range, ...]:
    """The first message: one range over everything."""
    return (Range(LOWEST, HIGHEST, *fingerprint(LOWEST, HIGHEST)),)


def compare(ranges: Sequence[Range], fingerprint: Fingerprint, ids: Ids) -> Difference:
    """Answer a message. Raises PeerError for ranges that make no sense."""
    difference = Difference()
    if len(ranges) > RANGES_MAX:
        raise PeerError("a reconciliation names too many ranges")
    for theirs in ranges:
        if theirs.lower >= theirs.upper:
            raise PeerError("a range of a reconciliation is empty or malformed")
        if theirs.ids is not None:
            _compare_ids(theirs, ids, difference)
            continue
        count, total = fingerprint(theirs.lower, theirs.upper)
        if (count, total) != (theirs.count, theirs.total):
            difference.ranges += _narrow(theirs, count, total, fingerprint, ids)
    difference.ranges = difference.ranges[:RANGES_MAX]
    return difference


def _compare_ids(theirs: Range, ids: Ids, difference: Difference) -> None:
    assert theirs.ids is not None
    if len(theirs.ids) > ITEMS_MAX:
        raise PeerError("a reconciliation lists too many ids")
    mine = set(ids(theirs.lower, theirs.upper, ITEMS_MAX))
    difference.wanted += [each for each in theirs.ids if each not in mine]
    difference.offered += sorted(mine.difference(theirs.ids))


def _narrow(
    theirs: Range, count: int, total: bytes, fingerprint: Fingerprint, ids: Ids
) -> Iterator[Range]:
    if count <= LEAF_IDS:
        listed = tuple(ids(theirs.lower, theirs.upper, LEAF_IDS))
        yield Range(theirs.lower, theirs.upper, count, total, listed)
        return
    for lower, upper in split(theirs.lower, theirs.upper):
        part_count, part_total = fingerprint(lower, upper)
        if part_count == 0 or part_count > LEAF_IDS:
            yield Range(lower, upper, part_count, part_total)
        else:
            listed = tuple(ids(lower, upper, LEAF_IDS))
            yield Range(lower, upper, part_count, part_total, listed)


def split(lower: bytes, upper: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Cut a range into sixteen of equal width; ids are hashes, so they spread evenly."""
    first = int.from_bytes(lower.ljust(33, b"\0"), "big")
    last = int.from_bytes(upper.ljust(33, b"\0"), "big")
    borders = [first + (last - first) * step // BRANCHES for step in range(BRANCHES + 1)]
    texts = [lower, *(_text(border) for border in borders[1:-1]), upper]
    for begin_, end in itertools.pairwise(texts):
        if begin_ < end:
            yield begin_, end


def _text(border: int) -> bytes:
    return border.to_bytes(33, "big").rstrip(b"\0")
