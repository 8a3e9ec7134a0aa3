"""How long a mount is served: until it is unmounted, or until whoever serves it is cancelled.

Unmounting needs answers to the kernel's last requests, so serving outlives the cancellation. It
does not outlive it for ever: another mount namespace, or a bind mount, may hold on to the file
system after its own mount point is gone, and the kernel tells nobody.

Where a failure ends the service, the mount is left without anybody to serve it: programs then get
an error until it is mounted again, instead of writing into the directory below it.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio

from piperfs.core.errors import UserError
from piperfs.fuse import mountpoint as points
from piperfs.obs.log import get_logger

UNMOUNT_TIMEOUT_S: Final = 60
HELD_ELSEWHERE_S: Final = 2  # for the kernel to say that the last mount is gone

log = get_logger("fuse")
Wait = Callable[[], Awaitable[None]]


async def serve_until_unmounted(
    serve: Wait, started: Wait, directory: Path, has_failed: Callable[[], bool]
) -> None:
    """Run `serve` till it returns; `started` is awaited first.

    Unmounts when cancelled, unless `has_failed` says that a failure is the reason.
    """
    scope = trio.CancelScope(shield=True)
    ended = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with scope:
                await serve()
            ended.set()
            nursery.cancel_scope.cancel()

        nursery.start_soon(run)
        try:
            await started()
            await trio.sleep_forever()
        finally:
            if ended.is_set() or not has_failed():
                with trio.move_on_after(UNMOUNT_TIMEOUT_S, shield=True):
                    await unmount(directory)
                with trio.move_on_after(HELD_ELSEWHERE_S, shield=True):
                    await ended.wait()
                if not ended.is_set():
                    log.warning("fuse.held", reason="another namespace or a bind mount holds it")
            scope.cancel()


async def unmount(directory: Path) -> None:
    """Unmount if it is still mounted, lazily if it is in use."""
    if points.given_descriptor(directory) is not None or points.find_mount(directory) is None:
        return
    try:
        await trio.to_thread.run_sync(partial(points.detach, directory, lazily=False))
    except UserError as error:
        log.warning("fuse.busy", reason=str(error))
        await trio.to_thread.run_sync(points.detach, directory)
