"""What both kernel adapters share, and everything about a system call that may wait.

The file system itself is synchronous: it answers from local state or says which chunks it lacks.
Waiting is done here, for four things only: a chunk that a peer has, the CPU time of a large
flush, the disk when somebody calls fsync, and other writers when too much is waiting for the
disk. Each wait has an end: fetches have a deadline, the rest is bounded by the machine.

Dirty contents become versions of the file when it is closed or synced, when they grow large, and
when they grow old: five seconds of work at most are at risk.
"""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from piperfs.core.clock import Runner
from piperfs.core.errors import ErrorKind, FsError, StoreError
from piperfs.core.ids import ChunkId
from piperfs.core.limits import KIB, MIB
from piperfs.fs.api import Buffer
from piperfs.fs.filesystem import Filesystem
from piperfs.fs.flush import Flush
from piperfs.fs.missing import MissingChunks
from piperfs.obs.log import get_logger

INLINE_FLUSH_BYTES_MAX: Final = 256 * KIB  # a thread costs more than sealing this much
SPILL_BYTES: Final = 4 * MIB  # more than this is sealed while the writer goes on
INODE_DIRTY_BYTES_MAX: Final = 16 * MIB
UNCOMMITTED_BYTES_MAX: Final = 32 * MIB
READAHEAD_BYTES: Final = 8 * MIB
FLUSH_AGE_S: Final = 2.0  # with the age check and a commit, well under the promised five
AGE_CHECK_S: Final = 0.5
FLUSHES_AT_ONCE: Final = 4

T = TypeVar("T")
log = get_logger("fuse")


