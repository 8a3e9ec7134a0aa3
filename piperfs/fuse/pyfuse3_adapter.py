"""The portable adapter: pyfuse3, which needs libfuse and runs wherever that runs.

pyfuse3 3.5 passes no fallocate, lseek, copy_file_range or O_TMPFILE on; for those the kernel's
own fallback is right, only slower. It holds one session in each process.
"""

import os
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import pyfuse3
import trio

from piperfs.core.errors import ErrorKind, FsError, UserError
from piperfs.fs.api import Attr, Caller, DirectoryEntry, Opened, SetAttr
from piperfs.fs.filesystem import Filesystem
from piperfs.fs.missing import MissingChunks
from piperfs.fuse.invalidation import Invalidator
from piperfs.fuse.kernel.encoding import CACHE_VALID_S, attributes_valid_s
from piperfs.fuse.lifetime import serve_until_unmounted
from piperfs.fuse.mount import MountPoint
from piperfs.fuse.mountpoint import check_mountpoint
from piperfs.fuse.service import Service
from piperfs.fuse.translate import is_foreseen, to_errno
from piperfs.obs.log import get_logger

ENTRIES_AT_ONCE: Final = 128

log = get_logger("fuse")
R = TypeVar("R")
Handler = Callable[..., Coroutine[Any, Any, R]]


def guarded(handler: Handler[R]) -> Handler[R]:
    """Fetch what is missing and turn every error into an errno; none of them ends the mount."""

    @wraps(handler)
    async def run(self: "Adapter", *arguments: Any) -> R:
        try:
            try:
                return await _fetching(handler, self, arguments)
            except FsError as error:
                if error.kind is not ErrorKind.NO_SPACE:
                    raise
                refused = error
            if await self.service.find_room():
                return await _fetching(handler, self, arguments)
            raise refused
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            if not is_foreseen(error):
                log.exception("fuse.failed", operation=handler.__name__)
            raise pyfuse3.FUSEError(to_errno(error)) from error

    return run


async def _fetching(handler: Handler[R], adapter: "Adapter", arguments: tuple[Any, ...]) -> R:
    """Run a handler until no chunk is missing, as `Service.with_chunks` does a plain call."""
    deadline: float | None = None
    while True:
        try:
            return await handler(adapter, *arguments)
        except MissingChunks as missing:
            deadline = deadline or adapter.service.deadline()
            await adapter.service.fetch(missing, deadline)


def changing(handler: Handler[R]) -> Handler[R]:
    """Like `guarded`; it returns late while too much waits for a disk that is nearly full."""
    run = guarded(handler)

    @wraps(handler)
    async def paced(self: "Adapter", *arguments: Any) -> R:
        result = await run(self, *arguments)
        if self.service.is_crowded:
            await self.service.make_way()
        return result

    return paced


def _entry(attr: Attr) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino, entry.st_mode, entry.st_nlink = attr.ino, attr.mode, attr.nlink
    entry.st_uid, entry.st_gid, entry.st_rdev = attr.uid, attr.gid, attr.rdev
    entry.st_size, entry.st_blksize, entry.st_blocks = attr.size, attr.blksize, attr.blocks
    entry.st_atime_ns, entry.st_mtime_ns = attr.atime_ns, attr.mtime_ns
    entry.st_ctime_ns, entry.generation = attr.ctime_ns, attr.generation
    entry.attr_timeout = attributes_valid_s(attr)
    entry.entry_timeout = CACHE_VALID_S if attr.entry_valid else 0
    return entry


def _listed(entry: DirectoryEntry) -> pyfuse3.EntryAttributes:
    """Attributes of an entry; of `.` and `..` the kernel wants number and type only."""
    if entry.attr is not None:
        return _entry(entry.attr)
    bare = pyfuse3.EntryAttributes()
    bare.st_ino, bare.st_mode = entry.ino, entry.mode
    return bare


def _caller(context: pyfuse3.RequestContext) -> Caller:
    return Caller(context.uid, context.gid, context.pid, context.umask)


