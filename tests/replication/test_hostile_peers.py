"""Strangers and members that lie: they are dropped, they are counted, and the rest goes on."""

import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from piperfs.core.errors import ErrorKind, PeerError, StoreError
from piperfs.core.identity import generate
from piperfs.core.ids import ChunkId, OperationId, ReplicaId, StoreId
from piperfs.core.limits import (
    PREAUTH_FRAME_BYTES_MAX,
    PREAUTH_PER_HOST_MAX,
    PREAUTH_TIMEOUT_S,
    SEQ_MAX,
)
from piperfs.core.operation import decode_envelope
from piperfs.daemon.node import Node
from piperfs.protocol import messages as m
from piperfs.protocol.handshake import Side
from piperfs.replication import greeting
from piperfs.replication.channel import Channel
from piperfs.replication.dialling import ADDRESSES_MAX
from piperfs.replication.network import TlsNetwork, closing
from piperfs.store.rows import PeerRow
from tests.support import peers
from tests.support.peers import names, pair, running, until, write_file

pytestmark = pytest.mark.net


@asynccontextmanager
async def stranger(target: Node) -> AsyncIterator[Channel]:
    """A private line to a replica, and nothing said yet."""
    async with closing(await TlsNetwork("", 0).dial(peers.address_of(target))) as link:
        yield Channel(link)


async def ends(channel: Channel, within_s: float = 8) -> list[m.Message]:
    """Wait until the other end hangs up; returns what it said."""
    heard: list[m.Message] = []
    with trio.fail_after(within_s):
        while True:
            try:
                heard += await channel.receive()
            except PeerError:
                return heard


def hello(target: Node, **changes: object) -> m.Hello:
    volume, replica = target.store.volume, generate(os.urandom).replica
    return msgspec.structs.replace(m.Hello(m.VERSION, volume, replica, os.urandom(32)), **changes)


async def test_strangers_learn_nothing(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna, stranger(anna) as channel:
        channel.send(hello(anna))
        channel.send(m.Auth(os.urandom(64)))
        await channel.flush()
        heard = await ends(channel)
        assert {type(message) for message in heard} == {m.Hello, m.Auth, m.Refused}
        await until(lambda: anna.replicator.refusals.total == 1)
    anna.close()


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">I", PREAUTH_FRAME_BYTES_MAX + 1),
        struct.pack(">I", 2**32 - 1),
        struct.pack(">I", 20) + os.urandom(20),
        struct.pack(">I", 0),
    ],
    ids=["http", "large", "huge", "garbage", "empty"],
)
async def test_nonsense_ends_the_connection(tmp_path: Path, said: bytes) -> None:
    async with running(peers.founder(tmp_path)) as anna, stranger(anna) as channel:
        await channel._stream.send_all(said)
        await ends(channel, within_s=2)
    anna.close()


