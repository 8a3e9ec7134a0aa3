"""A member counts as a copy only while it can show what it says it holds."""

import gc
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from piperfs.core.ids import ChunkId, ReplicaId
from piperfs.core.offences import Offence
from piperfs.daemon import report
from piperfs.daemon.node import Node
from piperfs.protocol import messages as m
from piperfs.replication import spotcheck
from piperfs.replication.session import Session
from piperfs.store.change import DeleteContent
from tests.support.peers import chunks_of, converged, pair, until, write_file

pytestmark = pytest.mark.net


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spotcheck, "LOOK_S", 0.02)
    monkeypatch.setattr(spotcheck, "AGAIN_S", 0.02)
    monkeypatch.setattr(spotcheck, "CHECK_EVERY_S", 0)


def holders(node: Node) -> list[str]:
    assert node.replicator is not None
    return [node.name_of(replica) for replica in node.replicator.holders()]


def waits_for(node: Node) -> str | None:
    assert node.replicator is not None
    return node.replicator.status()[0].waits_for


def offences(node: Node) -> set[tuple[str, str]]:
    return {(each.name, each.what) for each in report.offences(node)}


def lose(node: Node, *chunks: ChunkId) -> Callable[[], None]:
    """Remove chunks behind the back of the store; returns what puts them back."""
    kept = [(chunk, node.store.chunks.get(chunk)) for chunk in chunks]
    for chunk in chunks:
        node.store.chunks.drop(chunk)

    def put_back() -> None:
        for chunk, sealed in kept:
            assert sealed is not None
            node.store.chunks.put(chunk, sealed)

    return put_back


async def test_what_is_lost_is_noticed_and_what_comes_back_too(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        write_file(anna, b"file", os.urandom(1000), os.urandom(1000))
        await converged(anna, ben)
        await until(lambda: holders(anna) == ["ben"])
        put_back = lose(ben, *chunks_of(anna, b"file"))
        await until(lambda: not holders(anna))
        assert waits_for(anna) == f"it {Offence.UNSHOWN.text}"
        put_back()
        await until(lambda: holders(anna) == ["ben"])
        assert waits_for(anna) is None
        assert not offences(anna)
        assert holders(ben) == ["anna"]


async def test_who_never_shows_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spotcheck, "MEND_S", 0.1)
    async with pair(tmp_path) as (anna, ben):
        write_file(anna, b"file", os.urandom(1000))
        await converged(anna, ben)
        await until(lambda: holders(anna) == ["ben"])
        lose(ben, *chunks_of(anna, b"file"))
        await until(lambda: offences(anna) == {("ben", Offence.UNSHOWN.text)})
        assert not holders(anna)
        assert not offences(ben)


async def test_silence_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spotcheck, "ANSWER_S_MAX", 0.1)
    async with pair(tmp_path) as (anna, ben):
        session = ben.replicator._sessions[anna.store.replica]
        session._handlers[m.Want] = lambda _want: None
        write_file(anna, b"file", os.urandom(1000))
        await converged(anna, ben)
        await until(lambda: waits_for(anna) == f"it {Offence.UNSHOWN.text}")