def _opened(opened: Opened) -> pyfuse3.FileInfo:
    return pyfuse3.FileInfo(fh=opened.fh, keep_cache=opened.keep_cache)


class Adapter(pyfuse3.Operations):
    """One method for each request; each calls the file system once."""

    enable_acl = True
    enable_writeback_cache = False
    supports_dot_lookup = False

    def __init__(self, filesystem: Filesystem, service: Service) -> None:
        super().__init__()
        self._fs = filesystem
        self.service = service
        self._inos: dict[int, int] = {}  # by file handle: requests here name only that

    # Names

    @guarded
    async def lookup(self, parent: int, name: bytes, _ctx: Any) -> pyfuse3.EntryAttributes:
        return _entry(self._fs.lookup(parent, name))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for ino, count in inode_list:
            self._fs.forget(ino, count)

    @guarded
    async def getattr(self, ino: int, _ctx: Any) -> pyfuse3.EntryAttributes:
        return _entry(self._fs.getattr(ino))

    @changing
    async def setattr(
        self, ino: int, attr: Any, fields: Any, fh: int | None, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        change = SetAttr(
            mode=attr.st_mode & 0o7777 if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            kill_suidgid=fields.update_size and ctx.uid != 0,
        )
        return _entry(self._fs.setattr(ino, change, fh, _caller(ctx)))

    @guarded
    async def readlink(self, ino: int, _ctx: Any) -> bytes:
        return self._fs.readlink(ino)

    @changing
    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        return _entry(self._fs.mknod(parent, name, mode, rdev, _caller(ctx)))

    @changing
    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return _entry(self._fs.mkdir(parent, name, mode, _caller(ctx)))

    @changing
    async def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        return _entry(self._fs.symlink(parent, name, target, _caller(ctx)))

    @changing
    async def link(self, ino: int, parent: int, name: bytes, _ctx: Any) -> pyfuse3.EntryAttributes:
        return _entry(self._fs.link(ino, parent, name))

    @changing
    async def unlink(self, parent: int, name: bytes, _ctx: Any) -> None:
        self._fs.unlink(parent, name)

    @changing
    async def rmdir(self, parent: int, name: bytes, _ctx: Any) -> None:
        self._fs.rmdir(parent, name)

    @changing
    async def rename(
        self, parent: int, name: bytes, new_parent: int, new: bytes, flags: int, _ctx: Any
    ) -> None:
        unsaved = self._fs.unsaved_source(parent, name)
        if unsaved is not None and not self.service.flush_at_once(unsaved):
            await self.service.flush(unsaved)
        self._fs.rename(parent, name, new_parent, new, flags)

    # Files

    @guarded
    async def open(self, ino: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        if flags & os.O_TRUNC and ctx.uid != 0:  # libfuse leaves set-id bits to us, always
            self._fs.kill_suidgid(ino, _caller(ctx))
        opened = self._fs.open(ino, flags)
        self._inos[opened.fh] = ino
        return _opened(opened)

    @changing
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        attr, opened = self._fs.create(parent, name, mode, flags, _caller(ctx))
        self._inos[opened.fh] = attr.ino
        return _opened(opened), _entry(attr)

    @guarded
    async def read(self, fh: int, offset: int, size: int) -> Any:
        return await self.service.read(fh, offset, size)

    @guarded
    async def write(self, fh: int, offset: int, data: bytes) -> int:
        written = self._fs.write(fh, offset, data)
        ino = self._inos[fh]
        if self.service.needs_relief(ino):
            await self.service.relieve(ino)
        return written

    @guarded
    async def flush(self, fh: int) -> None:
        ino = self._inos[fh]
        if not self.service.flush_at_once(ino):
            await self.service.flush(ino)
        self.service.report_failure(fh)

    @guarded
    async def release(self, fh: int) -> None:
        await self.service.release(self._inos.pop(fh), fh)

    @guarded
    async def fsync(self, fh: int, _data_only: bool) -> None:  # noqa: FBT001 - its interface
        await self.service.fsync(self._inos[fh])

    # Directories

    @guarded
    async def opendir(self, ino: int, _ctx: Any) -> int:
        fh = self._fs.opendir(ino)
        self._inos[fh] = ino
        return fh

    @guarded
    async def readdir(self, fh: int, start: int, token: Any) -> None:
        entries = self._fs.readdir(fh, start, plus=True, count=ENTRIES_AT_ONCE)
        for position, entry in enumerate(entries):
            if not pyfuse3.readdir_reply(token, entry.name, _listed(entry), entry.cookie):
                for left in entries[position:]:
                    if left.attr is not None:
                        self._fs.forget(left.ino, 1)
                return

    @guarded
    async def releasedir(self, fh: int) -> None:
        self._inos.pop(fh, None)
        self._fs.releasedir(fh)

    @guarded
    async def fsyncdir(self, _fh: int, _data_only: bool) -> None:  # noqa: FBT001 - its interface
        await self.service.sync()

    # The rest

    @guarded
    async def statfs(self, _ctx: Any) -> pyfuse3.StatvfsData:
        facts, reply = self._fs.statfs(), pyfuse3.StatvfsData()
        reply.f_bsize = reply.f_frsize = facts.block_bytes
        reply.f_blocks, reply.f_bfree = facts.blocks, facts.blocks_free
        reply.f_bavail = facts.blocks_available
        reply.f_files, reply.f_ffree, reply.f_favail = (
            facts.files, facts.files_free, facts.files_free,
        )  # fmt: skip
        reply.f_namemax = facts.name_bytes_max
        return reply

    @guarded
    async def getxattr(self, ino: int, name: bytes, _ctx: Any) -> bytes:
        return self._fs.getxattr(ino, name)

    @changing
    async def setxattr(self, ino: int, name: bytes, value: bytes, ctx: Any) -> None:
        self._fs.setxattr(ino, name, value, 0, _caller(ctx))

    @guarded
    async def listxattr(self, ino: int, ctx: Any) -> list[bytes]:
        return self._fs.listxattr(ino, _caller(ctx))

    @changing
    async def removexattr(self, ino: int, name: bytes, _ctx: Any) -> None:
        self._fs.removexattr(ino, name)


class Notifications:
    """pyfuse3's notifications, as the invalidator calls them."""

    def forget_attributes(self, ino: int) -> None:
        pyfuse3.invalidate_inode(ino, attr_only=True)

    def forget_data(self, ino: int) -> None:
        pyfuse3.invalidate_inode(ino)

    def forget_name(self, parent: int, name: bytes) -> None:
        pyfuse3.invalidate_entry(parent, name)


def _options(where: MountPoint) -> set[str]:
    words = {f"fsname={where.options.source}", "subtype=piperfs", "default_permissions"}
    given = where.options.kernel_words
    words |= {*given, *(word for word in ("suid", "dev") if f"no{word}" not in given)}
    return words | ({"allow_other"} if where.options.allow_other else set())


async def serve_pyfuse3(
    filesystem: Filesystem,
    service: Service,
    where: MountPoint,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Mount, serve and unmount through libfuse. Raises UserError."""
    await trio.to_thread.run_sync(check_mountpoint, where.directory)
    pyfuse3.init(Adapter(filesystem, service), os.fspath(where.directory), _options(where))
    invalidator = Invalidator(Notifications(), filesystem.known_ino)
    filesystem.on_invalidate = invalidator.report

    async def started() -> None:
        await _wait_until_usable(where.directory)
        task_status.started()

    try:
        await serve_until_unmounted(pyfuse3.main, started, where.directory, where.has_failed)
    finally:
        invalidator.stop()
        pyfuse3.close(unmount=False)


async def _wait_until_usable(directory: Path) -> None:
    """Libfuse settles the terms with the kernel at the first request, and gives up if it cannot."""
    try:
        await trio.to_thread.run_sync(os.statvfs, directory)
    except OSError as error:
        reason = f"libfuse could not serve '{directory}': {error.strerror}"
        raise UserError(f"{reason}; mount with '-o driver=kernel'") from None