async def test_another_volume_is_refused(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna, stranger(anna) as channel:
        channel.send(hello(anna, volume=bytes(32)))
        await channel.flush()
        await ends(channel, within_s=2)
    anna.close()


@pytest.mark.slow
async def test_a_slow_greeting_is_cut_off(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna, stranger(anna) as channel:
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def drip() -> None:
                for byte in m.encode(hello(anna)):
                    await channel._stream.send_all(bytes((byte,)))
                    await trio.sleep(0.2)

            nursery.start_soon(drip)
            await ends(channel)
            nursery.cancel_scope.cancel()
        assert trio.current_time() - begun < PREAUTH_TIMEOUT_S + 1
    anna.close()


async def test_one_host_cannot_take_all_places(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna, trio.open_nursery() as nursery:
        port = int(peers.address_of(anna).rpartition(":")[2])
        held = [
            await trio.open_tcp_stream(peers.LOOPBACK, port) for _ in range(PREAUTH_PER_HOST_MAX)
        ]
        await until(lambda: len(anna.replicator._network.doorman.strangers) == 1)
        late = await trio.open_tcp_stream(peers.LOOPBACK, port)
        await until(lambda: anna.replicator._network.doorman.turned_away == 1)
        for stream in (*held, late):
            await trio.aclose_forcefully(stream)
        await until(lambda: not anna.replicator._network.doorman.strangers)
        nursery.cancel_scope.cancel()
    anna.close()


async def test_without_the_secret_nobody_joins(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna, stranger(anna) as channel:
        peers.make_ticket(anna)
        invite = next(iter(anna.graph.state().invites))
        identity = generate(os.urandom)
        channel.send(hello(anna, replica=identity.replica, joining=True))
        keys = identity.public
        channel.send(m.Join(invite, keys.signing, keys.sealing, "eve", os.urandom(64)))
        await channel.flush()
        await ends(channel, within_s=2)
        assert len(anna.members()) == 1
    anna.close()


async def test_a_members_keys_are_no_ticket(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna, stranger(anna) as channel:
        peers.make_ticket(anna)
        invite = next(iter(anna.graph.state().invites))
        keys = anna.identity.public
        channel.send(hello(anna, joining=True))
        channel.send(m.Join(invite, keys.signing, keys.sealing, "eve", os.urandom(64)))
        await channel.flush()
        heard = await ends(channel)
        assert not any(isinstance(message, m.Admitted) for message in heard)
    anna.close()


@asynccontextmanager
async def liar(base: Path) -> AsyncIterator[tuple[Node, Channel]]:
    """A replica, and a member with valid keys that says whatever a test likes."""
    async with member(base) as (anna, _ben, channel):
        yield anna, channel


@asynccontextmanager
async def member(base: Path) -> AsyncIterator[tuple[Node, Node, Channel]]:
    """A replica, a member that does not run, and a greeted line between them."""
    async with running(peers.founder(base)) as anna:
        ben = await peers.join(base, "ben", peers.make_ticket(anna))
        async with stranger(anna) as channel:
            greeted = await greeting.greet(channel, Side.CLIENT, ben)
            assert greeted is not None
            await until(lambda: peers.connected(anna) == 1)
            yield anna, ben, channel
        ben.close()
    anna.close()


STATE = m.State(StoreId(bytes(16)), 0, StoreId(b""), 0, 0, bytes(32), 0, 0)
WRONG_CHUNK = ((ChunkId(bytes(32)), b"not it"),)


@pytest.mark.parametrize(
    "lie",
    [
        m.Chunks(WRONG_CHUNK),
        m.Operations((b"garbage",), 1),
        m.Operations((), 1, WRONG_CHUNK),
        m.Members((b"garbage",)),
        m.Hello(1, bytes(32), bytes(16), bytes(32)),
        m.Reconcile((m.Range(b"b", b"a", 0, bytes(32)),)),
        m.Want((ChunkId(b"short"),), urgent=True),
        msgspec.structs.replace(STATE, cursor_lseq=-1),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_a_lying_member_is_dropped(tmp_path: Path, lie: m.Message) -> None:
    async with liar(tmp_path) as (anna, channel):
        channel.send(STATE)
        channel.send(lie)
        await channel.flush()
        await ends(channel, within_s=3)
        await until(lambda: peers.connected(anna) == 0)
        write_file(anna, b"still alive", b"text")
        await anna.committer.commit()


async def test_a_lie_about_numbers_ends_no_writing(tmp_path: Path) -> None:
    async with liar(tmp_path) as (anna, channel):
        channel.send(msgspec.structs.replace(STATE, seen_seq=SEQ_MAX, durable_lseq=SEQ_MAX))
        channel.send(m.Ack(SEQ_MAX, 0))
        channel.send(m.Ping(1))
        await channel.flush()
        while not any(isinstance(each, m.Pong) for each in await channel.receive()):
            pass
        assert anna.store.last_seq < SEQ_MAX // 1000
        write_file(anna, b"f", b"text")
        await anna.committer.commit()
        assert names(anna) == {b"f"}


async def test_addresses_that_are_none_end_nothing(tmp_path: Path) -> None:
    async with liar(tmp_path) as (anna, channel):
        nonsense = ("1.2.3.4:99999", "a\0b:1", "x" * 300, "127.0.0.1:1", "")
        member = ReplicaId(os.urandom(16))
        channel.send(msgspec.structs.replace(STATE, addresses=nonsense))
        channel.send(m.Peers(((member, nonsense), (anna.store.replica, nonsense))))
        channel.send(m.Ping(1))
        await channel.flush()
        while not any(isinstance(each, m.Pong) for each in await channel.receive()):
            pass
        anna.replicator.add_address("1.2.3.4:99999")
        await until(lambda: anna.replicator.dials["1.2.3.4:99999"].failures)
        assert peers.connected(anna) == 1
        assert len(anna.replicator.dials) == 1  # strangers' addresses are not dialled


async def test_dead_addresses_make_room_for_new_ones(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path), "127.0.0.1:1") as anna:
        for port in range(2, 2 + 2 * ADDRESSES_MAX):
            anna.replicator.add_address(f"127.0.0.1:{port}")
            await trio.sleep(0.005)  # lets it be dialled, in vain
        assert len(anna.replicator.dials) == ADDRESSES_MAX
        assert "127.0.0.1:1" in anna.replicator.dials
    anna.close()


async def test_only_what_is_durable_is_said_to_be(tmp_path: Path) -> None:
    async with liar(tmp_path) as (anna, channel):
        channel.send(STATE)
        ben = next(each.replica for each in anna.members() if each.label == "ben")
        anna.store.put_peer(ben, PeerRow(StoreId(bytes(16)), cursor=7))  # waits for a commit
        anna.replicator._sessions[ben].send_state()
        channel.send(m.Ping(1))
        await channel.flush()
        heard: list[m.Message] = []
        while m.Pong(1) not in heard:
            heard += await channel.receive()
        said = [each.cursor_lseq for each in heard if isinstance(each, m.State)]
        assert said
        assert not any(said)


def written_by(ben: Node) -> list[bytes]:
    """Two operations of a member that runs nowhere, as signed."""
    for name in (b"one", b"two"):
        write_file(ben, name, b"text")
        ben.store.commit(ben.clock.now_ns())
    return [raw for _, raw in ben.store.log.after(0, 1 << 20)]


async def acknowledged(channel: Channel, lseq: int) -> m.Ack:
    with trio.fail_after(5):
        while True:
            for message in await channel.receive():
                if isinstance(message, m.Ack) and message.lseq == lseq:
                    return message


async def test_what_was_refused_is_not_held(tmp_path: Path) -> None:
    async with member(tmp_path) as (anna, ben, channel):
        good, other = written_by(ben)
        forged = msgspec.structs.replace(decode_envelope(other), signature=bytes(64)).encode()
        (chunk,) = peers.chunks_of(ben, b"one")
        content = ((chunk, ben.store.chunks.get(chunk)),)
        channel.send(STATE)
        channel.send(m.Operations((good,), 1, content))
        await channel.flush()
        assert (await acknowledged(channel, 1)).complete_lseq == 1
        channel.send(m.Operations((forged,), 2))
        await channel.flush()
        assert (await acknowledged(channel, 2)).complete_lseq == 1
        assert names(anna) == {b"one"}


async def test_nothing_more_is_taken_in_while_the_disk_is_full(tmp_path: Path) -> None:
    async with member(tmp_path) as (anna, ben, channel):
        anna.committer.failure = StoreError("full", ErrorKind.NO_SPACE)
        channel.send(STATE)
        channel.send(m.Operations(tuple(written_by(ben)), 2))
        channel.send(m.Ping(1))
        await channel.flush()
        with trio.fail_after(5):
            while m.Pong(1) not in await channel.receive():
                pass
        assert names(anna) == set()
        session = anna.replicator._sessions[ben.store.replica]
        wake, session.wake = session.wake, lambda: None  # it has not heard yet that there is room
        anna.committer.failure = None
        channel.send(m.Operations((), 2))
        channel.send(m.Ping(2))
        await channel.flush()
        with trio.fail_after(5):
            while m.Pong(2) not in await channel.receive():
                pass
        await trio.testing.wait_all_tasks_blocked()
        assert anna.store.peer(ben.store.replica).cursor == 0
        session.wake = wake
        write_file(anna, b"there is room again", b"text")
        await anna.committer.commit()
        await ends(channel)  # the next connection brings what was left out


async def test_unknown_ids_are_answered_with_absence(tmp_path: Path) -> None:
    async with liar(tmp_path) as (_anna, channel):
        channel.send(STATE)
        channel.send(m.WantOperations((OperationId(bytes(32)),)))
        channel.send(m.Want((ChunkId(bytes(32)),), urgent=True))
        await channel.flush()
        with trio.fail_after(2):
            while not any(
                isinstance(each, m.Chunks) and each.absent for each in await channel.receive()
            ):
                pass


async def test_operations_of_a_removed_member_are_refused(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        write_file(ben, b"before", b"text")
        await peers.converged(anna, ben)
        anna.remove_member(anna.find_member("ben"))
        await until(lambda: not peers.connected(anna))
        write_file(ben, b"after", b"text")
        await ben.committer.commit()
        assert names(anna) == {b"before"}
