"""Two replicas over real TLS on the loopback interface."""

import os
from pathlib import Path

import pytest
import trio

from piperfs.core.errors import UserError
from piperfs.core.ids import ReplicaId
from piperfs.daemon import report
from piperfs.daemon.node import Node
from tests.support import peers
from tests.support.peers import Cable, converged, names, pair, read_file, running, until, write_file

pytestmark = pytest.mark.net


async def test_a_file_reaches_the_other_replica(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        write_file(anna, b"letter", b"dear ben")
        await converged(anna, ben)
        assert read_file(ben, b"letter") == b"dear ben"


async def test_both_replicas_write_and_converge(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        for number in range(50):
            write_file(anna, b"a%d" % number, os.urandom(100))
            write_file(ben, b"b%d" % number, os.urandom(100))
        await converged(anna, ben)
        assert names(anna) == names(ben)
        assert len(names(anna)) == 100


async def test_large_content_follows_by_itself(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        parts = [os.urandom(200_000) for _ in range(30)]
        write_file(anna, b"film", *parts)
        await until(lambda: read_file(ben, b"film") == b"".join(parts))


async def test_a_small_file_is_there_within_tenths(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        took = []
        for number in range(20):
            begun = trio.current_time()
            write_file(anna, b"f%d" % number, b"text")
            await until(lambda name=b"f%d" % number: read_file(ben, name) == b"text")
            took.append(trio.current_time() - begun)
        assert sorted(took)[10] < 0.3


async def test_copies_are_confirmed_with_content(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        write_file(anna, b"film", *(os.urandom(200_000) for _ in range(10)))
        await anna.committer.commit()
        assert anna.replicator is not None
        with trio.fail_after(10):
            held = await anna.replicator.wait_for_copies(1, peers.Silent().report)
        assert held == [ben.store.replica]
        assert ben.store.chunks.want_count == 0


async def test_a_reconnect_brings_only_what_is_new(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna, trio.open_nursery() as nursery:
        cable = Cable(peers.address_of(anna))
        await nursery.start(cable.run)
        ben = await peers.join(tmp_path, "ben", peers.make_ticket(anna))
        peers.forget_addresses(ben)
        async with running(ben, cable.address):
            write_file(anna, b"before", os.urandom(40_000))
            await converged(anna, ben)
            await until(lambda: peers.holders(anna) == [ben.store.replica])  # acknowledged too
            cable.cut()
            await until(lambda: not peers.connected(anna) and not peers.connected(ben))
            for number in range(200):
                write_file(anna, b"a%d" % number, b"offline")
                write_file(ben, b"b%d" % number, b"offline")
            await anna.committer.commit()
            carried = cable.bytes
            cable.heal()
            await converged(anna, ben)
            assert len(names(ben)) == 401
            assert cable.bytes - carried < 600 * 400
        ben.close()
        nursery.cancel_scope.cancel()
    anna.close()


async def test_after_a_restart_all_is_in_step(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        write_file(anna, b"letter", b"dear ben")
        await converged(anna, ben)
    anna = peers.open_again(tmp_path, "anna")
    ben = peers.open_again(tmp_path, "ben")
    async with running(anna), running(ben, peers.address_of(anna)):
        assert anna.replicator is not None
        await until(lambda: peers.connected(anna) == peers.connected(ben) == 1)
        await until(lambda: anna.replicator.holders() == [ben.store.replica])
        await until(lambda: all(each.waits_for is None for each in ben.replicator.status()))
    anna.close()
    ben.close()


def told(node: Node) -> list[tuple[ReplicaId, tuple[str, ...]]]:
    """Who is connected, and the addresses that they told."""
    assert node.replicator is not None
    return [(replica, each.addresses) for replica, each in node.replicator._sessions.items()]


async def test_a_peer_that_left_dials_again_and_one_that_was_removed_is_not_waited_for(
    tmp_path: Path,
) -> None:
    async with running(peers.founder(tmp_path)) as anna:
        ben = await peers.join(tmp_path, "ben", peers.make_ticket(anna))
        async with running(ben, peers.address_of(anna)):
            own = ben.store.replica
            await until(lambda: any(each[0] == own and each[1] for each in told(anna)))
        ben.close()
        await until(lambda: peers.connected(anna) == 0)
        (row,) = report.peers(anna)
        assert row.address is not None
        assert row.waits_for == "it dials this computer when it is back"
        await anna.commit()
    anna.close()
    anna = peers.open_again(tmp_path, "anna")
    (row,) = report.peers(anna)
    assert (row.name, row.state, row.waits_for) == ("ben", "waiting", "no daemon runs here")
    anna.remove_member(anna.find_member("ben"))
    assert report.peers(anna) == report.status(anna).peers == []
    anna.close()


async def test_a_ticket_lets_one_computer_in(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna:
        ticket = peers.make_ticket(anna)
        ben = await peers.join(tmp_path, "ben", ticket)
        with pytest.raises(UserError, match="spent"):
            await peers.join(tmp_path, "carl", ticket)
        for name in ("a\n\x1b[31mb", "x" * 101):
            with pytest.raises(UserError, match="the new computer's name"):
                await peers.join(tmp_path, name, peers.make_ticket(anna))
        assert {member.label for member in anna.members()} == {"anna", "ben"}
        ben.close()
    anna.close()


async def test_a_removed_member_is_refused(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        anna.remove_member(anna.find_member("ben"))
        await until(lambda: not peers.connected(anna) and not peers.connected(ben))
        write_file(anna, b"secret", b"not for ben")
        await anna.committer.commit()
        await until(lambda: "was removed" in str(ben.replicator.status()[0].waits_for))
        assert names(ben) == set()
        assert anna.replicator.refusals.total > 0


async def test_members_learn_of_a_new_one_at_once(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        carl = await peers.join(tmp_path, "carl", peers.make_ticket(anna))
        await until(lambda: len(ben.members()) == 3, within_s=2)
        carl.close()
