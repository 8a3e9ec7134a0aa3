"""What a daemon does now and then: collect chunks, keep its memory small, offer metrics."""

import ctypes
import mmap
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

Chunks = Iterable[ChunkId]
TICK_S: Final = 10
COLLECT_EVERY_S: Final = 6 * 3600
MAPPED_BYTES_MAX: Final = 128 * MIB
MADV_DONTNEED: Final = 4

log = get_logger("daemon")


async def run(node: Node, cache_bytes: int | None) -> None:
    """Do what is due, for ever."""
    del cache_bytes
    since = 0
    while True:
        await trio.sleep(TICK_S)
        since += TICK_S
        release_mapped_pages(node.state.store)
        if since >= COLLECT_EVERY_S:
            since = 0
            await collect(node)


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
