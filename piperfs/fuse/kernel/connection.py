"""The conversation with the kernel over one descriptor, inside trio.

The descriptor is drained before waiting again, so a burst of requests costs one wake-up; what can
be answered from local state is answered at once, on the spot. What has to wait runs as a task. A
program that waits for absent content or for room dies when it is told to; one that waits for its
own work to reach the disk gets there soon, and is never interrupted.
"""

import errno
import os
import struct
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import trio

from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.limits import KIB, MIB
from piperfs.fs.filesystem import Filesystem
from piperfs.fs.missing import MissingChunks
from piperfs.fuse.kernel import encoding, layout
from piperfs.fuse.kernel.encoding import Buffer
from piperfs.fuse.kernel.interrupts import LOOK_S, is_told_to_end
from piperfs.fuse.kernel.layout import InitFlag, Opcode
from piperfs.fuse.kernel.operations import EMPTY, Handler, KernelError, Later, Operations, Reply
from piperfs.fuse.kernel.request import Request
from piperfs.fuse.service import Service
from piperfs.fuse.translate import is_foreseen, to_errno
from piperfs.obs.log import get_logger

WRITE_BYTES_MAX: Final = 1 * MIB
PAGE_BYTES: Final = 4 * KIB
BUFFER_BYTES: Final = WRITE_BYTES_MAX + 64 * KIB
DRAIN_MAX: Final = 64  # requests between two looks at everything else
WAITING_MAX: Final = 64
FEATURES: Final = (
    InitFlag.ASYNC_READ
    | InitFlag.ATOMIC_O_TRUNC
    | InitFlag.BIG_WRITES
    | InitFlag.DONT_MASK
    | InitFlag.DO_READDIRPLUS
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.POSIX_ACL
    | InitFlag.MAX_PAGES
    | InitFlag.CACHE_SYMLINKS
    | InitFlag.HANDLE_KILLPRIV_V2
    | InitFlag.SETXATTR_EXT
)

UNANSWERED: Final = frozenset((Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT))

log = get_logger("fuse")


class _Wait(NamedTuple):
    """A request that waits for absent chunks or for room on the disk, perhaps for long."""

    thread: int
    scope: trio.CancelScope


