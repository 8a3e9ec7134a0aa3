"""Replicas that lost their place, or themselves, find what each lacks by comparing sets."""

import os
import shutil
from pathlib import Path

import pytest
import trio

from piperfs.core.record import Birth, ContentBody
from piperfs.daemon.origin import write_origin
from piperfs.store.change import PutContent
from piperfs.store.engine import DATA_FILE
from piperfs.store.oplog import lseq_key
from piperfs.store.rows import PeerRow
from tests.support import peers
from tests.support.peers import (
    Cable,
    Node,
    converged,
    damage,
    names,
    pair,
    read_file,
    running,
    until,
)
from tests.support.peers import write_file as write

pytestmark = pytest.mark.net


def forget_place(node: Node) -> None:
    """As after a repair of the store: nothing is known of how far others are."""
    for replica in node.store.peers():
        node.store.put_peer(replica, PeerRow())


async def stopped_pair(base: Path, files: int) -> None:
    """Two replicas with some files in common, closed again."""
    async with pair(base) as (anna, ben):
        for number in range(files):
            write(anna, b"common %d" % number, b"text")
        await converged(anna, ben)


async def test_lost_places_cost_only_the_difference(tmp_path: Path) -> None:
    await stopped_pair(tmp_path, 1000)
    anna, ben = peers.open_again(tmp_path, "anna"), peers.open_again(tmp_path, "ben")
    forget_place(anna)
    forget_place(ben)
    for number in range(20):
        write(anna, b"a%d" % number, b"text")
        write(ben, b"b%d" % number, b"text")
    async with running(anna) as anna, trio.open_nursery() as nursery:
        await anna.committer.commit()
        cable = Cable(peers.address_of(anna))
        await nursery.start(cable.run)
        async with running(ben, cable.address):
            await converged(anna, ben)
            assert len(names(anna)) == len(names(ben)) == 1040
            assert cable.bytes < 150_000
            write(anna, b"later", b"text")
            await until(lambda: b"later" in names(ben), within_s=2)
            await until(lambda: peers.holders(anna) == [ben.store.replica])
            await until(lambda: peers.holders(ben) == [anna.store.replica])
        nursery.cancel_scope.cancel()
    anna.close()
    ben.close()


async def test_two_large_differences_do_not_block(tmp_path: Path) -> None:
    await stopped_pair(tmp_path, 100)
    anna, ben = peers.open_again(tmp_path, "anna"), peers.open_again(tmp_path, "ben")
    forget_place(anna)
    forget_place(ben)
    for number in range(1500):
        write(anna, b"a%d" % number, os.urandom(4000))
        write(ben, b"b%d" % number, os.urandom(4000))
    for node in (anna, ben):
        node.store.commit(node.clock.now_ns())
    async with running(anna), running(ben, peers.address_of(anna)):
        await converged(anna, ben, within_s=30)
        assert len(names(anna)) == len(names(ben)) == 3100
    anna.close()
    ben.close()


async def test_an_old_copy_takes_its_own_changes_back(tmp_path: Path) -> None:
    await stopped_pair(tmp_path, 3)
    shutil.copytree(tmp_path / "anna", tmp_path / "backup")
    anna, ben = peers.open_again(tmp_path, "anna"), peers.open_again(tmp_path, "ben")
    async with running(anna), running(ben, peers.address_of(anna)):
        for number in range(10):
            write(anna, b"newer %d" % number, b"text")
        await converged(anna, ben)
        newest = anna.store.last_seq
    anna.close()
    shutil.rmtree(tmp_path / "anna")
    (tmp_path / "backup").rename(tmp_path / "anna")
    data = tmp_path / "anna" / "store" / DATA_FILE
    write_origin(tmp_path / "anna", data)  # as a snapshot of the whole disk brings it back
    anna = peers.open_again(tmp_path, "anna")
    assert anna.store.last_seq < newest
    async with running(anna), running(ben, peers.address_of(anna)):
        await until(lambda: len(names(anna)) == 13)
        assert anna.store.last_seq >= newest
        write(anna, b"after", b"text")
        await converged(anna, ben)
        assert read_file(ben, b"after") == b"text"
        await until(lambda: peers.holders(anna) == [ben.store.replica])
        place = ben.store.peer(anna.store.replica).cursor  # of the store that went back
        assert place <= anna.store.log.durable_lseq
    anna.close()
    ben.close()


async def test_a_new_key_is_taken_into_use_by_all(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        write(anna, b"before", b"text")
        anna.rotate()
        write(anna, b"after", b"text")
        await converged(anna, ben)
        assert ben.keyring.epoch == anna.keyring.epoch
        write(ben, b"reply", b"text")
        await until(lambda: read_file(anna, b"reply") == b"text")
        assert read_file(ben, b"after") == b"text"


async def test_what_cannot_be_sent_holds_up_nothing_else(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna:
        for number in range(4):
            write(anna, b"%d" % number, b"text")
            await anna.committer.commit()
        damage(anna, "envelope", lseq_key(2))
        ben = await peers.join(tmp_path, "ben", peers.make_ticket(anna))
        async with running(ben, peers.address_of(anna)):
            await until(lambda: len(names(ben)) == 3)
            write(anna, b"later", b"text")
            await until(lambda: b"later" in names(ben))
            assert ben.store.peer(anna.store.replica).cursor < 2
            assert not peers.holders(anna)
        ben.close()
    anna.close()


async def test_one_damaged_value_keeps_nothing_else_away(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        inode = write(anna, b"file", b"text")
        await converged(anna, ben)
        damage(ben, "content", inode)
        now = anna.clock.now_ns()
        body = ContentBody(True, 0, now, Birth(0o644, "root", "root", anna.store.replica))
        anna.store.apply_local([PutContent(inode, body, ())], now)
        await anna.committer.commit()
        write(anna, b"another", b"text")
        await anna.committer.commit()
        await until(lambda: names(ben) == {b"file", b"another"}, within_s=3)
        await until(lambda: peers.holders(ben) == [anna.store.replica])
        assert not peers.holders(anna)
        assert "fsck" in ben.health()["values"]
