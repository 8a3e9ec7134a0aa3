"""Members find each other on a local network; what they say tells others nothing."""

import os

import pytest
import trio

from piperfs.core.ids import ReplicaId, VolumeId
from piperfs.replication.discovery import DAY_NS, Announcement, Discovery, key_of, tag
from tests.support.peers import LOOPBACK, until

VOLUME = VolumeId(bytes(range(32)))
NOW_NS = 20_000 * DAY_NS


class Replica:
    """A replica that announces itself on the loopback interface."""

    def __init__(self, port: int, volume: VolumeId = VOLUME, now_ns: int = NOW_NS) -> None:
        self.found: set[str] = set()
        self.address = f"{LOOPBACK}:{port}"
        replica = ReplicaId(os.urandom(16))
        self.discovery = Discovery(
            volume, replica, lambda: now_ns, lambda: [self.address], self.found.add
        )
        self.discovery.interfaces = [LOOPBACK]


@pytest.mark.net
async def test_members_of_one_volume_find_each_other() -> None:
    anna, ben = Replica(1001), Replica(1002)
    late = Replica(1003, now_ns=NOW_NS + DAY_NS)
    stranger = Replica(1004, volume=VolumeId(bytes(32)))
    async with trio.open_nursery() as nursery:
        for each in (anna, ben, late, stranger):
            nursery.start_soon(each.discovery.run)
        await until(lambda: anna.found == {ben.address, late.address})
        await until(lambda: ben.found == {anna.address, late.address})
        assert stranger.found == set()
        nursery.cancel_scope.cancel()


@pytest.mark.net
async def test_without_a_network_nothing_fails() -> None:
    anna = Replica(1001)
    anna.discovery.interfaces = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(anna.discovery.run)
        with trio.move_on_after(0.5):
            await trio.sleep_forever()
        nursery.cancel_scope.cancel()
    assert anna.found == set()


def test_what_is_said_changes_with_the_day() -> None:
    key = key_of(VOLUME)
    replica = os.urandom(16)
    tags = {tag(key, day, who) for day in range(100) for who in (b"", replica)}
    assert len(tags) == 200


def test_neither_volume_nor_replica_is_named() -> None:
    replica = ReplicaId(os.urandom(16))
    discovery = Discovery(VOLUME, replica, lambda: NOW_NS, list, print)
    said = str(discovery._info(Announcement(5, ("192.0.2.7:5",))))
    for secret in (VOLUME.hex()[:8], replica.hex()[:8]):
        assert secret not in said