async def test_doubts_outlive_a_connection(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        write_file(anna, b"file", os.urandom(1000))
        await converged(anna, ben)
        await until(lambda: holders(anna) == ["ben"])
        put_back = lose(ben, *chunks_of(anna, b"file"))
        await until(lambda: not holders(anna))
        session = anna.replicator._sessions[ben.store.replica]
        session.close()
        again = anna.replicator._sessions
        await until(lambda: again.get(ben.store.replica) not in (None, session))
        await until(lambda: again[ben.store.replica].standing.complete)
        assert not holders(anna)
        put_back()
        await until(lambda: holders(anna) == ["ben"])


async def test_what_no_version_needs_any_more_is_not_asked_for(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        inode = write_file(anna, b"file", os.urandom(1000))
        await converged(anna, ben)
        await until(lambda: holders(anna) == ["ben"])
        lose(ben, *chunks_of(anna, b"file"))
        await until(lambda: not holders(anna))
        anna.store.apply_local([DeleteContent(inode)], anna.clock.now_ns())
        await converged(anna, ben)
        await until(lambda: holders(anna) == ["ben"])


async def reconnect(node: Node, peer: Node) -> None:
    sessions = node.replicator._sessions
    before = sessions[peer.store.replica]
    before.close()
    await until(lambda: sessions.get(peer.store.replica) not in (None, before))
    await until(lambda: sessions[peer.store.replica].standing.complete)


def asked(questions: dict[ReplicaId, spotcheck.Question]) -> int:
    return max((question.connections for question in questions.values()), default=0)


async def test_new_connections_are_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "_note_want", lambda *_: None)
    monkeypatch.setattr(spotcheck, "MEND_S", 0.1)
    monkeypatch.setattr(spotcheck, "CONNECTIONS_MAX", 2)
    async with pair(tmp_path) as (anna, ben):
        write_file(anna, b"file", os.urandom(1000))
        await converged(anna, ben)
        await until(lambda: holders(anna) == ["ben"])
        checks = anna.replicator._checks._questions
        for count in (1, 2):
            await until(lambda count=count: asked(checks) == count)
            assert holders(anna) == ["ben"]
            await reconnect(anna, ben)
        monkeypatch.setattr(spotcheck, "ANSWER_S_MAX", 2)
        await until(lambda: not holders(anna))
        await reconnect(anna, ben)
        assert not holders(anna)
        assert not offences(anna)  # the line may be to blame


async def test_nothing_keeps_a_connection_that_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(tmp_path) as (anna, ben):
        ben.replicator._sessions[anna.store.replica]._handlers[m.Want] = lambda _want: None
        write_file(anna, b"file", os.urandom(1000))
        await converged(anna, ben)
        checks = anna.replicator._checks._questions
        await until(lambda: checks.get(ben.store.replica))
        monkeypatch.setattr(spotcheck, "LOOK_S", 3600)
        await trio.sleep(0.1)
        session = weakref.ref(anna.replicator._sessions[ben.store.replica])
        session().close()
        await until(lambda: anna.replicator._sessions.get(ben.store.replica) is not session())

        def is_gone() -> bool:
            gc.collect()
            return session() is None

        await until(is_gone)


async def test_who_asks_for_it_has_not_got_it(tmp_path: Path) -> None:
    """A member without content passes each question on to whoever asked it."""
    async with pair(tmp_path) as (anna, ben):
        write_file(anna, b"file", *(os.urandom(1000) for _ in range(20)))
        await converged(anna, ben)
        await until(lambda: holders(anna) == ["ben"])
        lose(ben, *chunks_of(anna, b"file"))
        session = ben.replicator._sessions[anna.store.replica]
        serve = session._handlers[m.Want]

        def relay(want: m.Want) -> None:
            session.channel.send(m.Want(want.chunks, urgent=True))

        def receive(answer: m.Chunks) -> None:
            session.channel.send(m.Chunks(answer.chunks))

        session._handlers |= {m.Want: relay, m.Chunks: receive}
        await until(lambda: not holders(anna))
        for _ in range(50):
            await trio.sleep(0.01)
            assert not holders(anna)
        session._handlers[m.Want] = serve
        for chunk in chunks_of(anna, b"file"):
            ben.store.chunks.put(chunk, anna.store.chunks.get(chunk))
        await until(lambda: holders(anna) == ["ben"])


async def test_only_what_is_durable_is_asked_for(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        write_file(anna, b"file", os.urandom(1000))
        await converged(anna, ben)
        known = set(chunks_of(anna, b"file"))
        write_file(anna, b"new", os.urandom(1000))
        draws = [anna.replicator._checks._draw(ben.store.replica) for _ in range(50)]
        assert {draw.chunk for draw in draws} == known


async def test_damage_here_ends_no_checks(tmp_path: Path) -> None:
    async with pair(tmp_path) as (anna, ben):
        inode = write_file(anna, b"file", os.urandom(1000))
        await converged(anna, ben)
        engine, table = anna.store.engine, anna.store.tables.content
        sound = engine.get("content", inode)
        engine.commit({"content": {inode: bytes(len(sound))}})
        engine.refresh()
        table.forget_reads()
        await trio.sleep(0.2)
        engine.commit({"content": {inode: sound}})
        engine.refresh()
        put_back = lose(ben, *chunks_of(anna, b"file"))
        await until(lambda: not holders(anna))
        put_back()
        await until(lambda: holders(anna) == ["ben"])
