"""System calls that Python's standard library does not offer, as plain functions.

Each raises OSError like those of `os`. They exist for tests of a mounted file system, which must
reach what programs written in C reach.
"""

import contextlib
import ctypes
import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LIBC = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE = 1, 2, 8, 16, 32
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
_FLOCK = struct.Struct("hhqqi4x")
_DIRENT = struct.Struct("=QqHB")
_GETDENTS64 = {"x86_64": 217}.get(os.uname().machine, 61)
F_OFD_GETLK, F_OFD_SETLK = 36, 37


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def renameat2(old: str, new: str, flags: int) -> None:
    _check(LIBC.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    _check(LIBC.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def link_descriptor(fd: int, path: str) -> None:
    """Give the file behind a descriptor a name."""
    proc = f"/proc/self/fd/{fd}".encode()
    _check(LIBC.linkat(AT_FDCWD, proc, AT_FDCWD, os.fsencode(path), 0x400))


def listed(path: os.PathLike[str]) -> dict[bytes, int]:
    """Names and inode numbers as a listing has them, `.` and `..` among them."""
    fd, found = os.open(path, os.O_RDONLY | os.O_DIRECTORY), {}
    buffer = ctypes.create_string_buffer(1 << 16)
    try:
        while size := LIBC.syscall(_GETDENTS64, fd, buffer, len(buffer)):
            _check(size)
            at = 0
            while at < size:
                number, _, length, _ = _DIRENT.unpack_from(buffer, at)
                name = buffer.raw[at + _DIRENT.size : at + length]
                found[name.partition(b"\0")[0]] = number
                at += length
    finally:
        os.close(fd)
    return found


def utimensat(path: str, atime: tuple[int, int], mtime: tuple[int, int], *, follow: bool) -> None:
    """Set times; a nanosecond part may be UTIME_NOW or UTIME_OMIT."""
    times = struct.pack("qqqq", *atime, *mtime)
    _check(LIBC.utimensat(AT_FDCWD, os.fsencode(path), times, 0 if follow else 0x100))


def sync_file_system(fd: int) -> None:
    _check(LIBC.syncfs(fd))


def lock_descriptor(fd: int, kind: int, start: int, length: int) -> None:
    """Take or drop a lock that belongs to the open file description; never waits."""
    fcntl.fcntl(fd, F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def find_lock(fd: int, kind: int, start: int, length: int) -> tuple[int, ...]:
    """The first lock of others that is in the way, as kind, start and length."""
    asked = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
    found = _FLOCK.unpack(fcntl.fcntl(fd, F_OFD_GETLK, asked))
    return (found[0], found[2], found[3]) if found[0] != fcntl.F_UNLCK else (fcntl.F_UNLCK,)


@dataclass(frozen=True)
class User:
    """Whom a step is made as."""

    uid: int
    gid: int
    groups: Sequence[int] = ()


ROOT = User(0, 0)


@contextlib.contextmanager
def acting_as(user: User) -> Iterator[None]:
    """Run as somebody else, ids and groups and lost capabilities included; the process is root's.

    The saved id stays root's, so the way back is open.
    """
    if user.uid == 0:
        yield
        return
    os.setgroups(list(user.groups))
    os.setresgid(user.gid, user.gid, 0)
    os.setresuid(user.uid, user.uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups([])
