"""Two sets of ids find their difference in few rounds and bytes in proportion to it."""

import bisect
import hashlib
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from piperfs.core.errors import PeerError
from piperfs.core.ids import OperationId
from piperfs.protocol import messages as m
from piperfs.protocol import reconcile

MODULUS = 1 << 256


class Ids:
    """A set of ids that answers as the store's log does."""

    def __init__(self, ids: set[OperationId]) -> None:
        self._sorted = sorted(ids)
        self._sums = [0]
        for each in self._sorted:
            self._sums.append(self._sums[-1] + int.from_bytes(each, "big"))

    def fingerprint(self, lower: bytes, upper: bytes) -> tuple[int, bytes]:
        first = bisect.bisect_left(self._sorted, lower)
        last = bisect.bisect_left(self._sorted, upper)
        total = (self._sums[last] - self._sums[first]) % MODULUS
        return last - first, total.to_bytes(32, "big")

    def ids(self, lower: bytes, upper: bytes, limit: int) -> list[OperationId]:
        first = bisect.bisect_left(self._sorted, lower)
        return self._sorted[first : bisect.bisect_left(self._sorted, upper)][:limit]


class Exchange:
    """Runs a comparison of two sets to its end."""

    def __init__(self, left: set[OperationId], right: set[OperationId]) -> None:
        self.found: list[set[OperationId]] = [set(), set()]  # that the other has
        self.messages = self.bytes = 0
        sides = [Ids(left), Ids(right)]
        ranges = reconcile.begin(sides[0].fingerprint)
        turn = 1
        while True:
            self.messages += 1
            self.bytes += len(m.encode(m.Reconcile(tuple(ranges))))
            if not ranges:
                return
            mine = sides[turn]
            difference = reconcile.compare(ranges, mine.fingerprint, mine.ids)
            assert all(one.upper <= two.lower for one, two in pairwise(difference.ranges))
            self.found[turn].update(difference.wanted)
            self.found[1 - turn].update(difference.offered)
            ranges = tuple(difference.ranges)
            turn = 1 - turn


def make(count: int, seed: int = 0) -> set[OperationId]:
    return {
        OperationId(hashlib.sha256(b"%d %d" % (seed, number)).digest()) for number in range(count)
    }


ids = st.binary(min_size=32, max_size=32).map(OperationId)


@settings(deadline=None)
@given(st.sets(ids, max_size=300), st.sets(ids, max_size=60), st.sets(ids, max_size=60))
def test_the_difference_is_found_exactly(
    common: set[OperationId], left: set[OperationId], right: set[OperationId]
) -> None:
    exchange = Exchange(common | left, common | right)
    assert exchange.found[0] == right - common - left
    assert exchange.found[1] == left - common - right


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 200), st.integers(0, 99))
def test_sets_of_any_size_find_their_difference(a: int, b: int, common: int, seed: int) -> None:
    shared, left, right = make(common, -1), make(a, seed), make(b, seed + 100)
    exchange = Exchange(shared | left, shared | right)
    assert exchange.found == [right, left]


def test_equal_sets_need_one_small_answer() -> None:
    exchange = Exchange(make(10_000), make(10_000))
    assert exchange.messages == 2
    assert exchange.bytes < 150


@pytest.mark.parametrize(("missing", "messages", "bytes_max"), [(1, 6, 4_000), (100, 7, 200_000)])
def test_cost_follows_the_difference(missing: int, messages: int, bytes_max: int) -> None:
    whole = make(100_000)
    lost = set(random.Random(missing).sample(sorted(whole), missing))
    exchange = Exchange(whole, whole - lost)
    assert exchange.found == [set(), lost]
    assert exchange.messages <= messages
    assert exchange.bytes <= bytes_max


def test_a_huge_difference_takes_several_exchanges() -> None:
    whole = make(100_000)
    left = whole - set(random.Random(1).sample(sorted(whole), 20_000))
    exchanges = 0
    while left != whole:
        found = Exchange(whole, left).found
        assert found[0] == set()
        assert found[1]
        left |= found[1]
        exchanges += 1
    assert exchanges < 20


def test_backward_ranges_are_refused() -> None:
    mine = Ids(make(10))
    for lower, upper in ((b"b", b"a"), (b"a", b"a")):
        wrong = m.Range(lower, upper, 0, bytes(32))
        with pytest.raises(PeerError):
            reconcile.compare([wrong], mine.fingerprint, mine.ids)


def test_overlapping_and_descending_ranges_are_refused_unseen() -> None:
    def unseen(lower: bytes, upper: bytes) -> tuple[int, bytes]:
        raise AssertionError("nothing of it is answered")

    for one, two in (((b"a", b"c"), (b"b", b"d")), ((b"b", b"c"), (b"a", b"b"))):
        wrong = [m.Range(*one, 0, bytes(32)), m.Range(*two, 0, bytes(32))]
        with pytest.raises(PeerError):
            reconcile.compare(wrong, unseen, Ids(set()).ids)


def test_a_full_message_costs_a_bounded_number_of_looks_with_rests_between() -> None:
    whole, looks = Ids(make(200_000)), 0

    def fingerprint(lower: bytes, upper: bytes) -> tuple[int, bytes]:
        nonlocal looks
        looks += 1
        return whole.fingerprint(lower, upper)

    borders = [number.to_bytes(2, "big") for number in range(0, 1 << 16, 16)]
    ranges = [m.Range(*each, 0, bytes(32)) for each in pairwise([*borders, reconcile.HIGHEST])]
    assert len(ranges) == m.ITEMS_MAX
    found = reconcile.Difference()
    between = [looks for _ in reconcile.steps(ranges, fingerprint, whole.ids, found)]
    assert max(two - one for one, two in pairwise(between)) <= 2
    assert looks <= 2 * m.ITEMS_MAX
    assert len(found.ranges) == m.ITEMS_MAX
    assert found.is_partial


@settings(deadline=None)
@given(st.binary(max_size=33), st.binary(max_size=33), st.integers(0, 9))
def test_any_range_is_answered_or_refused(lower: bytes, upper: bytes, count: int) -> None:
    mine = Ids(make(500))
    wrong = m.Range(lower, upper, count, bytes(32))
    try:
        found = reconcile.compare([wrong], mine.fingerprint, mine.ids)
    except PeerError:
        return
    m.encode(m.Reconcile(tuple(found.ranges)))


def test_a_range_of_one_id_is_not_cut_for_ever() -> None:
    ranges = list(reconcile.split(b"a", b"a\0"))
    assert ranges == [(b"a", b"a\0")]
