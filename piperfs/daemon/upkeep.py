"""What a daemon does now and then: collect chunks, keep its memory small, offer metrics.

It also watches the ground it stands on: a store that was moved, removed or mounted read-only under
the daemon takes no more writes, since nobody would ever find them.
"""

import mmap
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from piperfs.core.errors import ExitCode, StoreError, UserError
from piperfs.core.limits import CHUNK_BYTES_AVERAGE
from piperfs.daemon import census, forks
from piperfs.daemon.node import Node
from piperfs.obs.log import get_logger
from piperfs.obs.metrics import Metrics
from piperfs.store.chunks import InUse
from piperfs.store.collector import RETENTION, Collector, Retention
from piperfs.store.engine import DATA_FILE
from piperfs.store.eviction import Eviction

TICK_S: Final = 10
WATCH_S: Final = 2
COLLECT_EVERY_S: Final = 6 * 3600
FORGET_EVERY_S: Final = 30
FORGET_SHARE: Final = 50  # and never more than a fiftieth of the time
CENSUS_FIRST_S: Final = 60
CENSUS_EVERY_S: Final = 24 * 3600
USED_MIN: Final = 256  # chunks that are remembered as lately used, at least
RENEW_CHANCE: Final = 64  # of 256, at each tick

log = get_logger("daemon")
T = TypeVar("T")


@dataclass(slots=True)
class Job:
    """Something that is done every so often."""

    every_s: float
    run: Callable[[Node], Awaitable[object]]
    next_s: float = 0


