"""What each request of the kernel means: one small function per opcode, and a table of them.

A function answers at once with bytes, or returns an async function when the answer must wait: for
the disk, or for other writers to catch up. Errors are raised; so is `MissingChunks`, after which
the caller of the table fetches the chunks and asks again. What is not in the table is answered
with ENOSYS, which the kernel remembers and does without: for those opcodes its own fallback is
right (locks between processes of one computer, poll, bmap, access).
"""

import errno
from collections.abc import Awaitable, Callable
from typing import Final

from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.names import CONFLICT_MARK
from piperfs.fs.api import SetAttr
from piperfs.fs.filesystem import Filesystem
from piperfs.fuse.kernel import encoding, layout
from piperfs.fuse.kernel.encoding import Buffer
from piperfs.fuse.kernel.layout import Opcode, SetAttrFlag
from piperfs.fuse.kernel.request import Request
from piperfs.fuse.service import Service

Later = Callable[[], Awaitable[Buffer]]
Reply = Buffer | Later | None  # None: the kernel expects no answer
Handler = Callable[[Request], Reply]

CHANGING: Final = (
    Opcode.SETATTR, Opcode.SYMLINK, Opcode.MKNOD, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR,
    Opcode.RENAME, Opcode.RENAME2, Opcode.LINK, Opcode.CREATE, Opcode.TMPFILE, Opcode.SETXATTR,
    Opcode.REMOVEXATTR,
)  # fmt: skip
EMPTY: Final = b""
O_ACCMODE: Final = 3
SECOND_NS: Final = encoding.SECOND_NS
COPY_BYTES_MAX: Final = 1 << 30  # of one request; the caller asks again for the rest
READ_BYTES_MAX: Final = 4 << 20  # the kernel asks for a quarter of this at most


