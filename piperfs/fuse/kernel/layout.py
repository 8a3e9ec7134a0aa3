"""The byte layouts of the FUSE kernel protocol, as tables of precompiled structs.

Names follow `linux/fuse.h`, protocol 7.38 and what later kernels ask for unasked, so that the two
can be read side by side; nothing here decides anything. Fields are native and unpadded: the kernel
aligns every structure to 64 bits by hand. Times are signed, since the kernel reads them so and
files older than 1970 exist.
"""

import enum
from struct import Struct
from typing import Final

KERNEL_MAJOR: Final = 7
KERNEL_MINOR: Final = 38
KERNEL_MINOR_MIN: Final = 31  # Linux 5.4: the oldest whose structures are all as below
ROOT_INO: Final = 1


class Opcode(enum.IntEnum):
    """What the kernel asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


class InitFlag(enum.IntFlag):
    """Features negotiated by INIT; those from bit 32 on travel in a field of their own."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30


class SetAttrFlag(enum.IntFlag):
    """Which fields of SETATTR are meant."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    KILL_SUIDGID = 1 << 11


STATX_BASIC_STATS: Final = 0x7FF
STATX_BTIME: Final = 0x800

GETATTR_FH: Final = 1 << 0
OPEN_KILL_SUIDGID: Final = 1 << 0
WRITE_CACHE: Final = 1 << 0  # of pages that a mapping changed: the kernel delays no other write
WRITE_KILL_SUIDGID: Final = 1 << 2

FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_CACHE_DIR: Final = 1 << 3
FOPEN_NOFLUSH: Final = 1 << 5


class Notification(enum.IntEnum):
    """What a file system may tell the kernel unasked; sent in the error field of a reply."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    DELETE = 6


IN_HEADER: Final = Struct("=IIQQIIIHH")  # len opcode unique nodeid uid gid pid extlen padding
OUT_HEADER: Final = Struct("=IiQ")  # len error unique

_ATTR = "QQQqqqIIIIIIIIII"
ATTR_OUT: Final = Struct("=QII" + _ATTR)
_SX_TIME = "qI4x"
STATX_OUT: Final = Struct("=QII16x" + "IIQIIIHxxQQQQ" + 4 * _SX_TIME + "IIII112x")
ENTRY_OUT: Final = Struct("=QQQQII" + _ATTR)
OPEN_OUT: Final = Struct("=QII")
CREATE_OUT: Final = Struct("=QQQQII" + _ATTR + "QII")
WRITE_OUT: Final = Struct("=II")
COPY_OUT_64: Final = Struct("=Q")
STATFS_OUT: Final = Struct("=QQQQQIII28x")
GETXATTR_OUT: Final = Struct("=II")
LSEEK_OUT: Final = Struct("=Q")
DIRENT: Final = Struct("=QQII")
INIT_OUT: Final = Struct("=IIIIHHIIHHI28x")

FORGET_IN: Final = Struct("=Q")
FORGET_ONE: Final = Struct("=QQ")
BATCH_FORGET_IN: Final = Struct("=II")
GETATTR_IN: Final = Struct("=IIQ")
SETATTR_IN: Final = Struct("=IIQQQqqqIIIIIIII")
MKNOD_IN: Final = Struct("=IIII")
MKDIR_IN: Final = Struct("=II")
RENAME_IN: Final = Struct("=Q")
RENAME2_IN: Final = Struct("=QII")
LINK_IN: Final = Struct("=Q")
OPEN_IN: Final = Struct("=II")
CREATE_IN: Final = Struct("=IIII")
RELEASE_IN: Final = Struct("=QIIQ")
FLUSH_IN: Final = Struct("=QIIQ")
READ_IN: Final = Struct("=QQIIQII")
WRITE_IN: Final = Struct("=QQIIQII")
FSYNC_IN: Final = Struct("=QII")
SETXATTR_IN: Final = Struct("=II")
SETXATTR_EXT_IN: Final = Struct("=IIII")
GETXATTR_IN: Final = Struct("=II")
INIT_IN: Final = Struct("=IIII")
INIT_EXT_IN: Final = Struct("=IIIII")
INTERRUPT_IN: Final = Struct("=Q")
FALLOCATE_IN: Final = Struct("=QQQII")
LSEEK_IN: Final = Struct("=QQII")
COPY_FILE_RANGE_IN: Final = Struct("=QQQQQQQ")

INVAL_INODE_OUT: Final = Struct("=Qqq")
INVAL_ENTRY_OUT: Final = Struct("=QII")
DELETE_OUT: Final = Struct("=QQII")
