"""Finding the difference between two sets of operation ids without sending them.

Both ends compare fingerprints (count and sum modulo 2^256) of ranges of ids. Equal ranges are
done; unequal ones are cut into sixteen; short ones are sent as ids. The exchange needs some
logarithm of the set's size in rounds, and bytes in proportion to the difference. After Aljoscha
Meyer, "Range-Based Set Reconciliation" (SRDS 2023).

Pure and stateless: each message is answered from the message and the set. A message and its
answer are bounded, so a huge difference takes several exchanges; `is_partial` says so. Ranges must
ascend without overlapping, as those of any answer do: so one message costs a walk over the set or
two, and not one for each range. The caller may rest between steps.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from piperfs.core.errors import PeerError
from piperfs.core.ids import OperationId
from piperfs.protocol.messages import ITEMS_MAX, Range

BRANCHES: Final = 16
LEAF_IDS: Final = 32
LISTED_MAX: Final = 16_384  # ids in one message, about half of a frame
OFFERED_MAX: Final = 32_768  # ids found missing there by one message
LOWEST: Final = b""
HIGHEST: Final = b"\xff" * 33
BORDER_BYTES: Final = 33

Fingerprint = Callable[[bytes, bytes], tuple[int, bytes]]
Ids = Callable[[bytes, bytes, int], Sequence[OperationId]]


@dataclass(slots=True)
class Difference:
    """What one message taught: ranges to answer with, ids to ask for, ids to send."""

    ranges: list[Range] = field(default_factory=list)
    wanted: list[OperationId] = field(default_factory=list)
    offered: list[OperationId] = field(default_factory=list)
    is_partial: bool = False  # there was more than fits; another exchange finds it
    listed: int = 0  # ids in `ranges`

    @property
    def is_full(self) -> bool:
        return len(self.ranges) == ITEMS_MAX

    def answer(self, part: Range) -> None:
        listed = self.listed + len(part.ids or ())
        if self.is_full or listed > LISTED_MAX:
            self.is_partial = True
            return
        self.ranges.append(part)
        self.listed = listed


def begin(fingerprint: Fingerprint) -> tuple[Range, ...]:
    """The first message: one range over everything."""
    return (Range(LOWEST, HIGHEST, *fingerprint(LOWEST, HIGHEST)),)


def compare(ranges: Sequence[Range], fingerprint: Fingerprint, ids: Ids) -> Difference:
    """Answer a message at once. Raises PeerError for ranges that make no sense."""
    difference = Difference()
    for _ in steps(ranges, fingerprint, ids, difference):
        pass
    return difference


def steps(
    ranges: Sequence[Range], fingerprint: Fingerprint, ids: Ids, difference: Difference
) -> Iterator[None]:
    """Answer a message, with a chance to rest after each look at the set."""
    _check(ranges)
    for theirs in ranges:
        yield
        if theirs.ids is not None:
            _compare_ids(theirs, theirs.ids, ids, difference)
        elif difference.is_full:
            difference.is_partial = True
        else:
            yield from _compare_sums(theirs, fingerprint, ids, difference)


def _check(ranges: Sequence[Range]) -> None:
    last = LOWEST
    for each in ranges:
        if each.lower >= each.upper:
            raise PeerError("a range of a reconciliation is empty or backward")
        if each.lower < last:
            raise PeerError("ranges of a reconciliation overlap or do not ascend")
        last = each.upper


def _compare_sums(
    theirs: Range, fingerprint: Fingerprint, ids: Ids, difference: Difference
) -> Iterator[None]:
    count, total = fingerprint(theirs.lower, theirs.upper)
    if (count, total) == (theirs.count, theirs.total):
        return
    for part in _narrow(theirs, count, total, fingerprint, ids):
        yield
        difference.answer(part)
        if difference.is_full:
            difference.is_partial = True
            return


def _compare_ids(
    theirs: Range, listed: Sequence[OperationId], ids: Ids, difference: Difference
) -> None:
    room = OFFERED_MAX - len(difference.offered)
    if room < ITEMS_MAX:
        difference.is_partial = True
        return
    mine = ids(theirs.lower, theirs.upper, room)
    if len(mine) == room:
        difference.is_partial = True
        listed = [each for each in listed if each <= mine[-1]]
    known = set(mine)
    difference.wanted += [each for each in listed if each not in known]
    difference.offered += sorted(known.difference(listed))


def _narrow(
    theirs: Range, count: int, total: bytes, fingerprint: Fingerprint, ids: Ids
) -> Iterator[Range]:
    if count <= LEAF_IDS:
        listed = tuple(ids(theirs.lower, theirs.upper, LEAF_IDS))
        yield Range(theirs.lower, theirs.upper, count, total, listed)
        return
    for lower, upper in split(theirs.lower, theirs.upper):
        yield Range(lower, upper, *fingerprint(lower, upper))


def split(lower: bytes, upper: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Cut a range into sixteen of equal width; ids are hashes, so they spread evenly."""
    first, last = _position(lower), _position(upper)
    borders = [first + (last - first) * step // BRANCHES for step in range(BRANCHES + 1)]
    texts = [lower, *(_text(border) for border in borders[1:-1]), upper]
    for begin_, end in pairwise(texts):
        if begin_ < end:
            yield begin_, end


def _position(border: bytes) -> int:
    """A border as a number; the highest is a round one, which makes all others short."""
    if border == HIGHEST:
        return 1 << (8 * BORDER_BYTES)
    return int.from_bytes(border.ljust(BORDER_BYTES, b"\0"), "big")


def _text(border: int) -> bytes:
    return border.to_bytes(BORDER_BYTES, "big").rstrip(b"\0")