class KernelError(Exception):
    """An answer that is a bare errno, for what only this protocol knows."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.errno = number


class Operations:
    """Turns requests into calls of the file system, and their results into replies."""

    def __init__(self, filesystem: Filesystem, service: Service) -> None:
        self._fs = filesystem
        self._service = service
        self.setxattr_layout = layout.SETXATTR_EXT_IN
        self.table: dict[int, Handler] = {
            Opcode.LOOKUP: self.lookup,
            Opcode.FORGET: self.forget,
            Opcode.BATCH_FORGET: self.batch_forget,
            Opcode.GETATTR: self.getattr,
            Opcode.STATX: self.statx,
            Opcode.SETATTR: self.setattr,
            Opcode.READLINK: self.readlink,
            Opcode.SYMLINK: self.symlink,
            Opcode.MKNOD: self.mknod,
            Opcode.MKDIR: self.mkdir,
            Opcode.UNLINK: self.unlink,
            Opcode.RMDIR: self.rmdir,
            Opcode.RENAME: self.rename,
            Opcode.RENAME2: self.rename2,
            Opcode.LINK: self.link,
            Opcode.OPEN: self.open,
            Opcode.CREATE: self.create,
            Opcode.TMPFILE: self.tmpfile,
            Opcode.READ: self.read,
            Opcode.WRITE: self.write,
            Opcode.FLUSH: self.flush,
            Opcode.RELEASE: self.release,
            Opcode.FSYNC: self.fsync,
            Opcode.STATFS: self.statfs,
            Opcode.SETXATTR: self.setxattr,
            Opcode.GETXATTR: self.getxattr,
            Opcode.LISTXATTR: self.listxattr,
            Opcode.REMOVEXATTR: self.removexattr,
            Opcode.OPENDIR: self.opendir,
            Opcode.READDIR: self.readdir,
            Opcode.READDIRPLUS: self.readdirplus,
            Opcode.RELEASEDIR: self.releasedir,
            Opcode.FSYNCDIR: self.sync,
            Opcode.SYNCFS: self.sync,
            Opcode.IOCTL: self.ioctl,
            Opcode.FALLOCATE: self.fallocate,
            Opcode.LSEEK: self.lseek,
            Opcode.COPY_FILE_RANGE: self.copy_file_range,
            Opcode.COPY_FILE_RANGE_64: self.copy_file_range_64,
            Opcode.DESTROY: self.destroy,
        }
        self.table |= {code: self._paced(self.table[code]) for code in CHANGING}

    # Names

    def lookup(self, request: Request) -> Reply:
        try:
            return encoding.encode_entry(self._fs.lookup(request.ino, request.name()))
        except FsError as error:
            if error.kind is ErrorKind.NOT_FOUND and CONFLICT_MARK not in request.name():
                return encoding.ABSENT_NAME  # a conflict copy may turn up without a word
            raise

    def forget(self, request: Request) -> Reply:
        (count,) = request.fields(layout.FORGET_IN)
        self._fs.forget(request.ino, count)
        return None

    def batch_forget(self, request: Request) -> Reply:
        for ino, count in layout.FORGET_ONE.iter_unpack(request.rest(layout.BATCH_FORGET_IN)):
            self._fs.forget(ino, count)
        return None

    def mknod(self, request: Request) -> Reply:
        mode, rdev, umask, _ = request.fields(layout.MKNOD_IN)
        name = request.name(layout.MKNOD_IN)
        made = self._fs.mknod(request.ino, name, mode, rdev, request.caller(umask))
        return encoding.encode_entry(made)

    def mkdir(self, request: Request) -> Reply:
        mode, umask = request.fields(layout.MKDIR_IN)
        name = request.name(layout.MKDIR_IN)
        return encoding.encode_entry(self._fs.mkdir(request.ino, name, mode, request.caller(umask)))

    def symlink(self, request: Request) -> Reply:
        name, target = request.names()
        return encoding.encode_entry(self._fs.symlink(request.ino, name, target, request.caller()))

    def link(self, request: Request) -> Reply:
        """A file without a name gets its bytes along with one; many are sealed in a thread."""
        (ino,) = request.fields(layout.LINK_IN)
        parent, name = request.ino, request.name(layout.LINK_IN)
        if not self._fs.is_nameless(ino) or self._service.flush_at_once(ino, spill=True):
            return encoding.encode_entry(self._fs.link(ino, parent, name))

        async def linked() -> Buffer:
            await self._service.flush(ino, spill=True)
            return encoding.encode_entry(self._fs.link(ino, parent, name))

        return linked

    def unlink(self, request: Request) -> Reply:
        self._fs.unlink(request.ino, request.name())
        return EMPTY

    def rmdir(self, request: Request) -> Reply:
        self._fs.rmdir(request.ino, request.name())
        return EMPTY

    def rename(self, request: Request) -> Reply:
        (new_parent,) = request.fields(layout.RENAME_IN)
        old, new = request.names(layout.RENAME_IN)
        return self._rename(request.ino, old, new_parent, new, 0)

    def rename2(self, request: Request) -> Reply:
        new_parent, flags, _ = request.fields(layout.RENAME2_IN)
        old, new = request.names(layout.RENAME2_IN)
        return self._rename(request.ino, old, new_parent, new, flags)

    def _rename(self, parent: int, old: bytes, new_parent: int, new: bytes, flags: int) -> Reply:
        """A file is never renamed without the bytes that were written to it before."""
        unsaved = self._fs.unsaved_source(parent, old)
        if unsaved is None or self._service.flush_at_once(unsaved):
            self._fs.rename(parent, old, new_parent, new, flags)
            return EMPTY
        ino = unsaved

        async def renamed() -> Buffer:
            await self._service.flush(ino)
            self._fs.rename(parent, old, new_parent, new, flags)
            return EMPTY

        return renamed

    def readlink(self, request: Request) -> Reply:
        return self._fs.readlink(request.ino)

    # Attributes

    def getattr(self, request: Request) -> Reply:
        return encoding.encode_attr(self._fs.getattr(request.ino))

    def statx(self, request: Request) -> Reply:
        return encoding.encode_statx(self._fs.getattr(request.ino))

    def setattr(self, request: Request) -> Reply:
        fields = request.fields(layout.SETATTR_IN)
        changes = _decode_setattr(fields, self._service.now_ns)
        fh = fields[2] if fields[0] & SetAttrFlag.FH else None
        return encoding.encode_attr(self._fs.setattr(request.ino, changes, fh, request.caller()))

    def statfs(self, _request: Request) -> Reply:
        return encoding.encode_statfs(self._fs.statfs())

    def setxattr(self, request: Request) -> Reply:
        size, flags = request.fields(layout.SETXATTR_IN)
        name, _, rest = bytes(request.rest(self.setxattr_layout)).partition(b"\0")
        self._fs.setxattr(request.ino, name, rest[:size], flags, request.caller())
        return EMPTY

    def getxattr(self, request: Request) -> Reply:
        size, _ = request.fields(layout.GETXATTR_IN)
        name = request.name(layout.GETXATTR_IN)
        return _sized(self._fs.getxattr(request.ino, name), size)

    def listxattr(self, request: Request) -> Reply:
        size, _ = request.fields(layout.GETXATTR_IN)
        names = self._fs.listxattr(request.ino, request.caller())
        return _sized(b"".join(name + b"\0" for name in names), size)

    def removexattr(self, request: Request) -> Reply:
        self._fs.removexattr(request.ino, request.name())
        return EMPTY

    # Open files

    def open(self, request: Request) -> Reply:
        flags, open_flags = request.fields(layout.OPEN_IN)
        if open_flags & layout.OPEN_KILL_SUIDGID:
            self._fs.kill_suidgid(request.ino, request.caller())
        opened = self._fs.open(request.ino, flags)
        return encoding.encode_open(opened, flush=flags & O_ACCMODE != 0)

    def create(self, request: Request) -> Reply:
        flags, mode, umask, _ = request.fields(layout.CREATE_IN)
        name = request.name(layout.CREATE_IN)
        attr, opened = self._fs.create(request.ino, name, mode, flags, request.caller(umask))
        return encoding.encode_entry(attr) + encoding.encode_open(opened, flush=True)

    def tmpfile(self, request: Request) -> Reply:
        flags, mode, umask, _ = request.fields(layout.CREATE_IN)
        attr, opened = self._fs.tmpfile(request.ino, mode, flags, request.caller(umask))
        return encoding.encode_entry(attr) + encoding.encode_open(opened, flush=True)

    def read(self, request: Request) -> Reply:
        fh, offset, size, *_ = request.fields(layout.READ_IN)
        size = min(size, READ_BYTES_MAX)
        data = self._fs.read(fh, offset, size)
        self._service.read_ahead(fh, offset, size)
        return data

    def write(self, request: Request) -> Reply:
        fh, offset, size, flags, *_ = request.fields(layout.WRITE_IN)
        if flags & layout.WRITE_KILL_SUIDGID:
            self._fs.kill_suidgid(request.ino, request.caller())
        data = request.rest(layout.WRITE_IN)[:size]
        written = self._fs.write(fh, offset, data, by_mapping=flags & layout.WRITE_CACHE != 0)
        return self._relieved(request.ino, layout.WRITE_OUT.pack(written, 0))

    def flush(self, request: Request) -> Reply:
        fh, *_ = request.fields(layout.FLUSH_IN)
        ino = request.ino
        if self._service.flush_at_once(ino):
            self._service.report_failure(fh)
            return EMPTY

        async def flushed() -> Buffer:
            await self._service.flush(ino)
            self._service.report_failure(fh)
            return EMPTY

        return flushed

    def release(self, request: Request) -> Reply:
        fh, *_ = request.fields(layout.RELEASE_IN)
        ino = request.ino
        if self._service.flush_at_once(ino):
            self._fs.release(fh)
            return EMPTY

        async def released() -> Buffer:
            await self._service.release(ino, fh)
            return EMPTY

        return released

    def fsync(self, request: Request) -> Reply:
        ino = request.ino

        async def synced() -> Buffer:
            await self._service.fsync(ino)
            return EMPTY

        return synced

    def fallocate(self, request: Request) -> Reply:
        fh, offset, length, mode, _ = request.fields(layout.FALLOCATE_IN)
        self._fs.fallocate(fh, mode, offset, length)
        return self._settled(fh, request.ino, EMPTY)

    def lseek(self, request: Request) -> Reply:
        fh, offset, whence, _ = request.fields(layout.LSEEK_IN)
        return layout.LSEEK_OUT.pack(self._fs.seek(fh, offset, whence))

    def copy_file_range(self, request: Request) -> Reply:
        return self._copy(request, lambda count: layout.WRITE_OUT.pack(count, 0))

    def copy_file_range_64(self, request: Request) -> Reply:
        return self._copy(request, layout.COPY_OUT_64.pack)

    # Directories

    def opendir(self, request: Request) -> Reply:
        return encoding.encode_opendir(self._fs.opendir(request.ino))

    def readdir(self, request: Request) -> Reply:
        fh, cookie, size, *_ = request.fields(layout.READ_IN)
        size = min(size, READ_BYTES_MAX)
        count = size // encoding.DIRENT_BYTES_MIN + 1
        found = self._fs.readdir(fh, cookie, plus=False, count=count)
        reply, _ = encoding.join_fitting(map(encoding.encode_dirent, found), size)
        return reply

    def readdirplus(self, request: Request) -> Reply:
        fh, cookie, size, *_ = request.fields(layout.READ_IN)
        size = min(size, READ_BYTES_MAX)
        count = size // encoding.DIRENTPLUS_BYTES_MIN + 1
        found = self._fs.readdir(fh, cookie, plus=True, count=count)
        reply, delivered = encoding.join_fitting(map(encoding.encode_direntplus, found), size)
        for entry in found[delivered:]:
            if entry.attr is not None:
                self._fs.forget(entry.ino, 1)
        return reply

    def releasedir(self, request: Request) -> Reply:
        fh, *_ = request.fields(layout.RELEASE_IN)
        self._fs.releasedir(fh)
        return EMPTY

    def sync(self, _request: Request) -> Reply:
        async def synced() -> Buffer:
            await self._service.sync()
            return EMPTY

        return synced

    def destroy(self, _request: Request) -> Reply:
        return EMPTY

    def ioctl(self, _request: Request) -> Reply:
        raise KernelError(errno.ENOTTY)

    # Shared

    def _paced(self, handler: Handler) -> Handler:
        """The same, but its reply waits while too much waits for a disk that is nearly full."""

        def run(request: Request) -> Reply:
            reply = handler(request)
            if callable(reply) or reply is None or not self._service.is_crowded:
                return reply

            async def later() -> Buffer:
                await self._service.make_way()
                return reply

            return later

        return run

    def _relieved(self, ino: int, reply: Buffer) -> Reply:
        """The reply, at once unless the writer has to wait for its own work to be saved."""
        if not self._service.needs_relief(ino):
            return reply

        async def relieved() -> Buffer:
            await self._service.relieve(ino)
            return reply

        return relieved

    def _settled(self, fh: int, ino: int, reply: Buffer) -> Reply:
        """The same for what the kernel does not sync by itself when it was opened with O_SYNC."""
        if not self._fs.syncs(fh):
            return self._relieved(ino, reply)

        async def settled() -> Buffer:
            await self._service.fsync(ino)
            return reply

        return settled

    def _copy(self, request: Request, encode: Callable[[int], bytes]) -> Reply:
        fh_in, offset_in, ino, fh_out, offset_out, size, _ = request.fields(
            layout.COPY_FILE_RANGE_IN
        )
        size = min(size, COPY_BYTES_MAX)
        count = self._fs.copy_range(fh_in, offset_in, fh_out, offset_out, size)
        return self._settled(fh_out, ino, encode(count))


def _sized(value: bytes, size: int) -> Buffer:
    """An attribute, or how long it is when that is all the caller asks."""
    if size == 0:
        return layout.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise KernelError(errno.ERANGE)
    return value


def _decode_setattr(fields: tuple[int, ...], now_ns: Callable[[], int]) -> SetAttr:
    valid, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = fields

    present = now_ns()

    def time(flag: SetAttrFlag, now: SetAttrFlag, seconds: int, ns: int) -> int | None:
        if valid & now:
            return present
        return seconds * SECOND_NS + ns if valid & flag else None

    return SetAttr(
        mode=mode & 0o7777 if valid & SetAttrFlag.MODE else None,
        uid=uid if valid & SetAttrFlag.UID else None,
        gid=gid if valid & SetAttrFlag.GID else None,
        size=size if valid & SetAttrFlag.SIZE else None,
        atime_ns=time(SetAttrFlag.ATIME, SetAttrFlag.ATIME_NOW, atime, atime_ns),
        mtime_ns=time(SetAttrFlag.MTIME, SetAttrFlag.MTIME_NOW, mtime, mtime_ns),
        kill_suidgid=bool(valid & SetAttrFlag.KILL_SUIDGID),
    )
