"""Operations dated far ahead wait for the clock, and cost nobody anything but the wait."""

import msgspec
import pytest

from piperfs.core import limits
from piperfs.core.clock import HybridClock
from piperfs.core.operation import Operation, latest_stamp
from piperfs.store import ahead
from piperfs.store.ahead import AHEAD_NS_MAX, Ahead
from tests.store.test_index_equals_view import check
from tests.support.stores import Node, TestClock, exchange

YEARS_S = 10 * 365 * 86_400
DAY_S = limits.CLOCK_AHEAD_S_MAX
NOW_S = 1_700_000_000


def later(name: str, seconds: int) -> Node:
    return Node(name, clock=TestClock(NOW_S + seconds))


def send(sender: Node, receiver: Node) -> dict[str, int]:
    """All operations of one, as a session gives them to the store of the other."""
    sender.commit()
    now = receiver.clock()
    applied = receiver.store.apply_remote(sender.operations(), now, sender.replica)
    receiver.commit()
    return {name: getattr(applied, name) for name in ("merged", "known", "ahead", "crowded")}


def release(node: Node) -> list[bytes]:
    return node.store.ahead.take_due(node.clock(), 64)


def test_a_day_is_borne_and_more_waits() -> None:
    ben = later("ben", 0)
    early = later("early", DAY_S - 1)
    early.create(early.root, b"early", b"")
    late = later("late", DAY_S + 1)
    late.create(late.root, b"late", b"")
    assert send(early, ben)["merged"] == 1
    assert send(late, ben) == {"merged": 0, "known": 0, "ahead": 1, "crowded": 0}
    assert set(ben.tree()) == {b"early"}
    assert send(late, ben)["ahead"] == 1
    assert len(ben.store.ahead) == 1
    facts = ben.store.ahead.facts()[late.replica]
    assert facts.operations == 1
    assert facts.until_ns == latest_stamp(late.operations()[0]) - AHEAD_NS_MAX


def test_exactly_a_day_does_not_wait() -> None:
    anna, ben = later("anna", 0), later("ben", 0)
    anna.create(anna.root, b"file", b"")
    [operation] = anna.operations()
    stamp = latest_stamp(operation)
    assert not ben.store.ahead.is_early(operation, stamp - AHEAD_NS_MAX)
    assert ben.store.ahead.is_early(operation, stamp - AHEAD_NS_MAX - 1)


def test_what_waits_outlives_a_restart_and_is_merged_in_time() -> None:
    ben, liar = later("ben", 0), later("liar", YEARS_S)
    liar.create(liar.root, b"file", b"text")
    send(liar, ben)
    again = Node("ben", engine=ben.engine, clock=ben.clock)
    assert len(again.store.ahead) == 1
    assert again.store.ahead.came_from(liar.replica)
    assert again.store.ahead.highest_seq(liar.replica) == liar.store.last_seq
    assert not release(again)
    again.clock.ns += YEARS_S * 1_000_000_000
    due = release(again)
    assert due == [liar.operations()[0].envelope]
    again.commit()
    assert not len(Node("ben", engine=ben.engine, clock=ben.clock).store.ahead)
    exchange(again, liar)
    assert again.store.digest() == liar.store.digest()
    assert check(again) == check(liar)


def test_a_stamp_inside_a_body_is_no_way_around() -> None:
    anna = later("anna", 0)
    anna.mkdir(anna.root, b"folder")
    [operation] = anna.operations()
    body = operation.writes[0].body
    far = msgspec.structs.replace(body.moved, hlc=body.moved.hlc + 10**18)
    moved = msgspec.structs.replace(body, moved=far)
    write = msgspec.structs.replace(operation.writes[0], body=moved)
    assert latest_stamp(msgspec.structs.replace(operation, writes=(write,))) == far.hlc


def test_a_member_without_rights_waits_no_longer() -> None:
    ben, liar = later("ben", 0), later("liar", YEARS_S)
    liar.create(liar.root, b"a", b"")
    liar.commit()
    cut = liar.store.last_seq
    liar.create(liar.root, b"b", b"")
    send(liar, ben)
    assert ben.store.ahead.drop(lambda author, seq: seq <= cut) == 1
    assert len(ben.store.ahead) == 1
    assert ben.store.ahead.highest_seq(liar.replica) == cut


def test_how_much_of_one_author_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    ben, liar = later("ben", 0), later("liar", YEARS_S)
    liar.create(liar.root, b"file", b"")
    [operation] = liar.operations()
    monkeypatch.setattr(ahead, "AHEAD_BYTES_MAX", len(operation.envelope) - 1)
    assert send(liar, ben)["crowded"] == 1
    monkeypatch.setattr(ahead, "AHEAD_BYTES_MAX", len(operation.envelope))
    assert send(liar, ben)["ahead"] == 1
    assert isinstance(ben.store.ahead, Ahead)
    assert isinstance(operation, Operation)


def test_a_clock_that_was_a_day_wrong_gives_stamps_that_others_take() -> None:
    clock, now = HybridClock(), NOW_S * 1_000_000_000
    wrong = clock.tick(now + AHEAD_NS_MAX)
    assert clock.tick(now) == wrong + 1
    clock.tick(now + 2 * AHEAD_NS_MAX)
    assert clock.tick(now) == now + 1
