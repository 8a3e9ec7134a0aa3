"""A member counts as a copy only while it can show what it says it holds."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from piperfs.core.ids import ChunkId
from piperfs.core.offences import Offence
from piperfs.daemon import report
from piperfs.daemon.node import Node
from piperfs.protocol import messages as m
from piperfs.replication import spotcheck
from piperfs.store.change import DeleteContent
from tests.support.peers import chunks_of, converged, pair, until, write_file

pytestmark = pytest.mark.net


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spotcheck, "LOOK_S", 0.02)
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
