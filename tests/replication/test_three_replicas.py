"""A third replica that knows only the second, and meets the first through it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from piperfs.daemon.node import Node
from tests.support import peers
from tests.support.peers import converged, names, read_file, running, until, write_file

pytestmark = pytest.mark.net


@asynccontextmanager
async def chain(base: Path) -> AsyncIterator[tuple[Node, Node, Node]]:
    """Anna and Carl begin with a connection to Ben only."""
    async with running(peers.founder(base)) as anna:
        ben = await peers.join(base, "ben", peers.make_ticket(anna))
        async with running(ben, peers.address_of(anna)):
            await until(lambda: peers.connected(ben) == 1)
            carl = await peers.join(base, "carl", peers.make_ticket(anna))
            peers.forget_addresses(carl)
            async with running(carl, peers.address_of(ben)):
                await until(lambda: peers.connected(carl) >= 1)
                yield anna, ben, carl
            carl.close()
        ben.close()
    anna.close()


async def test_three_replicas_converge(tmp_path: Path) -> None:
    async with chain(tmp_path) as nodes:
        for number, node in enumerate(nodes):
            write_file(node, b"from %d" % number, os.urandom(1000))
        await converged(*nodes)
        assert all(len(names(node)) == 3 for node in nodes)


async def test_content_goes_through_the_middle(tmp_path: Path) -> None:
    async with chain(tmp_path) as (anna, _ben, carl):
        text = os.urandom(300_000)
        write_file(anna, b"film", text)
        await until(lambda: read_file(carl, b"film") == text)


async def test_members_meet_through_each_other(tmp_path: Path) -> None:
    async with chain(tmp_path) as (anna, _ben, carl):
        await until(lambda: peers.connected(anna) == peers.connected(carl) == 2)


async def test_two_copies_are_confirmed(tmp_path: Path) -> None:
    async with chain(tmp_path) as (anna, ben, carl):
        await until(lambda: peers.connected(anna) == 2)
        write_file(anna, b"film", *(os.urandom(100_000) for _ in range(5)))
        await anna.committer.commit()
        assert anna.replicator is not None
        with trio.fail_after(10):
            held = await anna.replicator.wait_for_copies(2, peers.Silent().report)
        assert set(held) == {ben.store.replica, carl.store.replica}


async def test_nothing_is_sent_in_circles(tmp_path: Path) -> None:
    async with chain(tmp_path) as nodes:
        await until(lambda: all(peers.connected(node) == 2 for node in nodes))
        for number in range(100):
            write_file(nodes[0], b"%d" % number, os.urandom(500))
        await converged(*nodes)
        await until(lambda: all(len(peers.holders(node)) == 2 for node in nodes))
        before = [node.committer.commits for node in nodes]
        with trio.move_on_after(1):
            await trio.sleep_forever()
        assert sum(node.committer.commits for node in nodes) - sum(before) <= 3
