"""Pairing by a short code: real TLS, real SPAKE2, everything that somebody in between may try."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import structlog
import trio

from piperfs.core import limits
from piperfs.core.errors import ExitCode, PeerError, UserError
from piperfs.core.pairing_code import PairingCode, make_code, parse_code
from piperfs.daemon import joining, pairing
from piperfs.daemon.node import Node
from piperfs.protocol import messages as m
from piperfs.protocol.handshake import Fault, Side
from piperfs.protocol.pairing import Exchange
from piperfs.replication import beacon
from piperfs.replication.channel import Channel
from piperfs.replication.network import TlsNetwork, closing
from piperfs.replication.pairing import Joined
from tests.security.test_transport import ManInTheMiddle, refusal
from tests.support import peers
from tests.support.peers import LOOPBACK, running, until

pytestmark = pytest.mark.net


@dataclass
class Command:
    """`piperfs invite --pair` as the daemon sees it."""

    node: Node
    seconds: float = 60
    reports: list[tuple[str, int]] = field(default_factory=list)
    joined: Joined | None = None
    error: UserError | None = None

    async def report(self, text: str, done: int = 0, total: int = 0) -> None:
        self.reports.append((text, done))

    async def run(self) -> None:
        try:
            self.joined = await pairing.pair(self.node, "writer", self.seconds, self)
        except UserError as error:
            self.error = error

    @property
    def code(self) -> str:
        return self.reports[0][0]

    @property
    def is_over(self) -> bool:
        return self.joined is not None or self.error is not None


@asynccontextmanager
async def window(tmp_path: Path, seconds: float = 60) -> AsyncIterator[tuple[Node, Command]]:
    """Anna runs, and a pairing is open on her computer."""
    async with running(peers.founder(tmp_path)) as anna, trio.open_nursery() as nursery:
        command = Command(anna, seconds)
        nursery.start_soon(command.run)
        await until(lambda: command.reports)
        yield anna, command
        nursery.cancel_scope.cancel()
    anna.close()


async def pair(tmp_path: Path, name: str, code: str, address: str) -> str:
    """Join by a code; returns the check words."""
    node, words = await joining.pair(peers.guest(tmp_path, name), code, address)
    node.close()
    return words


def other_than(code: str) -> str:
    """A code that is well formed, for the same computer, and wrong."""
    right = parse_code(code)
    while True:
        wrong = make_code(os.urandom)
        if wrong.nameplate == right.nameplate and wrong != right:
            return str(wrong)
        letters = right.letters[:4] + wrong.letters[4:]
        try:
            return str(parse_code(letters))
        except UserError:
            continue


async def test_the_right_code_lets_a_computer_in_and_both_show_the_same_words(
    tmp_path: Path,
) -> None:
    async with window(tmp_path) as (anna, command):
        words = await pair(tmp_path, "ben", command.code.upper(), peers.address_of(anna))
        await until(lambda: command.is_over)
        assert command.joined == Joined("ben", words)
        assert anna.find_member("ben").role == "writer"
        assert anna.pairing.window is None


async def test_three_wrong_codes_burn_the_code(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        async with window(tmp_path) as (anna, command):
            where = peers.address_of(anna)
            for left in ("tries left: 2", "tries left: 1", "void now"):
                with pytest.raises(UserError, match=left) as caught:
                    await pair(tmp_path, "eve", other_than(command.code), where)
                assert caught.value.code is ExitCode.REFUSED
            await until(lambda: command.is_over)
            assert command.error is not None
            assert "3 wrong codes" in str(command.error)
            assert [done for _, done in command.reports] == [0, 1, 2, 3]
            with pytest.raises(UserError, match="no pairing is open"):
                await pair(tmp_path, "ben", command.code, where)
            assert [s.value for s in anna.pairing.samples()] == [3]
            assert anna.replicator.refusals.count[Fault.PAIRING] == 4
            assert len(anna.members()) == 1
            assert len(anna.graph.records()) == 1
    events = [log["event"] for log in logs]
    assert events.count("pairing.wrong_code") == 3
    assert "pairing.burned" in events
    assert not (tmp_path / "eve" / "volume.json").exists()


async def test_what_is_mistyped_costs_no_try(tmp_path: Path) -> None:
    async with window(tmp_path) as (anna, command):
        spoilt = ("b" if command.code[5] != "b" else "d") + command.code[6:]
        for text in ("sesame", "", command.code[:-5], "x" * 10_000, command.code[:5] + spoilt):
            with pytest.raises(UserError, match=r"no pairing code|wrong") as caught:
                await pair(tmp_path, "ben", text, peers.address_of(anna))
            assert caught.value.code in (ExitCode.USAGE, ExitCode.REFUSED)
        assert anna.pairing.window.wrong <= 1  # where the check, of 6 bits, happened to fit


async def test_a_code_expires(tmp_path: Path) -> None:
    async with window(tmp_path, seconds=0.2) as (anna, command):
        await until(lambda: command.is_over)
        assert "in time" in str(command.error)
        with pytest.raises(UserError, match="no pairing is open"):
            await pair(tmp_path, "ben", command.code, peers.address_of(anna))


async def test_one_window_at_a_time(tmp_path: Path) -> None:
    async with window(tmp_path) as (anna, command):
        second = Command(anna)
        await second.run()
        assert "open already" in str(second.error)
        assert not command.is_over


@pytest.mark.parametrize("again", range(3))
async def test_of_two_at_once_one_gets_in(tmp_path: Path, again: int) -> None:
    async with window(tmp_path) as (anna, command):
        outcome: dict[str, str] = {}

        async def come(name: str) -> None:
            try:
                outcome[name] = await pair(tmp_path, name, command.code, peers.address_of(anna))
            except UserError as error:
                outcome[name] = str(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come, "ben")
            nursery.start_soon(come, "carl")
        await until(lambda: command.is_over)
        assert command.joined is not None
        lucky = command.joined.name
        (other,) = {"ben", "carl"} - {lucky}
        assert outcome[lucky] == command.joined.words
        assert "used by another" in outcome[other] or "no pairing is open" in outcome[other]
        assert [member.label for member in anna.members()] == ["anna", lucky]


async def test_a_man_in_the_middle_of_a_pairing_gets_nothing(tmp_path: Path) -> None:
    """He passes every word on, over his own two TLS connections; both ends notice."""
    async with window(tmp_path) as (anna, command):
        middle = ManInTheMiddle(peers.address_of(anna))
        async with middle.running():
            with pytest.raises(UserError, match="the code is wrong"):
                await pair(tmp_path, "ben", command.code, middle.address)
        assert not any(isinstance(message, m.PairTicket) for message in middle.heard)
        assert anna.pairing.window.wrong == 1
        assert len(anna.members()) == 1


async def test_who_only_pretends_to_know_the_code_is_noticed(tmp_path: Path) -> None:
    """Somebody announces the word of the code that is no secret, and hands over a false ticket."""
    async with window(tmp_path) as (_anna, command):
        code = parse_code(other_than(command.code))
        network = TlsNetwork(LOOPBACK, 0)

        async def answer(link: object) -> None:
            channel = Channel(link)
            (asked,) = await channel.receive()
            exchange = Exchange(Side.SERVER, code, channel.binding, os.urandom)
            key = exchange.finish(asked.share)
            channel.send(m.PairShare(exchange.share))
            await channel.flush()
            (proof,) = await channel.receive()
            assert not key.is_proved_by(Side.CLIENT, proof.proof)
            channel.send(m.PairTicket(key.proof(Side.SERVER), key.seal("piper1:false")))
            await channel.flush()
            await channel.receive()

        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(network.listen, partial(_quietly, answer))
            with pytest.raises(UserError, match="does not know the code"):
                await pair(tmp_path, "ben", command.code, address)
            nursery.cancel_scope.cancel()
        assert not command.is_over


async def _quietly(work: Callable[[object], Awaitable[None]], link: object) -> None:
    try:
        await work(link)
    except PeerError:
        pass


async def _line(anna: Node) -> AsyncIterator[Channel]:
    async with closing(await TlsNetwork("", 0).dial(peers.address_of(anna))) as link:
        yield Channel(link)


line = asynccontextmanager(_line)


def asks(channel: Channel, code: PairingCode) -> m.Pair:
    exchange = Exchange(Side.CLIENT, code, channel.binding, os.urandom)
    return m.Pair(m.VERSION, code.nameplate, exchange.share)


@pytest.mark.parametrize("share", [bytes(33), b"A" + bytes(32), b"B" * 33, b"A" + b"\xff" * 32])
async def test_a_malformed_share_is_a_wrong_try(tmp_path: Path, share: bytes) -> None:
    async with window(tmp_path) as (anna, command), line(anna) as channel:
        channel.send(m.Pair(m.VERSION, command.code[:4], share))
        await channel.flush()
        await refusal(channel)
        await until(lambda: anna.pairing.window.wrong == 1)


async def test_tries_are_counted_over_all_connections_and_runs(tmp_path: Path) -> None:
    """Whoever begins a run and goes away, or waits, has had a try; nobody gets a fourth."""
    async with window(tmp_path) as (anna, command):
        code = parse_code(command.code)
        tries = limits.PAIRING_TRIES_MAX
        async with trio.open_nursery() as nursery:
            opened: list[Channel] = []

            async def hold() -> None:
                async with line(anna) as channel:
                    channel.send(asks(channel, code))
                    await channel.flush()
                    (share,) = await channel.receive()
                    assert isinstance(share, m.PairShare)
                    opened.append(channel)
                    await trio.sleep_forever()

            for _ in range(tries):
                nursery.start_soon(hold)
            await until(lambda: len(opened) == tries)
            async with line(anna) as channel:
                channel.send(asks(channel, code))
                await channel.flush()
                assert "others are trying" in await refusal(channel)
            assert anna.pairing.window.wrong == 0
            nursery.cancel_scope.cancel()
        await until(lambda: command.is_over)
        assert "3 wrong codes" in str(command.error)


async def test_without_a_window_a_stranger_costs_nothing(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna:
        async with line(anna) as channel:
            channel.send(asks(channel, make_code(os.urandom)))
            await channel.flush()
            assert "no pairing is open" in await refusal(channel)
        assert anna.replicator.refusals.count[Fault.PAIRING] == 1
    anna.close()


async def test_a_wrong_word_in_front_costs_no_try(tmp_path: Path) -> None:
    async with window(tmp_path) as (anna, command):
        elsewhere = make_code(os.urandom)
        assert elsewhere.nameplate != command.code[:4]
        with pytest.raises(UserError, match="under this code"):
            await pair(tmp_path, "ben", str(elsewhere), peers.address_of(anna))
        assert anna.pairing.window.wrong == 0


@pytest.mark.parametrize("seconds", [0, limits.PAIRING_S_MAX + 1])
async def test_how_long_a_code_is_good(tmp_path: Path, seconds: float) -> None:
    async with running(peers.founder(tmp_path)) as anna:
        with pytest.raises(UserError, match="up to 10 minutes"):
            await pairing.pair(anna, "writer", seconds, peers.Silent())
    anna.close()


async def test_who_was_given_a_ticket_must_come_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("piperfs.replication.pairing.PAIRING_JOIN_S", 0.1)
    async with window(tmp_path) as (anna, command):
        guest = peers.guest(tmp_path, "ben")
        await joining._exchange(guest, parse_code(command.code), peers.address_of(anna))
        await until(lambda: command.is_over)
        assert "did not join" in str(command.error)


async def test_a_pairing_is_found_by_the_word_that_is_no_secret(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        for word, port in (("bako", 1001), ("dife", 1002)):
            address = f"{LOOPBACK}:{port}"
            nursery.start_soon(beacon.announce, word, os.urandom(8), [address], [LOOPBACK])
        assert await beacon.find("dife", [LOOPBACK]) == [f"{LOOPBACK}:1002"]
        assert await beacon.find("mura", [LOOPBACK], within_s=0.5) == []
        nursery.cancel_scope.cancel()


async def test_without_a_network_nothing_is_found(tmp_path: Path) -> None:
    assert await beacon.find("bako", [], within_s=0.1) == []
