"""A connection as messages: bounded, in order of need, and never an error in a stranger's hands."""

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from piperfs.core.errors import PeerError
from piperfs.core.ids import ChunkId
from piperfs.core.limits import FRAME_BYTES_MAX, QUEUED_BYTES_MAX
from piperfs.protocol import messages as m
from piperfs.replication.channel import Channel
from piperfs.replication.network import Link, TlsNetwork, split_address

LARGE = m.Chunks(((ChunkId(bytes(32)), bytes(FRAME_BYTES_MAX // 2)),))


def lines() -> tuple[Channel, Channel]:
    ends = memory_stream_pair()
    left, right = (Channel(Link(end, b"", "memory")) for end in ends)
    left.trust()
    right.trust()
    return left, right


async def test_sending_more_than_is_read_fails_in_the_writer_alone() -> None:
    left, _right = lines()
    for _ in range(2 * QUEUED_BYTES_MAX // FRAME_BYTES_MAX + 9):
        left.send(LARGE)  # whoever calls this may be anybody
    assert left._queued <= QUEUED_BYTES_MAX
    with pytest.raises(PeerError, match="more than it reads"):
        await left.run_writer()


async def test_urgent_messages_overtake() -> None:
    left, right = lines()
    for _ in range(3):
        left.send(LARGE, urgent=False)
    left.send(m.Ping(7))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(left.run_writer)
        assert (await right.receive())[0] == m.Ping(7)
        nursery.cancel_scope.cancel()


async def test_a_peer_that_vanished_is_noticed(autojump_clock: MockClock) -> None:
    left, _right = lines()
    with pytest.raises(PeerError, match="silent"):
        await left.receive()
    assert trio.current_time() <= 30


async def test_a_peer_that_falls_silent_later_is_noticed(autojump_clock: MockClock) -> None:
    """Nor does it count as silence how long its messages take to be dealt with."""
    left, right = lines()
    found: list[m.Message] = []

    async def handle(message: m.Message) -> None:
        await trio.sleep(60)
        found.append(message)

    right.send(m.Ping(1))
    await right.flush()
    with pytest.raises(PeerError, match="silent"):
        await left.run_reader(handle)
    assert found == [m.Ping(1)]
    assert 60 < trio.current_time() <= 90


@pytest.mark.parametrize(
    "address",
    ["", ":7000", "host", "host:", "host:0", "host:65536", "host:99999999999", "a\0b:7", "h:-1"],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError):
        split_address(address)


@pytest.mark.parametrize("address", ["256.1.1.1:99999", "x" * 300 + ":1", "\udcff:1", "[::1:1"])
async def test_dialling_nonsense_is_a_peers_fault(address: str) -> None:
    with pytest.raises(PeerError):
        await TlsNetwork("", 0).dial(address)
