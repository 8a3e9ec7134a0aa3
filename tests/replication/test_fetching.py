"""Absent content: readers first, another peer after a failure, an answer before the deadline."""

import os

import pytest
import trio
from blake3 import blake3
from trio.testing import MockClock

from piperfs.core.errors import ErrorKind, FsError, PeerError
from piperfs.core.ids import ChunkId
from piperfs.replication import fetching
from piperfs.replication.fetching import Fetcher
from tests.support.stores import Node


class Peer:
    """A peer whose answers the test gives by hand, or that answers at once."""

    def __init__(self, fetcher: Fetcher, chunks: dict[ChunkId, bytes] | None = None) -> None:
        self.fetcher, self.chunks = fetcher, chunks
        self.asked: list[tuple[ChunkId, bool]] = []
        fetcher.connect(self)

    def want(self, chunks: tuple[ChunkId, ...], *, urgent: bool) -> None:
        self.asked += [(chunk, urgent) for chunk in chunks]
        if self.chunks is not None:
            found = [(chunk, self.chunks[chunk]) for chunk in chunks if chunk in self.chunks]
            self.fetcher.receive(self, found, [c for c in chunks if c not in self.chunks])


def make_chunks(count: int) -> dict[ChunkId, bytes]:
    sealed = [os.urandom(100) for _ in range(count)]
    return {ChunkId(blake3(each).digest()): each for each in sealed}


@pytest.fixture
def fetcher() -> Fetcher:
    return Fetcher(Node("reader").store)


async def test_a_reader_gets_what_a_peer_has(fetcher: Fetcher) -> None:
    chunks = make_chunks(3)
    Peer(fetcher, chunks)
    await fetcher.fetch(chunks, trio.current_time() + 1)
    assert all(fetcher._store.chunks.get(each) == chunks[each] for each in chunks)


async def test_without_peers_a_read_fails_soon(fetcher: Fetcher, autojump_clock: MockClock) -> None:
    begun = trio.current_time()
    with pytest.raises(FsError) as caught:
        await fetcher.fetch(make_chunks(1), begun + 30)
    assert caught.value.kind is ErrorKind.UNREACHABLE
    assert trio.current_time() - begun <= fetching.GRACE_S


async def test_a_short_deadline_is_kept(fetcher: Fetcher, autojump_clock: MockClock) -> None:
    Peer(fetcher)
    begun = trio.current_time()
    with pytest.raises(FsError) as caught:
        await fetcher.fetch(make_chunks(1), begun + 0.5)
    assert caught.value.kind is ErrorKind.TIMED_OUT
    assert trio.current_time() - begun == pytest.approx(0.5)


async def test_a_peer_that_lacks_it_is_passed_over(fetcher: Fetcher) -> None:
    chunks = make_chunks(1)
    Peer(fetcher, {})
    Peer(fetcher, {})
    Peer(fetcher, chunks)
    await fetcher.fetch(chunks, trio.current_time() + 1)


async def test_a_silent_peer_is_passed_over(fetcher: Fetcher, autojump_clock: MockClock) -> None:
    chunks = make_chunks(1)
    silent = Peer(fetcher)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetcher.fetch, chunks, begun + 30)
        await trio.testing.wait_all_tasks_blocked()
        assert silent.asked
        Peer(fetcher, chunks)
    assert trio.current_time() - begun <= 2 * fetching.ANSWER_S


async def test_a_peer_that_leaves_is_replaced_at_once(
    fetcher: Fetcher, autojump_clock: MockClock
) -> None:
    chunks = make_chunks(2)
    leaving = Peer(fetcher)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetcher.fetch, chunks, begun + 30)
        await trio.testing.wait_all_tasks_blocked()
        Peer(fetcher, chunks)
        fetcher.disconnect(leaving)
    assert trio.current_time() == begun


async def test_a_peer_that_turns_up_is_asked(fetcher: Fetcher, autojump_clock: MockClock) -> None:
    chunks = make_chunks(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetcher.fetch, chunks, trio.current_time() + 30)
        await trio.testing.wait_all_tasks_blocked()
        Peer(fetcher, chunks)


async def test_readers_of_one_chunk_share_a_request(fetcher: Fetcher) -> None:
    chunks = make_chunks(1)
    peer = Peer(fetcher)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(fetcher.fetch, chunks, trio.current_time() + 5)
        await trio.testing.wait_all_tasks_blocked()
        assert len(peer.asked) == 1
        fetcher.receive(peer, chunks.items(), ())


async def test_wrong_bytes_are_refused(fetcher: Fetcher) -> None:
    peer = Peer(fetcher)
    with pytest.raises(PeerError):
        fetcher.receive(peer, [(ChunkId(bytes(32)), b"something else")], ())


async def test_chunks_nobody_wants_are_not_kept(fetcher: Fetcher) -> None:
    chunks = make_chunks(1)
    fetcher.receive(Peer(fetcher), chunks.items(), ())
    assert not any(fetcher._store.chunks.has(chunk) for chunk in chunks)


async def test_the_background_asks_for_a_window(fetcher: Fetcher) -> None:
    chunks = make_chunks(100)
    for chunk in chunks:
        fetcher._store.chunks.want(chunk, 0)
    peer = Peer(fetcher)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: fetcher.run(fetch_all=True))
        await trio.testing.wait_all_tasks_blocked()
        assert len(peer.asked) == fetching.WINDOW_CHUNKS
        for _ in range(10):
            answers = [(each, chunks[each]) for each, _ in peer.asked]
            peer.asked = []
            fetcher.receive(peer, answers, ())
            await trio.testing.wait_all_tasks_blocked()
        assert fetcher._store.chunks.want_count == 0
        nursery.cancel_scope.cancel()