class Connection:
    """Serves one mount until the kernel closes it."""

    def __init__(self, descriptor: int, filesystem: Filesystem, service: Service) -> None:
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)
        self._operations = Operations(filesystem, service)
        self._table: dict[int, Handler] = {
            **self._operations.table,
            Opcode.INIT: self._negotiate,
            Opcode.INTERRUPT: self._interrupt,
        }
        self._service = service
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._waiting: dict[int, _Wait] = {}  # by request
        self._nursery: trio.Nursery | None = None
        self.requests = 0
        self.ready = trio.Event()

    async def run(self) -> None:
        """Answer requests until the file system is unmounted."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            while await self._drain():
                pass
            nursery.cancel_scope.cancel()

    async def _drain(self) -> bool:
        """Wait for requests and answer what is there; False at the end."""
        await trio.lowlevel.wait_readable(self._descriptor)
        for _ in range(DRAIN_MAX):
            try:
                size = os.readv(self._descriptor, [self._buffer])
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return False
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                raise
            if size < layout.IN_HEADER.size:
                return size > 0  # the kernel never sends less; nothing at all is the end
            self.requests += 1
            self._answer(Request(self._buffer[:size]), size)
        return True

    def _answer(self, request: Request, size: int) -> None:
        handler = self._table.get(request.opcode)
        if handler is None:
            self._refuse(request.unique, errno.ENOSYS)
            return
        try:
            if request.length != size:
                raise KernelError(errno.EINVAL)
            reply = handler(request)
        except MissingChunks:
            self._start_fetching(request.detached(), handler)
        except Exception as error:  # noqa: BLE001 - becomes the answer
            if isinstance(error, FsError) and error.kind is ErrorKind.NO_SPACE:
                self._start_finding_room(request.detached(), handler, error)
            else:
                self._fail(request.unique, request.opcode, error)
        else:
            if callable(reply):
                self._start(request.unique, request.opcode, reply)
            elif reply is not None:
                self._send(request.unique, reply)

    def _interrupt(self, request: Request) -> Reply:
        (unique,) = request.fields(layout.INTERRUPT_IN)
        if unique in self._waiting and self._nursery is not None:
            self._nursery.start_soon(self._end_when_told, unique)
        return None

    def _negotiate(self, request: Request) -> Reply:
        """INIT: agree on the protocol's version and features."""
        major, minor, readahead, flags = request.fields(layout.INIT_IN)
        if major != layout.KERNEL_MAJOR or minor < layout.KERNEL_MINOR_MIN:
            raise KernelError(errno.EPROTO)
        wanted = FEATURES & flags
        if not wanted & InitFlag.SETXATTR_EXT:
            self._operations.setxattr_layout = layout.SETXATTR_IN
        reply = layout.INIT_OUT.pack(
            layout.KERNEL_MAJOR, min(minor, layout.KERNEL_MINOR), min(readahead, WRITE_BYTES_MAX),
            wanted, WAITING_MAX, WAITING_MAX * 3 // 4, WRITE_BYTES_MAX, 1,
            WRITE_BYTES_MAX // PAGE_BYTES, 0, 0,
        )  # fmt: skip
        self.ready.set()
        return reply

    def _start_fetching(self, request: Request, handler: Handler) -> None:
        """Answer when the chunks that the request needs are here."""
        self._start_waiting(request, lambda: self._service.with_chunks(lambda: handler(request)))

    def _start_finding_room(self, request: Request, handler: Handler, error: FsError) -> None:
        """Try once more when old versions have made room for it."""

        async def attempt() -> Reply:
            if not await self._service.find_room():
                raise error
            return await self._service.with_chunks(lambda: handler(request))

        self._start_waiting(request, attempt)

    def _start_waiting(self, request: Request, attempt: Callable[[], Awaitable[Reply]]) -> None:
        """Answer after an attempt that may take long; it ends early if its process is to end."""
        wait = _Wait(request.pid, trio.CancelScope())
        self._waiting[request.unique] = wait

        async def answer() -> Buffer:
            try:
                with wait.scope:
                    reply = await attempt()
            finally:
                del self._waiting[request.unique]
            if wait.scope.cancelled_caught:
                raise KernelError(errno.EINTR)
            return await reply() if callable(reply) else reply or EMPTY

        self._start(request.unique, request.opcode, answer)

    async def _end_when_told(self, unique: int) -> None:
        """A signal came for a request: watch whether one comes that ends its process."""
        while (wait := self._waiting.get(unique)) is not None:
            if is_told_to_end(wait.thread):
                wait.scope.cancel()
            await trio.sleep(LOOK_S)

    def _start(self, unique: int, opcode: int, later: Later) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._finish, unique, opcode, later)

    async def _finish(self, unique: int, opcode: int, later: Later) -> None:
        try:
            self._send(unique, await later())
        except Exception as error:  # noqa: BLE001 - becomes the answer
            self._fail(unique, opcode, error)

    def _fail(self, unique: int, opcode: int, error: Exception) -> None:
        """No error ends the mount: it becomes the answer, and the log tells the unforeseen."""
        number = error.errno if isinstance(error, KernelError) else to_errno(error)
        if isinstance(error, struct.error):
            number = errno.EINVAL  # a request that is too short
        elif not isinstance(error, KernelError) and not is_foreseen(error):
            log.error("fuse.failed", operation=_name(opcode), exc_info=error)
        if opcode not in UNANSWERED:
            self._refuse(unique, number)

    def _refuse(self, unique: int, number: int) -> None:
        self._write(unique, (encoding.encode_header(unique, 0, number),))

    def _send(self, unique: int, body: Buffer) -> None:
        self._write(unique, (encoding.encode_header(unique, len(body)), body))

    def _write(self, unique: int, parts: tuple[Buffer, ...]) -> None:
        try:
            os.writev(self._descriptor, parts)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # interrupted, or unmounted
                log.warning("fuse.reply_refused", unique=unique, errno=error.errno)


def _name(opcode: int) -> str:
    try:
        return Opcode(opcode).name.lower()
    except ValueError:
        return str(opcode)