async def run(node: Node, cache_bytes: int | None) -> None:
    """Do what is due, for ever."""
    jobs = [Job(TICK_S, keep_up), Job(COLLECT_EVERY_S, collect, next_s=COLLECT_EVERY_S)]
    jobs.append(Job(CENSUS_EVERY_S, count, next_s=CENSUS_FIRST_S))
    if cache_bytes is not None:
        node.store.chunks.track_use(max(USED_MIN, cache_bytes // CHUNK_BYTES_AVERAGE // 2))
        eviction = Eviction(node.store, cache_bytes)
        jobs.append(Job(TICK_S, partial(make_room, eviction=eviction)))
    await node.clock.in_thread(node.space.hold)
    passed = 0
    while True:
        await trio.sleep(TICK_S)
        passed += TICK_S
        for job in jobs:
            if passed >= job.next_s:
                job.next_s = passed + job.every_s
                await attempt(node, job.run)


async def attempt(node: Node, work: Callable[[Node], Awaitable[T]]) -> T | None:
    """Do something in the background; what cannot be read ends only that, and `status` tells."""
    try:
        return await work(node)
    except StoreError as error:
        node.note_unreadable(error)
    except OSError as error:
        log.warning("upkeep.put_off", reason=str(error))  # no descriptor can be had, for example
    return None


async def keep_up(node: Node) -> None:
    """Keep room for deletions on a full disk."""
    await node.clock.in_thread(node.space.hold)


async def count(node: Node) -> None:
    """Look at everything once; what is amiss shows in `status` and in the metrics."""
    node.census = await node.clock.in_thread(partial(census.take, node))
    if node.census.mismatches:
        log.error("view.mismatches", count=node.census.mismatches)


def _in_use(node: Node) -> InUse:
    """Asks what open files need."""
    return node.filesystem.in_use if node.filesystem is not None else list


async def make_room(node: Node, *, eviction: Eviction) -> None:
    """Let go of content that others hold, where only some is to be kept."""
    now = trio.current_time()
    if not eviction.is_due(now) or node.replicator is None or node.store.chunks.is_collecting:
        return
    holders = node.replicator.holders
    if not holders():
        return
    for _ in eviction.steps(_in_use(node), lambda: bool(holders()), now):
        await trio.lowlevel.checkpoint()
    node.store.on_dirty()
    if node.filesystem is not None and eviction.evicted:
        node.filesystem.report_evicted(eviction.evicted)
    log.info("chunks.evicted", chunks=len(eviction.evicted), bytes=eviction.evicted_bytes)


async def watch(node: Node) -> None:
    """Stop writing as soon as the store is not where, or what, it was."""
    data = node.state.store / DATA_FILE
    facts = data.stat()
    while not node.store.is_failing:
        if (reason := _trouble(data, (facts.st_dev, facts.st_ino))) is not None:
            node.committer.fail(reason)
        await trio.sleep(WATCH_S)


def _trouble(data: Path, known: tuple[int, int]) -> str | None:
    """What is wrong with the place of the store's file, if anything."""
    try:
        facts = data.stat()
        read_only = os.statvfs(data).f_flag & os.ST_RDONLY
    except OSError as error:
        return f"{data} is gone ({error.strerror}): nothing that is written now would be found"
    if (facts.st_dev, facts.st_ino) != known:
        return f"{data} is another file now: nothing that is written now would be found"
    return f"{data} lies on a disk that was made read-only" if read_only else None


async def tend_members(node: Node) -> None:
    """Make a new key, for ever, where an outsider knows the current one or a member does not.

    Not at every chance, so that of several admins one is first and the others see it. Before that,
    take out what did not go when its author was removed, because of damage that is repaired now.
    """
    try:
        forks.withdraw(node)
    except StoreError as error:
        log.warning("operations.not_withdrawn", error=str(error))
    while True:
        await trio.sleep(TICK_S)
        if node.clock.entropy(1)[0] < RENEW_CHANCE:
            await attempt(node, _renew_keys)


async def _renew_keys(node: Node) -> None:
    if node.renew_keys():
        log.info("keys.renewed", epoch=node.keyring.epoch.hex()[:12])


async def collect(node: Node, retention: Retention = RETENTION) -> Collector | None:
    """Remove chunks that nothing needs any more, unless somebody who asked for it is at it.

    Returns what went and why the rest stays, or None if somebody else is at it.
    """
    if node.store.chunks.is_collecting:
        return None
    collector = Collector(node.store, retention)
    for _ in collector.steps(node.clock.now_ns(), _in_use(node)):
        node.store.on_dirty()
        await node.committer.make_way()
    if node.replicator is not None and not node.store.chunks.want_count:
        node.replicator.content_arrived()
    if collector.lost:
        log.warning("chunks.not_collected", damaged=len(collector.lost))
        if node.replicator is not None:
            node.replicator.fetcher.prefetch(collector.lost)  # also where only some is kept
    log.info("chunks.collected", chunks=collector.freed_chunks, bytes=collector.freed_bytes)
    return collector


async def forget_wants(node: Node) -> None:
    """Find out, for ever, when chunks are wanted that nobody has and no version needs any more.

    A save that another one soon followed is kept nowhere. Whoever heard of the first before the
    second wants its chunks, which its author has dropped by then.
    """
    while True:
        begun = trio.current_time()
        fetcher = node.replicator.fetcher if node.replicator is not None else None
        is_stuck = fetcher is not None and fetcher.keeps_all and fetcher.is_stuck
        if is_stuck and node.store.chunks.is_doubtful:
            await attempt(node, collect)
        took = trio.current_time() - begun
        await trio.sleep(max(FORGET_EVERY_S, FORGET_SHARE * took))


async def serve_metrics(
    metrics: Metrics, port: int, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer every HTTP request on a loopback port with the metrics."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            with trio.move_on_after(5):
                try:
                    await stream.receive_some(mmap.PAGESIZE)
                    body = metrics.text().encode()
                    head = (
                        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"
                        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                    )
                    await stream.send_all(head.encode() + body)
                except trio.BrokenResourceError:
                    return

    try:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    except OSError as error:
        raise UserError(
            f"port {port} for metrics is in use: {error.strerror}", ExitCode.REFUSED
        ) from error
    task_status.started()
    await trio.serve_listeners(answer, listeners)
