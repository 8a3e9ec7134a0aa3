"""Clocks that are years apart, over real sockets: nobody is refused, and nobody else is delayed."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from piperfs.core.errors import StoreError
from piperfs.daemon import report
from piperfs.replication import releasing
from tests.support import peers
from tests.support.peers import converged, names, open_again, pair, running, until, write_file

pytestmark = pytest.mark.net
YEARS_NS = 10 * 365 * 86_400 * 1_000_000_000


def shift(node: peers.Node, by_ns: int) -> None:
    real = peers.SYSTEM_CLOCK.now_ns
    node.clock = replace(peers.SYSTEM_CLOCK, now_ns=lambda: real() + by_ns)


def waiting_of(node: peers.Node) -> list[str]:
    return [f"{each.what}: {each.reason}" for each in report.status(node).waiting]


async def test_a_clock_that_is_years_ahead_delays_only_its_own_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releasing, "RELEASE_EVERY_S", 0.05)
    async with pair(tmp_path) as (anna, ben):
        shift(ben, YEARS_NS)
        write_file(ben, b"from the future", b"text")
        await until(lambda: len(anna.store.ahead) == 1)
        write_file(anna, b"today", b"text")
        await until(lambda: b"today" in names(ben))
        assert names(anna) == {b"today"}
        (said,) = [text for text in waiting_of(anna) if "dated" in text]
        assert said.startswith("1 operations of ben: dated more than a day ahead")
        metrics = {each.name: each.value for each in report.samples(anna)}
        assert metrics["operations_ahead"] == 1
        assert peers.holders(ben) == []  # what waits there is no copy
        shift(ben, 0)  # somebody sets it right: new work arrives as ever
        write_file(ben, b"now", b"text")
        await until(lambda: b"now" in names(anna))
        await until(lambda: len(anna.store.ahead) == 1)
        shift(anna, YEARS_NS)  # the years go by
        await until(lambda: names(anna) == {b"today", b"now", b"from the future"})
        await converged(anna, ben)
        await until(lambda: peers.holders(ben) == [anna.store.replica])


async def test_what_waits_outlives_a_restart_and_a_clock_that_lags_catches_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releasing, "RELEASE_EVERY_S", 0.05)
    async with running(peers.founder(tmp_path)) as anna:
        ben = await peers.join(tmp_path, "ben", peers.make_ticket(anna))
        shift(ben, -YEARS_NS)  # such as a computer without a battery for its clock
        async with running(ben, peers.address_of(anna)):
            write_file(anna, b"file", b"text")
            await until(lambda: len(ben.store.ahead) == 2)  # that of the root is one
            await ben.committer.commit()
        ben.close()
        ben = open_again(tmp_path, "ben")
        shift(ben, -YEARS_NS)
        async with running(ben, peers.address_of(anna)):
            assert len(ben.store.ahead) == 2
            assert b"file" not in names(ben)
            shift(ben, 0)
            await converged(anna, ben)
            assert names(ben) == {b"file"}
        ben.close()


async def test_damage_of_what_waits_does_not_end_the_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(_local: peers.Node) -> int:
        raise StoreError("the store holds a damaged value")

    monkeypatch.setattr(releasing, "RELEASE_EVERY_S", 0.05)
    async with pair(tmp_path) as (anna, ben):
        monkeypatch.setattr(releasing, "release", damaged)
        await trio.sleep(0.2)
        write_file(anna, b"today", b"text")
        await converged(anna, ben)
