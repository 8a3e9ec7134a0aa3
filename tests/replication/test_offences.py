"""What a member does wrong is named in status, also when it has gone, and after a restart."""

import json
import os
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from piperfs.cli.main import piperfs
from piperfs.core.ids import OperationId
from piperfs.core.limits import SEQ_AHEAD_MAX, SEQ_MAX
from piperfs.core.offences import Offence
from piperfs.core.operation import decode_envelope
from piperfs.daemon import report
from piperfs.daemon.node import Node
from piperfs.protocol import messages as m
from tests.replication.test_hostile_peers import STATE, member, written_by
from tests.support import forging, peers
from tests.support.peers import converged, pair, until, write_file

pytestmark = pytest.mark.net


def offences(node: Node) -> set[tuple[str, str]]:
    return {(each.name, each.what) for each in report.offences(node)}


@pytest.mark.parametrize(
    ("said", "offence"),
    [
        ((m.Ack(SEQ_MAX, 0),), Offence.RECEIPT),
        ((m.Welcome(),), Offence.PROTOCOL),
        ((m.Operations((b"garbage",), 0),), Offence.PROTOCOL),
        ((m.Reconcile(2 * (m.Range(b"a", b"b", 0, bytes(32)),)),), Offence.PROTOCOL),
    ],
    ids=lambda each: each.value if isinstance(each, Offence) else "",
)
async def test_what_a_member_does_is_named(
    tmp_path: Path, said: tuple[m.Message, ...], offence: Offence
) -> None:
    async with member(tmp_path) as (anna, _ben, channel):
        for message in (STATE, *said):
            channel.send(message)
        await channel.flush()
        await until(lambda: offences(anna) == {("ben", offence.text)})


async def test_status_names_it_after_it_has_gone_and_after_a_restart(tmp_path: Path) -> None:
    async with member(tmp_path) as (anna, ben, channel):
        good, _ = written_by(ben)
        forged = msgspec.structs.replace(decode_envelope(good), signature=bytes(64)).encode()
        channel.send(STATE)
        for number in range(3):
            channel.send(m.Operations((forged,), number + 1))
        await channel.flush()
        await until(lambda: [each.count for each in report.offences(anna)] == [3])
        channel.send(m.Welcome())  # and ends the connection
        await channel.flush()
        await until(lambda: not peers.connected(anna))
        await anna.committer.commit()
    again = peers.open_again(tmp_path, "anna")
    found = {each.what: each.count for each in report.offences(again)}
    assert found == {Offence.FORGED.text: 3, Offence.PROTOCOL.text: 1}
    numbers = {s.labels: s.value for s in report.samples(again) if s.name == "offences"}
    who = ("member", ben.store.replica.hex()[:12])
    assert numbers == {(who, ("kind", "forged")): 3, (who, ("kind", "protocol")): 1}
    again.close()
    text = CliRunner().invoke(piperfs, ["status", str(tmp_path / "anna")]).output
    assert f"ben {Offence.FORGED.text}: 3 times, last" in text
    facts = CliRunner().invoke(piperfs, ["status", str(tmp_path / "anna"), "--json"]).output
    assert {each["name"] for each in json.loads(facts)["offences"]} == {"ben"}


async def test_honest_members_are_never_named(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        for number in range(30):
            write_file(anna, b"a%d" % number, b"text")
            write_file(ben, b"b%d" % number, b"text")
        await converged(anna, ben)
        session = ben.replicator._sessions[anna.store.replica]
        session.channel.send(m.WantOperations((OperationId(bytes(32)),)))
        await converged(anna, ben)
        assert not offences(anna)
        assert not offences(ben)


async def test_a_removed_member_that_comes_back_is_named(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        anna.remove_member(anna.find_member("ben"))
        await until(lambda: not peers.connected(anna))
        assert ben.replicator is not None
        ben.replicator.add_address(peers.address_of(anna))
        await until(lambda: offences(anna) == {("ben", Offence.REMOVED.text)})


async def test_a_number_of_the_far_future_does_not_outlast_a_removal(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        write_file(ben, b"honest", b"text")
        await converged(anna, ben)
        huge = forging.file_called(ben, os.urandom(31), b"huge", ben.clock.now_ns())
        session = ben.replicator._sessions[anna.store.replica]
        session.channel.send(m.Operations((forging.signed(ben, huge, SEQ_MAX),), 0))
        await until(lambda: peers.names(anna) == {b"honest", b"huge"})
        assert offences(anna) == {("ben", Offence.NUMBER.text)}
        anna.remove_member(anna.find_member("ben"))
        assert peers.names(anna) == {b"honest"}


async def test_nobody_s_word_makes_a_member_look_like_a_liar(tmp_path: Path) -> None:
    """A peer names numbers of ours that we never used; others' clocks are years behind."""
    async with member(tmp_path) as (anna, _ben, channel):
        now = anna.clock.now_ns() // 1_000_000
        far, near = now + SEQ_AHEAD_MAX - 1000, now + SEQ_AHEAD_MAX // 3
        for seen in (far, near):
            channel.send(msgspec.structs.replace(STATE, seen_seq=seen))
        await channel.flush()
        await until(lambda: anna.store.last_seq == near)  # an old copy that was restored
        write_file(anna, b"file", b"text")
        await anna.committer.commit()
        years = 10 * 365 * 86_400_000
        assert anna.store.last_seq < now - years + SEQ_AHEAD_MAX
