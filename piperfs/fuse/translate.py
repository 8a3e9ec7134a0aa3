"""From the errors of the file system to the numbers that system calls return.

The only place that knows errno values, so both adapters fail alike. Everything that is not an
error raised on purpose becomes EIO: it is a mistake of ours, which the log explains and which
must not reach the caller as something it is not.
"""

import errno
from typing import Final

from piperfs.core.errors import ErrorKind, FsError, StoreError

ERRNO: Final = {
    ErrorKind.NOT_PERMITTED: errno.EPERM,
    ErrorKind.NOT_FOUND: errno.ENOENT,
    ErrorKind.IO: errno.EIO,
    ErrorKind.BAD_HANDLE: errno.EBADF,
    ErrorKind.ACCESS: errno.EACCES,
    ErrorKind.BUSY: errno.EBUSY,
    ErrorKind.EXISTS: errno.EEXIST,
    ErrorKind.CROSS_DEVICE: errno.EXDEV,
    ErrorKind.NOT_A_DIRECTORY: errno.ENOTDIR,
    ErrorKind.IS_A_DIRECTORY: errno.EISDIR,
    ErrorKind.INVALID: errno.EINVAL,
    ErrorKind.TOO_BIG: errno.EFBIG,
    ErrorKind.NO_SPACE: errno.ENOSPC,
    ErrorKind.READ_ONLY: errno.EROFS,
    ErrorKind.TOO_MANY_LINKS: errno.EMLINK,
    ErrorKind.NAME_TOO_LONG: errno.ENAMETOOLONG,
    ErrorKind.NOT_EMPTY: errno.ENOTEMPTY,
    ErrorKind.LOOP: errno.ELOOP,
    ErrorKind.NO_ATTRIBUTE: errno.ENODATA,
    ErrorKind.RANGE: errno.ERANGE,
    ErrorKind.NOT_SUPPORTED: errno.EOPNOTSUPP,
    ErrorKind.NO_DATA_BEYOND: errno.ENXIO,
    ErrorKind.QUOTA: errno.EDQUOT,
    ErrorKind.STALE: errno.ESTALE,
    ErrorKind.UNREACHABLE: errno.EHOSTUNREACH,
    ErrorKind.TIMED_OUT: errno.ETIMEDOUT,
    ErrorKind.INTERRUPTED: errno.EINTR,
}


def to_errno(error: Exception) -> int:
    """The positive errno of an error; EIO for one that nobody foresaw."""
    if isinstance(error, FsError | StoreError):
        return ERRNO[error.kind]
    return errno.ENOMEM if isinstance(error, MemoryError) else errno.EIO


def is_foreseen(error: Exception) -> bool:
    """Whether the error is an answer rather than a fault of the program or of the disk."""
    if isinstance(error, StoreError):
        return error.kind in (ErrorKind.NO_SPACE, ErrorKind.QUOTA)
    return isinstance(error, FsError) and error.kind is not ErrorKind.IO
