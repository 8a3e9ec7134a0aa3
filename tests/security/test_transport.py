"""Strangers between and beside two replicas, over real TLS: refused, counted, logged."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import structlog
import trio

from piperfs.core.errors import PeerError, UserError
from piperfs.daemon.node import Node
from piperfs.protocol import messages as m
from piperfs.protocol.handshake import Fault, HandshakeError, Side, Transcript
from piperfs.replication import greeting
from piperfs.replication.channel import Channel
from piperfs.replication.inbox import Inbox
from piperfs.replication.network import Link, TlsNetwork, closing
from piperfs.replication.refusals import LINES_PER_MINUTE, Refusals
from tests.support import peers
from tests.support.peers import pair, running, until, write_file

pytestmark = pytest.mark.net

Change = Callable[[m.Message], m.Message | None]


class ManInTheMiddle:
    """Speaks TLS to both sides with a certificate of its own and passes the messages on."""

    def __init__(self, target: str, change: Change = lambda message: message) -> None:
        self._target = target
        self._change = change
        self._network = TlsNetwork("127.0.0.1", 0)
        self.address = ""
        self.heard: list[m.Message] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ManInTheMiddle"]:
        async with trio.open_nursery() as nursery:
            (self.address,) = await nursery.start(self._network.listen, self._carry)
            yield self
            nursery.cancel_scope.cancel()

    async def _carry(self, near_link: Link) -> None:
        async with closing(near_link), closing(await self._network.dial(self._target)) as far_link:
            near, far = Channel(near_link), Channel(far_link)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pass_on, near, far, nursery.cancel_scope)
                nursery.start_soon(self._pass_on, far, near, nursery.cancel_scope)

    async def _pass_on(self, source: Channel, sink: Channel, scope: trio.CancelScope) -> None:
        try:
            while True:
                for message in await source.receive():
                    self.heard.append(message)
                    changed = self._change(message)
                    if changed is not None:
                        sink.send(changed)
                await sink.flush()
        except PeerError:
            scope.cancel()


def stripped(message: m.Message) -> m.Message:
    """A hello without the features that it offers."""
    if isinstance(message, m.Hello):
        return msgspec.structs.replace(message, features=())
    return message


@pytest.mark.parametrize("change", [lambda message: message, stripped], ids=["silent", "strips"])
async def test_a_man_in_the_middle_is_refused_and_named(tmp_path: Path, change: Change) -> None:
    async with running(peers.founder(tmp_path)) as anna:
        ben = await peers.join(tmp_path, "ben", peers.make_ticket(anna))
        peers.forget_addresses(ben)
        write_file(anna, b"secret", b"text")
        middle = ManInTheMiddle(peers.address_of(anna), change)
        with structlog.testing.capture_logs() as logs:
            async with middle.running(), running(ben, middle.address):
                await until(lambda: ben.replicator.refusals.count[Fault.PROOF])
                assert not peers.connected(anna)
        ben.close()
        refused = [log for log in logs if log["event"] == "peer.refused"]
        assert refused[0]["fault"] == "proof"
        assert middle.address in refused[0]["address"]
        kinds = {type(message) for message in middle.heard}
        assert kinds <= {m.Hello, m.Auth}
        assert any("peers_refused" in sample.name for sample in ben.replicator.samples())
    anna.close()


async def test_a_man_in_the_middle_of_a_join_learns_nothing_of_the_volume(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna:
        middle = ManInTheMiddle(peers.address_of(anna))
        async with middle.running():
            ticket = peers.at_address(peers.make_ticket(anna), middle.address)
            with pytest.raises((UserError, PeerError)):
                await peers.join(tmp_path, "ben", ticket)
        assert not any(isinstance(message, m.Admitted) for message in middle.heard)
        assert anna.replicator.refusals.count[Fault.PROOF] == 1
        assert len(anna.members()) == 1
    anna.close()


@asynccontextmanager
async def line_to(target: Node) -> AsyncIterator[Channel]:
    async with closing(await TlsNetwork("", 0).dial(peers.address_of(target))) as link:
        yield Channel(link)


async def refusal(channel: Channel) -> str:
    """What the other end says before it hangs up."""
    reason = ""
    with trio.fail_after(8):
        while True:
            try:
                for message in await channel.receive():
                    reason = message.reason if isinstance(message, m.Refused) else reason
            except PeerError:
                return reason


async def test_a_replayed_greeting_is_refused(tmp_path: Path) -> None:
    """Every word of a greeting that once succeeded, said again on another connection."""
    async with pair(tmp_path) as (anna, ben):
        async with line_to(anna) as channel:
            own = greeting._hello(ben)
            channel.send(own)
            await channel.flush()
            inbox = Inbox(channel)
            theirs = await inbox.next(m.Hello)
            transcript = Transcript(anna.store.volume, channel.binding, own, theirs)
            said = [own, m.Auth(ben.identity.sign(transcript.message(Side.CLIENT)))]
            channel.send(said[1])
            await channel.flush()
            await inbox.next(m.Auth)
            await inbox.next(m.Welcome)
        async with line_to(anna) as channel:
            for message in said:
                channel.send(message)
            await channel.flush()
            assert "proof" in await refusal(channel)
        assert anna.replicator.refusals.count[Fault.PROOF] == 1


async def test_a_forwarded_proof_is_refused(tmp_path: Path) -> None:
    """A member that is dialled cannot use the caller's proof to be the caller elsewhere."""
    async with pair(tmp_path) as (anna, ben):
        carl = await peers.join(tmp_path, "carl", peers.make_ticket(anna))
        async with line_to(anna) as channel:
            inbox = Inbox(channel)
            hello = greeting._hello(ben)
            channel.send(hello)
            await channel.flush()
            theirs = await inbox.next(m.Hello)
            elsewhere = Transcript(anna.store.volume, os.urandom(32), hello, theirs)
            channel.send(m.Auth(ben.identity.sign(elsewhere.message(Side.CLIENT))))
            await channel.flush()
            assert "proof" in await refusal(channel)
        async with line_to(anna) as channel:  # a member under another member's name
            hello = msgspec.structs.replace(greeting._hello(carl), replica=ben.store.replica)
            channel.send(hello)
            await channel.flush()
            theirs = await Inbox(channel).next(m.Hello)
            transcript = Transcript(anna.store.volume, channel.binding, hello, theirs)
            channel.send(m.Auth(carl.identity.sign(transcript.message(Side.CLIENT))))
            await channel.flush()
            assert "proof" in await refusal(channel)
        carl.close()


