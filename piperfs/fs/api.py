"""Values that cross the border between a kernel adapter and the file system.

They name no binding and no errno: an adapter turns them into what its kernel interface wants.
`ino` is always the kernel's inode number, an int; times are ns since 1970 and may be negative.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

ROOT_INO: Final = 1

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a system call."""

    uid: int
    gid: int
    pid: int = 0
    umask: int = 0


@dataclass(frozen=True, slots=True)
class Attr:
    """What stat(2) tells. `mode` includes the type bits; `blocks` counts 512 bytes held here."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    blksize: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    born_ns: int = 0
    generation: int = 0
    entry_valid: bool = True  # False: the name may not be cached (conflict copies)
    is_lasting: bool = True  # False: content is absent, or an account: they may come any time


@dataclass(frozen=True, slots=True)
class SetAttr:
    """What to change; None leaves a field alone."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    kill_suidgid: bool = False  # clear set-id bits, as a write by another user does


@dataclass(frozen=True, slots=True)
class Opened:
    """A file handle, and whether the kernel's cached pages of the file are still right."""

    fh: int
    keep_cache: bool


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One entry of a directory; `cookie` continues the listing after it.

    `attr` is set when the listing was asked for attributes; without it only the number and the
    type bits of `mode` are known.
    """

    name: bytes
    ino: int
    mode: int
    cookie: int
    attr: Attr | None = None


@dataclass(frozen=True, slots=True)
class StatFs:
    """What statvfs(3) tells, in blocks of `block_bytes`."""

    block_bytes: int
    blocks: int
    blocks_free: int
    blocks_available: int
    files: int
    files_free: int
    name_bytes_max: int
