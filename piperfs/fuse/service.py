"""What both kernel adapters share, and everything about a system call that may wait.

The file system itself is synchronous: it answers from local state or says which chunks it lacks.
Waiting is done here, for four things only: a chunk that a peer has, the CPU time of a large
flush, the disk when somebody calls fsync, and other writers when too much is waiting for the
disk. Each wait has an end: fetches have a deadline, the rest is bounded by the machine.

Dirty contents become versions of the file when it is closed or synced, when they grow large, and
when they grow old: five seconds of work at most are at risk.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

import trio

from piperfs.core.errors import ErrorKind, FsError, StoreError
from piperfs.core.ids import ChunkId
from piperfs.core.limits import KIB, MIB
from piperfs.fs.api import Buffer
from piperfs.fs.filesystem import Filesystem
from piperfs.fs.missing import MissingChunks
from piperfs.obs.log import get_logger

INLINE_FLUSH_BYTES_MAX: Final = 256 * KIB  # a thread costs more than sealing this much
INODE_DIRTY_BYTES_MAX: Final = 8 * MIB
UNCOMMITTED_BYTES_MAX: Final = 64 * MIB
READAHEAD_BYTES: Final = 8 * MIB
FLUSH_AGE_S: Final = 3.0  # with the age check and a commit, well under the promised five
AGE_CHECK_S: Final = 1.0

T = TypeVar("T")
log = get_logger("fuse")


class Plan(Protocol):
    """What is to be chunked and sealed; made on the loop, executed anywhere."""

    @property
    def dirty_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the daemon lends to the service."""

    fetch: Callable[[Iterable[ChunkId], float], Awaitable[None]]  # ids, deadline (trio time)
    prefetch: Callable[[Iterable[ChunkId]], None]  # fetch in the background, best effort
    execute: Callable[..., object]  # turns a plan into its result; thread-safe
    commit: Callable[[], Awaitable[None]]  # returns when everything applied is durable
    uncommitted_bytes: Callable[[], int]
    now_ns: Callable[[], int]
    deadline_s: float = 30.0