async def test_a_changed_feature_list_does_not_pass(tmp_path: Path) -> None:
    """Inside TLS, as if somebody could: the proof covers what was offered."""
    async with pair(tmp_path) as (anna, ben), line_to(anna) as channel:
        hello = msgspec.structs.replace(greeting._hello(ben), features=("padding",))
        channel.send(stripped(hello))
        await channel.flush()
        theirs = await Inbox(channel).next(m.Hello)
        transcript = Transcript(anna.store.volume, channel.binding, hello, theirs)
        channel.send(m.Auth(ben.identity.sign(transcript.message(Side.CLIENT))))
        await channel.flush()
        assert "proof" in await refusal(channel)


async def test_a_removed_member_is_refused_logged_and_told(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        with structlog.testing.capture_logs() as logs:
            anna.remove_member(anna.find_member("ben"))
            await until(lambda: anna.replicator.refusals.count[Fault.REMOVED])
        assert any(log.get("fault") == "removed" and "ben" in log["reason"] for log in logs)
        await until(lambda: "was removed" in str(ben.replicator.status()[0].waits_for))


async def test_a_stolen_ticket_is_of_no_use_after_the_join(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna:
        ticket = peers.make_ticket(anna)
        ben = await peers.join(tmp_path, "ben", ticket)
        with pytest.raises(UserError, match="spent"):
            await peers.join(tmp_path, "thief", ticket)
        assert anna.replicator.refusals.count[Fault.TICKET] == 1
        ben.close()
    anna.close()


async def test_a_false_member_cannot_take_a_newcomer_in(tmp_path: Path) -> None:
    """Whoever answers at the ticket's address must show the volume that the ticket names."""
    async with running(peers.founder(tmp_path)) as anna:
        ticket = peers.make_ticket(anna)
    async with running(peers.founder(tmp_path, "mallory")) as mallory:
        mallory.graph.volume = anna.store.volume  # it says so
        with pytest.raises((UserError, PeerError)):
            await peers.join(tmp_path, "ben", peers.at_address(ticket, peers.address_of(mallory)))
        assert not (tmp_path / "ben" / "volume.json").exists()
    anna.close()
    mallory.close()


async def test_refusals_fill_no_disk_with_lines() -> None:
    refusals = Refusals()
    with structlog.testing.capture_logs() as logs:
        for _ in range(1000):
            refusals.note("192.0.2.1:1", HandshakeError(Fault.STRANGER, "it is no member"))
    assert refusals.total == 1000
    assert len(logs) == LINES_PER_MINUTE
