"""Replies and notifications as the bytes that the kernel expects.

Pure functions over the layouts, so they are tested without a mount. The kernel may keep names and
attributes for an hour, names that do not exist too: whatever another replica changes is
invalidated exactly, so the timeout matters only if a notification were ever lost.
"""

from collections.abc import Iterable
from typing import Final

from piperfs.fs.api import Attr, DirectoryEntry, Opened, StatFs
from piperfs.fuse.kernel import layout
from piperfs.fuse.kernel.layout import Notification

CACHE_VALID_S: Final = 3600
ARRIVING_VALID_S: Final = 1  # of attributes that change without a word, as content arrives
SECOND_NS: Final = 1_000_000_000
ALIGNMENT: Final = 8
DIRENT_BYTES_MIN: Final = 32  # an entry with a name of up to eight bytes
DIRENTPLUS_BYTES_MIN: Final = 160
HEADER_BYTES: Final = layout.OUT_HEADER.size
NO_ENTRY: Final = bytes(layout.ENTRY_OUT.size)  # inode 0: no such name, and that may be cached
ABSENT_NAME: Final = layout.ENTRY_OUT.pack(0, 0, CACHE_VALID_S, *[0] * 19)

Buffer = bytes | bytearray | memoryview

_pack_entry = layout.ENTRY_OUT.pack
_pack_attr = layout.ATTR_OUT.pack


def encode_header(unique: int, body_bytes: int, error: int = 0) -> bytes:
    """The header of the reply to request `unique`; `error` is a positive errno."""
    return layout.OUT_HEADER.pack(HEADER_BYTES + body_bytes, -error, unique)


def attributes_valid_s(attr: Attr) -> int:
    """For how long the kernel may believe what it is told of a file."""
    return CACHE_VALID_S if attr.is_lasting else ARRIVING_VALID_S


def encode_attr(attr: Attr) -> bytes:
    """The reply to GETATTR and SETATTR."""
    atime, mtime, ctime = attr.atime_ns, attr.mtime_ns, attr.ctime_ns
    return _pack_attr(
        attributes_valid_s(attr), 0, 0,
        attr.ino, attr.size, attr.blocks,
        atime // SECOND_NS, mtime // SECOND_NS, ctime // SECOND_NS,
        atime % SECOND_NS, mtime % SECOND_NS, ctime % SECOND_NS,
        attr.mode, attr.nlink, attr.uid, attr.gid, attr.rdev, attr.blksize, 0,
    )  # fmt: skip


def encode_statx(attr: Attr) -> bytes:
    """The reply to STATX, which the kernel sends to know the birth, and remembers."""
    times = (attr.atime_ns, attr.born_ns, attr.ctime_ns, attr.mtime_ns)
    known = layout.STATX_BASIC_STATS | (layout.STATX_BTIME if attr.born_ns else 0)
    major, minor = attr.rdev >> 8 & 0xFFF, attr.rdev & 0xFF | attr.rdev >> 12 & 0xFFF00
    return layout.STATX_OUT.pack(
        attributes_valid_s(attr), 0, 0,
        known, attr.blksize, 0, attr.nlink, attr.uid, attr.gid, attr.mode,
        attr.ino, attr.size, attr.blocks, 0,
        *(part for time in times for part in divmod(time, SECOND_NS)),
        major, minor, 0, 0,
    )  # fmt: skip


def encode_entry(attr: Attr) -> bytes:
    """The reply to everything that names an inode: LOOKUP, MKDIR, LINK and so on."""
    atime, mtime, ctime = attr.atime_ns, attr.mtime_ns, attr.ctime_ns
    valid_s = CACHE_VALID_S if attr.entry_valid else 0
    return _pack_entry(
        attr.ino, attr.generation, valid_s, min(valid_s, attributes_valid_s(attr)), 0, 0,
        attr.ino, attr.size, attr.blocks,
        atime // SECOND_NS, mtime // SECOND_NS, ctime // SECOND_NS,
        atime % SECOND_NS, mtime % SECOND_NS, ctime % SECOND_NS,
        attr.mode, attr.nlink, attr.uid, attr.gid, attr.rdev, attr.blksize, 0,
    )  # fmt: skip


def encode_open(opened: Opened, *, flush: bool) -> bytes:
    """The reply to OPEN; `flush` is false for handles whose close needs no word to us."""
    flags = layout.FOPEN_KEEP_CACHE if opened.keep_cache else 0
    if not flush:
        flags |= layout.FOPEN_NOFLUSH
    return layout.OPEN_OUT.pack(opened.fh, flags, 0)


def encode_opendir(fh: int) -> bytes:
    return layout.OPEN_OUT.pack(fh, layout.FOPEN_KEEP_CACHE | layout.FOPEN_CACHE_DIR, 0)


def encode_statfs(stat: StatFs) -> bytes:
    return layout.STATFS_OUT.pack(
        stat.blocks, stat.blocks_free, stat.blocks_available, stat.files, stat.files_free,
        stat.block_bytes, stat.name_bytes_max, stat.block_bytes,
    )  # fmt: skip


def encode_dirent(entry: DirectoryEntry) -> bytes:
    """One entry of a READDIR reply, padded to the kernel's alignment."""
    name = entry.name
    head = layout.DIRENT.pack(entry.ino, entry.cookie, len(name), entry.mode >> 12 & 0xF)
    return head + name + bytes(-len(name) % ALIGNMENT)


def encode_direntplus(entry: DirectoryEntry) -> bytes:
    """One entry of a READDIRPLUS reply; without attributes it counts no lookup."""
    attr = NO_ENTRY if entry.attr is None else encode_entry(entry.attr)
    return attr + encode_dirent(entry)


def join_fitting(records: Iterable[bytes], size: int) -> tuple[bytes, int]:
    """As many whole records as fit into `size` bytes, and how many those are."""
    chosen: list[bytes] = []
    for record in records:
        size -= len(record)
        if size < 0:
            break
        chosen.append(record)
    return b"".join(chosen), len(chosen)


def encode_inval_inode(ino: int, offset: int, length: int) -> bytes:
    """Forget cached attributes; data too from `offset` on, unless `offset` is negative."""
    return _notification(Notification.INVAL_INODE, layout.INVAL_INODE_OUT.pack(ino, offset, length))


def encode_inval_entry(parent: int, name: bytes) -> bytes:
    body = layout.INVAL_ENTRY_OUT.pack(parent, len(name), 0) + name + b"\0"
    return _notification(Notification.INVAL_ENTRY, body)


def encode_delete(parent: int, child: int, name: bytes) -> bytes:
    """Forget a name whose inode went away; those who watch the inode are told."""
    body = layout.DELETE_OUT.pack(parent, child, len(name), 0) + name + b"\0"
    return _notification(Notification.DELETE, body)


def _notification(code: Notification, body: bytes) -> bytes:
    return layout.OUT_HEADER.pack(HEADER_BYTES + len(body), code, 0) + body
