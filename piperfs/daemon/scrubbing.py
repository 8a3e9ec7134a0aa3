"""Reads the whole store once in a while, slowly, so that damage is found while others have copies.

A damaged chunk is dropped and fetched again; a damaged value is counted, and `status` names the
command that mends it. The time of the last walk is kept in the store, so that restarts do not
begin anew.
"""

from typing import Final

import trio

from piperfs.core.errors import PiperError
from piperfs.core.ids import ChunkId
from piperfs.daemon.node import Node
from piperfs.obs.log import get_logger

EVERY_NS: Final = 14 * 86_400 * 1_000_000_000
LOOK_S: Final = 3600
ROWS_AT_ONCE: Final = 16
REST: Final = 19  # times as long as it worked: a twentieth of one core
DONE: Final = b"scrubbed"
END: Final = b"\xff" * 64

log = get_logger("store")


async def run(node: Node) -> None:
    """Walk whenever it is due, for ever."""
    while True:
        await trio.sleep(LOOK_S)
        last = int.from_bytes(node.store.tables.meta.get(DONE) or b"", "big")
        if abs(node.clock.now_ns() - last) >= EVERY_NS:
            await scrub(node)


async def scrub(node: Node) -> int:
    """Walk once; returns how many values are damaged, chunks aside."""
    before, damaged = node.store.chunks.damaged, 0
    for table in node.store.tables.all:
        for keys in table.durable_keys(b"", END, ROWS_AT_ONCE):
            begun = node.clock.monotonic()
            for key in keys:
                damaged += not _is_sound(node, table.name, key)
            await trio.sleep((node.clock.monotonic() - begun) * REST)
    node.damaged_values = damaged
    node.store.tables.meta.put(DONE, node.clock.now_ns().to_bytes(8, "big"))
    node.store.on_dirty()
    chunks = node.store.chunks.damaged - before
    event = log.warning if chunks or damaged else log.info
    event("store.scrubbed", damaged_chunks=chunks, damaged_values=damaged)
    return damaged


def _is_sound(node: Node, table: str, key: bytes) -> bool:
    if table == "chunk":
        node.store.chunks.get(ChunkId(key))  # which sees to damage by itself
        return True
    try:
        getattr(node.store.tables, table).get_durable(key)
    except PiperError:
        return False
    return True
