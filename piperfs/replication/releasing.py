"""Merging what was held back for its date, once the clock here has passed it.

It is verified anew, since its author may have lost the right to it meanwhile, and then goes the
way of an operation that has just come from a peer.
"""

from collections.abc import Callable
from typing import Final

import trio

from piperfs.core.errors import StoreError
from piperfs.core.operation import decode_envelope
from piperfs.obs.log import get_logger
from piperfs.replication.ports import Local
from piperfs.replication.verifying import unseal_of, verify_operations

RELEASE_EVERY_S: Final = 5
AT_ONCE: Final = 64

log = get_logger("replication")


async def run(local: Local, on_release: Callable[[], None]) -> None:
    """Release what is due, for ever, and tell when it was."""
    told = ""
    while True:
        try:
            while local.committer.failure is None and release(local):
                on_release()
                await trio.lowlevel.checkpoint()
        except StoreError as error:  # the store is failing, or damaged
            if str(error) != told:
                told = str(error)
                log.warning("operations.not_caught_up", error=told)
        await trio.sleep(RELEASE_EVERY_S)


def release(local: Local) -> int:
    """Release some of what is due; returns how many operations were."""
    store, now = local.store, local.clock.now_ns()
    store.require_writable()
    due = store.ahead.take_due(now, AT_ONCE) if len(store.ahead) else []
    if due:
        envelopes = [(raw, decode_envelope(raw)) for raw in due]
        verified = verify_operations(envelopes, store.volume, local.graph.state(), unseal_of(local))
        store.apply_remote(verified.operations, now)
        store.chunks.doubt()  # others may have superseded them since
        log.info("operations.caught_up", count=len(due), refused=len(verified.refusals))
    return len(due)
