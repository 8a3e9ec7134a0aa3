"""Nobody counts as a copy who refused, holds back or lost something, on whatever connection."""

import os
from pathlib import Path

import pytest
import trio

from piperfs.core.errors import NoKeyError
from piperfs.daemon import repairing
from piperfs.daemon.clock import SYSTEM_CLOCK
from piperfs.daemon.node import Node, open_node
from piperfs.replication import verifying
from piperfs.replication.serving import Serving
from piperfs.replication.session import Session
from piperfs.store.oplog import lseq_key
from tests.support import peers
from tests.support.peers import converged, holders, names, pair, running, until, write_file

pytestmark = pytest.mark.net
TELL_S = 6  # in this time each end has told the other where it stands


def session_of(node: Node) -> Session:
    (session,) = node.replicator._sessions.values()
    return session


async def reconnect(node: Node) -> None:
    before = session_of(node)
    before.close()
    sessions = node.replicator._sessions
    await until(lambda: sessions and before not in sessions.values())
    await until(lambda: session_of(node).standing.durable)


async def test_what_was_refused_is_not_forgotten_with_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sealed(*_arguments: bytes) -> bytes:
        raise NoKeyError("its key is not here")

    async with pair(tmp_path) as (anna, ben):
        write_file(anna, b"first", b"text")
        await converged(anna, ben)
        await until(lambda: holders(anna))
        with monkeypatch.context() as patch:
            real = verifying.unseal_of
            patch.setattr(verifying, "unseal_of", lambda at: sealed if at is ben else real(at))
            write_file(anna, b"second", b"text")
            await anna.committer.commit()
            await until(lambda: session_of(ben).standing.refused)
            await until(lambda: session_of(anna).standing.acked == anna.store.log.durable_lseq)
            await reconnect(ben)
            with trio.move_on_after(TELL_S):
                await until(lambda: holders(anna))
            assert not holders(anna)
            assert names(ben) == {b"first"}
        await converged(anna, ben)
        await until(lambda: holders(anna))


async def test_an_ordinary_reconnect_needs_no_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (anna, ben):
        write_file(anna, b"first", b"text")
        await converged(anna, ben)
        await until(lambda: holders(anna))
        monkeypatch.setattr(Session, "_maybe_repair", lambda *_: None)
        await reconnect(ben)
        await until(lambda: holders(anna), within_s=2)
        write_file(anna, b"second", b"text")
        await anna.committer.commit()
        await until(lambda: holders(anna), within_s=2)


async def test_what_a_repair_lost_is_not_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (anna, ben):
        for name in (b"one", b"two"):
            write_file(anna, name, os.urandom(200_000))
            await converged(anna, ben)
        chunks = peers.chunks_of(ben, b"two")
        await until(lambda: holders(anna))
    ben = peers.open_again(tmp_path, "ben")
    found = ben.store.lookup(ben.store.root, b"two")
    assert found is not None
    row = ben.store.tables.operation.get(ben.store.contents(found.inode)[0].operation)
    assert row is not None
    key = lseq_key(row.lseq)
    raw = bytearray(ben.store.engine.get("envelope", key) or b"")
    raw[len(raw) // 2] ^= 1
    spots = {"envelope": {key: bytes(raw)}, "chunk": {chunks[0]: b"rotten"}}
    ben.store.engine.commit(spots)
    ben.close()
    ben = open_node(tmp_path / "ben", SYSTEM_CLOCK, salvage=True)
    assert repairing.repair(ben)
    ben.close()
    anna, ben = peers.open_again(tmp_path, "anna"), peers.open_again(tmp_path, "ben")
    assert names(ben) == {b"one"}
    monkeypatch.setattr(Serving, "note", lambda *_: None)  # a line that is slow
    async with running(anna), running(ben, peers.address_of(anna)):
        await until(lambda: ben.store.chunks.want_count)
        with trio.move_on_after(TELL_S):
            await until(lambda: holders(anna))
        assert not holders(anna)
        assert names(ben) == {b"one", b"two"}
        monkeypatch.undo()
        await reconnect(ben)
        await converged(anna, ben)
        await until(lambda: holders(anna))
    anna.close()
    ben.close()
