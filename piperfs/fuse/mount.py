"""A mounted file system from attach to unmount, over either kernel binding."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import trio

from piperfs.fs.filesystem import Filesystem
from piperfs.fuse import mountpoint as points
from piperfs.fuse.invalidation import Invalidator
from piperfs.fuse.kernel.connection import Connection
from piperfs.fuse.kernel.notify import Notifier
from piperfs.fuse.lifetime import serve_until_unmounted
from piperfs.fuse.mountpoint import MountOptions
from piperfs.fuse.service import Service

Driver = Literal["kernel", "pyfuse3"]
DEFAULT_DRIVER: Final[Driver] = "kernel"
READY_TIMEOUT_S: Final = 30


@dataclass(frozen=True, slots=True)
class MountPoint:
    """Where and how to mount, and whether a failure is why the mount is served no longer."""

    directory: Path
    options: MountOptions
    driver: Driver
    has_failed: Callable[[], bool]


async def serve(
    filesystem: Filesystem,
    service: Service,
    where: MountPoint,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount, report readiness, and return when somebody unmounts. Unmounts when cancelled.

    Where `where.has_failed`, the mount is left to whoever mounts next.

    Raises:
        UserError: it cannot be mounted there.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        if where.driver == "pyfuse3":
            from piperfs.fuse.pyfuse3_adapter import serve_pyfuse3  # noqa: PLC0415 - optional

            await serve_pyfuse3(filesystem, service, where, task_status=task_status)
        else:
            await _serve_kernel(filesystem, service, where, task_status)
        nursery.cancel_scope.cancel()


async def _serve_kernel(
    filesystem: Filesystem,
    service: Service,
    where: MountPoint,
    task_status: trio.TaskStatus[None],
) -> None:
    descriptor = await trio.to_thread.run_sync(points.attach, where.directory, where.options)
    connection = Connection(descriptor, filesystem, service)
    invalidator = Invalidator(Notifier(descriptor), filesystem.known_ino)
    filesystem.on_invalidate = invalidator.report

    async def started() -> None:
        with trio.fail_after(READY_TIMEOUT_S):
            await connection.ready.wait()
        points.raise_readahead(where.directory, points.READAHEAD_KIB)
        task_status.started()

    try:
        await serve_until_unmounted(connection.run, started, where.directory, where.has_failed)
    finally:
        invalidator.stop()
        os.close(descriptor)