async def _no_room() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the daemon lends to the service."""

    fetch: Callable[[Iterable[ChunkId], float], Awaitable[None]]  # ids, deadline (trio time)
    prefetch: Callable[[Iterable[ChunkId]], None]  # fetch in the background, best effort
    wake: Callable[[], None]  # there is something to commit
    commit: Callable[[], Awaitable[None]]  # returns when everything applied is durable
    now_ns: Callable[[], int]
    in_thread: Runner
    deadline_s: float = 30.0
    failure: Callable[[], StoreError | None] = lambda: None  # of the last commit
    is_crowded: Callable[[], bool] = lambda: False  # a full disk may not take more at once
    find_room: Callable[[], Awaitable[bool]] = _no_room  # whether it is worth to try again


class Service:
    """The waiting half of a mounted file system."""

    def __init__(self, filesystem: Filesystem, surroundings: Surroundings) -> None:
        self._fs = filesystem
        self._around = surroundings
        self._flushing: dict[int, trio.Event] = {}
        self._spilling: set[int] = set()
        self._has_spills = trio.Event()
        self.now_ns = surroundings.now_ns

    # Reading

    async def with_chunks(self, call: Callable[[], T]) -> T:
        """Call until no chunk is missing. Raises FsError when the deadline passes first."""
        deadline = self.deadline()
        while True:
            try:
                return call()
            except MissingChunks as missing:
                await self.fetch(missing, deadline)

    def deadline(self) -> float:
        """Until when a call that begins now may wait for chunks, in trio's time."""
        return trio.current_time() + self._around.deadline_s

    async def fetch(self, missing: MissingChunks, deadline: float) -> None:
        """Ask peers for what a call lacked. Raises FsError when its deadline has passed."""
        if trio.current_time() >= deadline:
            raise FsError(ErrorKind.TIMED_OUT) from missing
        await self._around.fetch(missing.chunks, deadline)

    async def read(self, fh: int, offset: int, size: int) -> Buffer:
        """Bytes of a file, fetched first where they are absent."""
        data = await self.with_chunks(lambda: self._fs.read(fh, offset, size))
        self.read_ahead(fh, offset, size)
        return data

    def read_ahead(self, fh: int, offset: int, size: int) -> None:
        """Ask for what a sequential reader wants next, if some of it is absent."""
        if not self._fs.has_absent:
            return
        try:
            absent = self._fs.chunks_from(fh, offset + size, READAHEAD_BYTES)
        except MissingChunks as missing:
            absent = list(missing.chunks)
        if absent:
            self._around.prefetch(absent)

    # Changing

    @property
    def is_crowded(self) -> bool:
        """Whether whoever changes something must wait, since much waits for a disk nearly full."""
        return self._around.is_crowded()

    async def find_room(self) -> bool:
        """Wait, after a call found the disk full, for room; whether it is worth to try again."""
        return await self._around.find_room()

    async def make_way(self) -> None:
        """Bring what waits onto the disk. That it is full is told by writes and by fsync."""
        with suppress(StoreError):
            await self._around.commit()

    def needs_relief(self, ino: int) -> bool:
        """Whether a writer must wait, since too much of its work is in memory only.

        Some of it is sealed beside the writer long before that.
        """
        dirty = self._fs.dirty_bytes(ino)
        if dirty > SPILL_BYTES and ino not in self._flushing:
            self._spilling.add(ino)
            self._has_spills.set()
        return dirty > INODE_DIRTY_BYTES_MAX or self._fs.uncommitted_bytes() > UNCOMMITTED_BYTES_MAX

    async def relieve(self, ino: int) -> None:
        """Bring the amount of work in memory down."""
        if self._fs.dirty_bytes(ino) > INODE_DIRTY_BYTES_MAX:
            await self.flush(ino, spill=True)
        if self._fs.uncommitted_bytes() > UNCOMMITTED_BYTES_MAX:
            await self._around.commit()

    def flush_at_once(self, ino: int, *, spill: bool = False) -> bool:
        """Flush a small file without waiting; False if it has to be awaited."""
        if ino in self._flushing or self._fs.dirty_bytes(ino) > INLINE_FLUSH_BYTES_MAX:
            return False
        flush = self._fs.begin_flush(ino, spill=spill)
        if flush is None:
            return True
        try:
            flush.execute()
        except MissingChunks:
            self._fs.abandon_flush(ino, flush)
            return False
        except Exception:
            self._fs.abandon_flush(ino, flush)
            raise
        self._fs.finish_flush(ino, flush)
        return True

    async def flush(self, ino: int, *, spill: bool = False) -> None:
        """Return when everything written to the file so far is in chunks, and a version."""
        while ino in self._flushing:
            await self._flushing[ino].wait()
        flush = self._fs.begin_flush(ino, spill=spill)
        if flush is None:
            return
        done = self._flushing[ino] = trio.Event()
        try:
            with trio.CancelScope(shield=True):  # half a flush helps nobody
                await self._execute(flush)
        except BaseException:
            self._fs.abandon_flush(ino, flush)
            raise
        finally:
            del self._flushing[ino]
            done.set()
        self._fs.finish_flush(ino, flush)

    async def _execute(self, flush: Flush) -> None:
        deadline = trio.current_time() + self._around.deadline_s
        while True:
            try:
                await self._around.in_thread(flush.execute)
                return
            except MissingChunks as missing:
                if trio.current_time() >= deadline:
                    raise FsError(ErrorKind.TIMED_OUT) from missing
                await self._around.fetch(missing.chunks, deadline)

    async def release(self, ino: int, fh: int) -> None:
        """Close a handle; what it wrote becomes a version even if nobody could be told."""
        try:
            await self.flush(ino)
        finally:
            self._fs.release(fh)

    async def fsync(self, ino: int) -> None:
        """Return when the file, and everything done before, is on stable storage."""
        if not self.flush_at_once(ino):
            await self.flush(ino)
        await self._around.commit()

    async def sync(self) -> None:
        """Return when everything is on stable storage. One file that fails holds up no other."""
        failed: list[FsError | StoreError] = []
        for ino in {*self._flushing, *(ino for ino, _ in self._fs.dirty_inos())}:
            try:
                await self.flush(ino)
            except (FsError, StoreError) as error:
                failed.append(error)
        await self._around.commit()
        if failed:
            raise failed[0]

    def report_failure(self, fh: int) -> None:
        """At close: tell once for each open file that the disk does not take what was written.

        Raises:
            StoreError: the last commit failed, and nobody has said so to this caller.
        """
        failure = self._around.failure()
        if failure is not None and self._fs.first_report(fh, failure):
            raise failure.with_traceback(None)  # raised again and again, it would grow

    async def run(self) -> None:
        """What happens by itself, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._spill)
            nursery.start_soon(self._flush_aged)

    async def _spill(self) -> None:
        """Seal what large writers have written, while they go on writing."""
        while True:
            await self._has_spills.wait()
            self._has_spills = trio.Event()
            while self._spilling:
                await self._flush_quietly(self._spilling.pop(), spill=True)
                self._around.wake()

    async def _flush_aged(self) -> None:
        """For ever: make versions of what has waited for long, so that little is at risk."""
        limit = trio.CapacityLimiter(FLUSHES_AT_ONCE)
        under_way: set[int] = set()

        async def flush(ino: int) -> None:
            async with limit:
                await self._flush_quietly(ino)
            under_way.discard(ino)

        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(AGE_CHECK_S)
                for ino, age in self._fs.dirty_inos():
                    if age >= FLUSH_AGE_S and ino not in under_way:
                        under_way.add(ino)
                        nursery.start_soon(flush, ino)

    async def _flush_quietly(self, ino: int, *, spill: bool = False) -> None:
        try:
            if spill or not self.flush_at_once(ino):
                await self.flush(ino, spill=spill)
        except (FsError, StoreError, MemoryError) as error:
            log.warning("flush.delayed", ino=ino, reason=str(error) or "no memory")
