"""What a daemon does now and then: collect chunks, keep its memory small, offer metrics.

It also watches the ground it stands on: a store that was moved, removed or mounted read-only under
the daemon takes no more writes, since nobody would ever find them.
"""

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import trio

from piperfs.core.errors import ExitCode, UserError
from piperfs.core.ids import ChunkId
from piperfs.core.limits import MIB
from piperfs.daemon.node import Node
from piperfs.obs.log import get_logger
from piperfs.obs.metrics import Metrics
from piperfs.store.collector import Collector
from piperfs.store.engine import DATA_FILE

Chunks = Iterable[ChunkId]
TICK_S: Final = 10
WATCH_S: Final = 2
COLLECT_EVERY_S: Final = 6 * 3600
MAPPED_BYTES_MAX: Final = 128 * MIB
MADV_DONTNEED: Final = 4
RENEW_CHANCE: Final = 64  # of 256, at each tick

log = get_logger("daemon")


async def run(node: Node, cache_bytes: int | None) -> None:
    """Do what is due, for ever."""
    del cache_bytes
    since = 0
    await trio.to_thread.run_sync(node.space.hold)
    while True:
        await trio.sleep(TICK_S)
        since += TICK_S
        await trio.to_thread.run_sync(node.space.hold)
        release_mapped_pages(node.state.store)
        _renew_keys(node)
        if since >= COLLECT_EVERY_S:
            since = 0
            await collect(node)


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


def _renew_keys(node: Node) -> None:
    """Not at every chance, so that of several admins one is first and the others see it."""
    if node.clock.entropy(1)[0] < RENEW_CHANCE and node.renew_keys():
        log.info("keys.renewed", epoch=node.keyring.epoch.hex()[:12])


async def collect(node: Node) -> None:
    """Remove chunks that nothing needs any more."""
    collector = Collector(node.store.tables, node.store.chunks)
    in_use = node.filesystem.in_use() if node.filesystem is not None else []
    for _ in collector.steps(node.clock.now_ns(), in_use):
        await trio.lowlevel.checkpoint()
    node.store.on_dirty()
    log.info("chunks.collected", chunks=collector.freed_chunks, bytes=collector.freed_bytes)


def release_mapped_pages(store: Path) -> None:
    """Take the store's mapped pages out of this process when they are many.

    They stay in the page cache, which the kernel shrinks as it likes; counted as ours they would
    make the process look, and be treated by memory limits, as large as its store.
    """
    for start, end, resident in _mappings(str(store / "data.mdb")):
        if resident > MAPPED_BYTES_MAX:
            libc = ctypes.CDLL(None, use_errno=True)
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED)


def _mappings(path: str) -> list[tuple[int, int, int]]:
    """Start, end and resident bytes of the mappings of one file."""
    found = []
    current: tuple[int, int] | None = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and not first.endswith(":"):
            low, _, high = first.partition("-")
            current = (int(low, 16), int(high, 16)) if rest.endswith(path) else None
        elif current is not None and first == "Rss:":
            found.append((*current, int(rest.split()[0]) * 1024))
    return found


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
