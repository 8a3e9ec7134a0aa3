"""A member that signs twice under one number, among replicas that run: real stores, real TLS."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from piperfs.cli.main import piperfs
from piperfs.core import operation as operations
from piperfs.core.ids import FILE, LinkId, make_inode_id
from piperfs.core.operation import Envelope, Write, signed_bytes
from piperfs.core.record import Birth, ContentBody, Kind, LinkBody, Stamp
from piperfs.daemon.node import Node
from piperfs.protocol import messages as m
from tests.support import peers
from tests.support.peers import names, running, until, write_file

pytestmark = pytest.mark.net
NUMBER = 7


def signed(node: Node, name: bytes, seq: int) -> bytes:
    """An empty file, signed under a number of one's choice."""
    now, keyring = node.clock.now_ns(), node.keyring
    inode = make_inode_id(FILE, name.ljust(15, b"."))
    birth = Birth(0o644, "root", "root", node.store.replica)
    stamp = Stamp(now, node.store.replica)
    link = LinkBody(True, node.store.root, name, inode, stamp)
    writes = (
        Write(Kind.LINK, LinkId(name.ljust(16, b".")), now, {}, (), link),
        Write(Kind.CONTENT, inode, now, {}, (), ContentBody(True, 0, now, birth)),
    )
    envelope = operations.encode(
        node.store.replica, seq, keyring.epoch, writes, keyring.seal_bodies
    )
    signature = node.identity.sign(signed_bytes(node.store.volume, envelope.id))
    return Envelope(envelope.header, envelope.sealed, signature).encode()


def say(liar: Node, listener: Node, *envelopes: bytes) -> None:
    assert liar.replicator is not None
    liar.replicator._sessions[listener.store.replica].channel.send(m.Operations(envelopes, 0))


def forked(node: Node) -> list[tuple[str, int | None]]:
    return [(member.label, node.store.forks.known.get(member.replica)) for member in node.members()]


def facts(base: Path, *command: str) -> object:
    result = CliRunner().invoke(piperfs, [command[0], str(base / "anna"), *command[1:], "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


async def test_proof_hold_and_removal(tmp_path: Path) -> None:
    """Anna hears one thing and Ben another; the proof stops the liar until Anna removes it."""
    anna = peers.founder(tmp_path)
    async with running(anna):
        ben = await peers.join(tmp_path, "ben", peers.make_ticket(anna))
        liar = await peers.join(tmp_path, "liar", peers.make_ticket(anna))
        async with (
            running(ben, peers.address_of(anna)),
            running(liar, peers.address_of(anna), peers.address_of(ben)),
        ):
            await until(lambda: peers.connected(liar) == peers.connected(anna) == 2)
            write_file(ben, b"honest", b"text")
            say(liar, anna, signed(liar, b"told to anna", NUMBER))
            say(liar, ben, signed(liar, b"told to ben", NUMBER))
            accused = [("anna", None), ("ben", None), ("liar", NUMBER)]
            await until(lambda: forked(anna) == forked(ben) == accused)
            both = {b"honest", b"told to anna", b"told to ben"}
            await until(lambda: names(anna) == names(ben) == both)
            say(liar, anna, signed(liar, b"later", NUMBER + 1))
            await until(lambda: anna.store.forks.held_count == 1)
            await peers.converged(anna, ben)
            assert names(anna) == names(ben) == both
            assert "1 later ones are held" in anna.health()["fork liar"]
            anna.remove_member(anna.find_member("liar"))
            await until(lambda: names(anna) == names(ben) == both | {b"later"})
            await peers.converged(anna, ben)
            assert "fork liar" not in anna.health()
    for node in (anna, ben, liar):
        node.close()


async def test_a_newcomer_learns_of_it_and_commands_tell(tmp_path: Path) -> None:
    async with peers.pair(tmp_path) as (anna, ben):
        for name in (b"one", b"two"):
            say(ben, anna, signed(ben, name, NUMBER))
        say(ben, anna, signed(ben, b"three", NUMBER + 1))
        await until(lambda: anna.store.forks.held_count == 1)
        carl = await peers.join(tmp_path, "carl", peers.make_ticket(anna))
        async with running(carl, peers.address_of(anna)):
            await peers.converged(anna, carl)
            await until(lambda: carl.store.forks.known == anna.store.forks.known)
            assert names(carl) == {b"one", b"two"}
        carl.close()
    [entry] = [each for each in as_list(facts(tmp_path, "members")) if each["name"] == "ben"]
    assert (entry["forked_at"], entry["held"]) == (NUMBER, 1)
    status = facts(tmp_path, "status")
    assert isinstance(status, dict)
    assert "signed two operations" in status["health"]["fork ben"]
    text = CliRunner().invoke(piperfs, ["members", str(tmp_path / "anna")]).output
    assert f"signed twice under {NUMBER}; 1 held" in text


def as_list(found: object) -> Iterator[dict[str, object]]:
    assert isinstance(found, list)
    yield from found


async def test_false_proofs_end_the_connection(tmp_path: Path) -> None:
    async with peers.pair(tmp_path) as (anna, ben):
        session = ben.replicator._sessions[anna.store.replica]
        one, other = signed(ben, b"one", NUMBER), signed(ben, b"two", NUMBER + 1)
        session.channel.send(m.Fork(one, other))
        await until(lambda: session.replica not in ben.replicator._sessions)
        assert not anna.store.forks.known