async def test_the_background_uses_all_peers(fetcher: Fetcher) -> None:
    for chunk in make_chunks(100):
        fetcher._store.chunks.want(chunk, 0)
    first, second = Peer(fetcher), Peer(fetcher)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: fetcher.run(fetch_all=True))
        await trio.testing.wait_all_tasks_blocked()
        assert {chunk for chunk, _ in first.asked}.isdisjoint(chunk for chunk, _ in second.asked)
        assert len(first.asked) == len(second.asked) == fetching.WINDOW_CHUNKS
        nursery.cancel_scope.cancel()


async def test_a_reader_overtakes_the_background(fetcher: Fetcher) -> None:
    chunks = make_chunks(100)
    for chunk in chunks:
        fetcher._store.chunks.want(chunk, 0)
    peer = Peer(fetcher)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: fetcher.run(fetch_all=True))
        await trio.testing.wait_all_tasks_blocked()
        last = list(chunks)[-1]
        nursery.start_soon(fetcher.fetch, [last], trio.current_time() + 5)
        await trio.testing.wait_all_tasks_blocked()
        assert peer.asked[-1] == (last, True)
        fetcher.receive(peer, [(last, chunks[last])], ())
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_slow_line_is_not_asked_twice(fetcher: Fetcher, autojump_clock: MockClock) -> None:
    chunks = make_chunks(3)
    slow = Peer(fetcher)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetcher.fetch, chunks, trio.current_time() + 60)
        for answer in chunks.items():
            await trio.sleep(5 * fetching.ANSWER_S)
            fetcher.receive(slow, [answer], ())
    assert len(slow.asked) == len(chunks)


async def test_where_all_are_slow_a_reader_waits(
    fetcher: Fetcher, autojump_clock: MockClock
) -> None:
    chunks = make_chunks(1)
    first, second = Peer(fetcher), Peer(fetcher)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetcher.fetch, chunks, trio.current_time() + 60)
        await trio.sleep(10 * fetching.ANSWER_S)
        assert len(first.asked) == len(second.asked) == 1
        fetcher.receive(first, chunks.items(), ())


async def test_wants_that_nobody_has_hold_up_no_others(fetcher: Fetcher) -> None:
    hopeless, others = make_chunks(300), make_chunks(50)
    for chunk in (*hopeless, *others):
        fetcher._store.chunks.want(chunk, 0)
    Peer(fetcher, others)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: fetcher.run(fetch_all=True))
        await trio.testing.wait_all_tasks_blocked()
        assert fetcher._store.chunks.want_count == len(hopeless)
        nursery.cancel_scope.cancel()


async def test_hopeless_wants_are_asked_for_ever_less_often(
    fetcher: Fetcher, autojump_clock: MockClock
) -> None:
    (chunk,) = make_chunks(1)
    fetcher._store.chunks.want(chunk, 0)
    peer = Peer(fetcher, {})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: fetcher.run(fetch_all=True))
        await trio.sleep(600)
        assert 5 < len(peer.asked) < 20
        nursery.cancel_scope.cancel()


async def test_what_a_peer_got_meanwhile_is_asked_for_at_once(
    fetcher: Fetcher, autojump_clock: MockClock
) -> None:
    chunks = make_chunks(2)
    for chunk in chunks:
        fetcher._store.chunks.want(chunk, 0)
    peer = Peer(fetcher, {})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: fetcher.run(fetch_all=True))
        await trio.testing.wait_all_tasks_blocked()
        begun, peer.chunks = trio.current_time(), chunks
        fetcher.hope_again(peer, list(chunks)[:1])
        await trio.testing.wait_all_tasks_blocked()
        assert fetcher._store.chunks.want_count == 1
        assert trio.current_time() == begun
        nursery.cancel_scope.cancel()


async def test_a_silent_peer_gives_its_share_back(
    fetcher: Fetcher, autojump_clock: MockClock
) -> None:
    chunks = make_chunks(10)
    for chunk in chunks:
        fetcher._store.chunks.want(chunk, 0)
    Peer(fetcher)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: fetcher.run(fetch_all=True))
        await trio.testing.wait_all_tasks_blocked()
        Peer(fetcher, chunks)
        await trio.sleep(2 * fetching.STALL_S)
        assert fetcher._store.chunks.want_count == 0
        nursery.cancel_scope.cancel()


async def test_nothing_is_asked_for_while_the_disk_is_behind(fetcher: Fetcher) -> None:
    chunks = make_chunks(10)
    for chunk in chunks:
        fetcher._store.chunks.want(chunk, 0)
    fetcher._store.chunks.uncommitted_bytes = fetching.UNCOMMITTED_BYTES_MAX + 1
    peer = Peer(fetcher, chunks)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: fetcher.run(fetch_all=True))
        await trio.testing.wait_all_tasks_blocked()
        assert not peer.asked
        fetcher._store.chunks.uncommitted_bytes = 0
        fetcher.wake()
        await trio.testing.wait_all_tasks_blocked()
        assert fetcher._store.chunks.want_count == 0
        nursery.cancel_scope.cancel()
