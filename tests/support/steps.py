"""Random system calls, each a description and a function that makes it on one side.

One function for each call, in a table with weights. All random arguments are drawn before the
call is made on either side, so that both sides do the same.
"""

import ctypes
import fcntl
import mmap
import os
import random
import socket
import stat
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.support import syscalls
from tests.support.syscalls import User

if TYPE_CHECKING:
    from tests.support.differential import Side

Call = Callable[["Side"], object]
Step = tuple[str, Call]
STEPS: list[tuple[int, str, Callable[["Pick"], Step]]] = []

NAMES = (
    "a", "b", "c", "d1", "d2", "d1/a", "d1/b", "d1/d", "d1/d/a", "d2/a", "d2/d", "s", "f",
)  # fmt: skip
ODD_NAMES = (
    "a/", "d1/", "d1/.", "d1/..", ".", "a/x", "s/", "s/a", "missing/x", "", "n" * 255, "n" * 256,
    "d1/" + "m" * 255, "x/" * 2100, "\udcff\udcfe", "d1//a", "../right-or-tested/none", "l" * 100,
)  # fmt: skip
MODES = (
    0o644,
    0o600,
    0o755,
    0o666,
    0o777,
    0o4755,
    0o2755,
    0o2745,
    0o6777,
    0o1777,
    0o2777,
    0,
    0o7777,
)
USERS = (
    User(0, 0), User(0, 0), User(0, 0), User(5001, 5001, (5001, 6001)), User(5001, 5001, (6001,)),
    User(5002, 5002, (6001, 6002)), User(5003, 5003, ()),
)  # fmt: skip
_RW, _NEW = os.O_RDWR, os.O_RDWR | os.O_CREAT
OPEN_FLAGS = (
    os.O_RDONLY, _RW, _RW, os.O_WRONLY, os.O_WRONLY | os.O_APPEND, _RW | os.O_APPEND,
    _RW | os.O_TRUNC, _NEW, _NEW, os.O_RDONLY | os.O_CREAT, _NEW | os.O_EXCL,
    os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_RDONLY | os.O_DIRECTORY, _RW | os.O_NOFOLLOW,
    os.O_RDONLY | os.O_NOFOLLOW, _NEW | os.O_NOFOLLOW, os.O_PATH, os.O_PATH | os.O_NOFOLLOW,
    os.O_RDONLY | os.O_TRUNC, _RW | os.O_DIRECTORY, _RW | os.O_SYNC, _NEW | os.O_DSYNC,
    os.O_RDONLY | os.O_CREAT | os.O_DIRECTORY, os.O_RDONLY | os.O_NOATIME, 3,
)  # fmt: skip
SIZES = (0, 1, 100, 4095, 4096, 5000, 70_000, 200_000)
OFFSETS = (0, 1, 3, 4096, 5000, 66_000, 150_000, 1 << 33)
CAPABILITY = struct.pack("<IIIII", 0x02000000, 1 << 10, 0, 0, 0)


class Pick:
    """Draws arguments."""

    def __init__(self, rng: random.Random, features: frozenset[str]) -> None:
        self.rng = rng
        self.features = features

    def path(self) -> str:
        return self.rng.choice(ODD_NAMES if self.rng.random() < 0.06 else NAMES)

    def mode(self) -> int:
        return self.rng.choice(MODES)

    def slot(self) -> int:
        return self.rng.randrange(4)

    def of(self, *values: object) -> object:
        return self.rng.choice(values)

    def size(self) -> int:
        return self.rng.choice(SIZES)

    def offset(self) -> int:
        return self.rng.choice(OFFSETS)

    def data(self) -> bytes:
        return self.rng.randbytes(self.rng.choice((1, 10, 100, 4096, 9000)))

    def owner(self) -> tuple[int, int]:
        """For chown. Never -1 twice: the kernel does not tell that from clearing set-id bits."""
        uid, gid = self.rng.choice((-1, 0, 5001, 5002)), self.rng.choice((-1, 0, 5001, 6001, 6002))
        return (uid, gid) if (uid, gid) != (-1, -1) else (-1, 6001)

    def user(self) -> User:
        return self.rng.choice(USERS)


def step(
    weight: int, needs: str = ""
) -> Callable[[Callable[[Pick], Step]], Callable[[Pick], Step]]:
    """Register a call; `needs` names a feature that not every kernel adapter has."""

    def register(make: Callable[[Pick], Step]) -> Callable[[Pick], Step]:
        STEPS.append((weight, needs, make))
        return make

    return register


def on_file(slot: int, do: Callable[[int], object]) -> Call:
    """A call on an open descriptor, if the slot holds one."""

    def run(side: "Side") -> object:
        return do(side.files[slot]) if slot in side.files else "no file"

    return run


def attempt(call: Callable[..., object], *arguments: object) -> object:
    """The result, or the number of the error."""
    try:
        return call(*arguments)
    except OSError as error:
        return f"errno {error.errno}"


# Descriptors


@step(14)
def open_file(pick: Pick) -> Step:
    slot, path, mode = pick.slot(), pick.path(), pick.mode()
    flags = pick.rng.choice(OPEN_FLAGS)

    def run(side: "Side") -> object:
        side.close_slot(slot)
        side.files[slot] = os.open(side.path(path), flags | os.O_NONBLOCK, mode)
        return stat.S_IFMT(os.fstat(side.files[slot]).st_mode)

    return f"open {path:.30} {flags:o} {mode:o} as {slot}", run


@step(3, "tmpfile")
def open_unnamed(pick: Pick) -> Step:
    slot, path, mode = pick.slot(), pick.of(".", "d1", "d2"), pick.mode()
    flags = os.O_TMPFILE | pick.rng.choice((os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_EXCL))

    def run(side: "Side") -> object:
        side.close_slot(slot)
        side.files[slot] = os.open(side.path(str(path)), flags, mode)
        return None

    return f"tmpfile {path} {flags:o} {mode:o} as {slot}", run


@step(3)
def link_open(pick: Pick) -> Step:
    slot, path = pick.slot(), pick.path()

    def run(side: "Side") -> object:
        if slot not in side.files:
            return "no file"
        return syscalls.link_descriptor(side.files[slot], side.path(path))

    return f"link open {slot} {path:.30}", run


@step(3)
def close_file(pick: Pick) -> Step:
    slot = pick.slot()
    return f"close {slot}", lambda side: side.close_slot(slot)


@step(6)
def write_at(pick: Pick) -> Step:
    slot, offset, data = pick.slot(), pick.offset(), pick.data()
    text = f"pwrite {slot} {offset} {len(data)}"
    return text, on_file(slot, lambda fd: os.pwrite(fd, data, offset))


@step(4)
def write_here(pick: Pick) -> Step:
    slot, data = pick.slot(), pick.data()

    def run(fd: int) -> object:
        """The kernel tells no FUSE file system that a fifo was written to."""
        is_fifo = stat.S_ISFIFO(os.fstat(fd).st_mode)
        return None if is_fifo else os.write(fd, data)

    return f"write {slot} {len(data)}", on_file(slot, run)


@step(2)
def write_appending(pick: Pick) -> Step:
    slot, offset, data = pick.slot(), pick.offset(), pick.data()
    flags = pick.rng.choice((0x10, 0x2, 0x4))  # RWF_APPEND, RWF_DSYNC, RWF_SYNC
    text = f"pwritev {slot} {offset} {len(data)} flags {flags:x}"
    return text, on_file(slot, lambda fd: os.pwritev(fd, [data, data[:7]], offset, flags))


@step(2)
def write_nothing(pick: Pick) -> Step:
    slot = pick.slot()
    return f"write {slot} 0", on_file(slot, lambda fd: os.write(fd, b""))


@step(4)
def read_at(pick: Pick) -> Step:
    slot, offset, size = pick.slot(), pick.offset(), pick.size()
    return f"pread {slot} {offset} {size}", on_file(slot, lambda fd: os.pread(fd, size, offset))


@step(2)
def read_here(pick: Pick) -> Step:
    slot, size = pick.slot(), pick.size()
    return f"read {slot} {size}", on_file(slot, lambda fd: os.read(fd, size))


@step(4)
def truncate_open(pick: Pick) -> Step:
    slot, size = pick.slot(), pick.size()
    return f"ftruncate {slot} {size}", on_file(slot, lambda fd: os.ftruncate(fd, size))


@step(2)
def sync_file(pick: Pick) -> Step:
    slot, call = pick.slot(), pick.rng.choice((os.fsync, os.fdatasync, syscalls.sync_file_system))
    return f"{call.__name__} {slot}", on_file(slot, call)


@step(3)
def change_mode_open(pick: Pick) -> Step:
    slot, mode = pick.slot(), pick.mode()
    return f"fchmod {slot} {mode:o}", on_file(slot, lambda fd: os.fchmod(fd, mode))


@step(2)
def change_owner_open(pick: Pick) -> Step:
    slot, (uid, gid) = pick.slot(), pick.owner()
    return f"fchown {slot} {uid} {gid}", on_file(slot, lambda fd: os.fchown(fd, uid, gid))


@step(3)
def seek(pick: Pick) -> Step:
    slot, offset, whence = pick.slot(), pick.offset(), pick.rng.choice((0, 1, 2))
    back = pick.rng.choice((1, 1, -1))
    text = f"lseek {slot} {back * offset} {whence}"

    def run(fd: int) -> object:
        """Positions in a directory are the file system's own affair."""
        is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        return None if is_directory else os.lseek(fd, back * offset, whence)

    return text, on_file(slot, run)


@step(2, "seek")
def seek_data(pick: Pick) -> Step:
    """The places of holes depend on block sizes; that what is said of them is true does not."""
    slot, offset = pick.slot(), pick.rng.choice((0, 5000, 1 << 34))

    def run(fd: int) -> object:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "no file"
        size, here = os.fstat(fd).st_size, os.lseek(fd, 0, os.SEEK_CUR)
        data, hole = (attempt(os.lseek, fd, offset, whence) for whence in (3, 4))
        os.lseek(fd, here, os.SEEK_SET)
        if offset >= size:
            return data, hole
        begin = size if isinstance(data, str) else int(str(data))
        skipped = os.pread(fd, min(begin - offset, 1 << 20), offset)
        return begin >= offset, offset <= int(str(hole)) <= size, not any(skipped)

    return f"seek data {slot} {offset}", on_file(slot, run)


@step(3, "fallocate")
def allocate(pick: Pick) -> Step:
    slot, offset, size = pick.slot(), pick.offset(), pick.size()
    mode = pick.rng.choice((0, 0, 1, 3, 3, 2, 16, 17))
    text = f"fallocate {slot} {mode} {offset} {size}"
    return text, on_file(slot, lambda fd: syscalls.fallocate(fd, mode, offset, size))


@step(3)
def copy_range(pick: Pick) -> Step:
    source, target = pick.slot(), pick.slot()
    begin, to, size = pick.offset(), pick.offset(), pick.size()

    def run(side: "Side") -> object:
        if source not in side.files or target not in side.files:
            return "no file"
        return os.copy_file_range(side.files[source], side.files[target], size, begin, to)

    return f"copy {source} {begin} to {target} {to} {size}", run


@step(3)
def write_mapped(pick: Pick) -> Step:
    slot, data, shared = pick.slot(), pick.data(), pick.rng.random() < 0.8

    def run(fd: int) -> object:
        size = min(os.fstat(fd).st_size, 1 << 20)
        flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
        with mmap.mmap(fd, size or 4096, flags) as window:
            if not size:
                return None
            begin = size // 2
            window[begin : begin + len(data)] = data[: size - begin]
            return attempt(window.flush)

    return f"mmap {slot} {len(data)} {'shared' if shared else 'private'}", _mapped(slot, run)


def _mapped(slot: int, run: Callable[[int], object]) -> Call:
    def do(side: "Side") -> object:
        try:
            return on_file(slot, run)(side)
        except ValueError as error:
            return str(error)

    return do


@step(2)
def lock_file(pick: Pick) -> Step:
    slot, kind = pick.slot(), pick.rng.choice((fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN))
    return f"flock {slot} {kind}", on_file(slot, lambda fd: fcntl.flock(fd, kind | fcntl.LOCK_NB))


@step(2)
def lock_range(pick: Pick) -> Step:
    slot, start, length = pick.slot(), pick.rng.randrange(9), pick.rng.randrange(5)
    kind = pick.rng.choice((fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK))
    text = f"ofd lock {slot} {kind} {start} {length}"
    return text, on_file(slot, lambda fd: syscalls.lock_descriptor(fd, kind, start, length))


@step(1)
def find_lock(pick: Pick) -> Step:
    slot, start, length = pick.slot(), pick.rng.randrange(9), pick.rng.randrange(5)
    text = f"ofd getlk {slot} {start} {length}"
    return text, on_file(slot, lambda fd: syscalls.find_lock(fd, fcntl.F_WRLCK, start, length))


@step(1)
def device_control(pick: Pick) -> Step:
    slot = pick.slot()
    return f"ioctl {slot}", on_file(slot, lambda fd: fcntl.ioctl(fd, 0x5401, bytes(64)))


# Names


@step(5)
def make_directory(pick: Pick) -> Step:
    path, mode = pick.path(), pick.mode()
    return f"mkdir {path:.30} {mode:o}", lambda side: os.mkdir(side.path(path), mode)


@step(3)
def remove_directory(pick: Pick) -> Step:
    path = pick.path()
    return f"rmdir {path:.30}", lambda side: os.rmdir(side.path(path))


@step(5)
def unlink(pick: Pick) -> Step:
    path = pick.path()
    return f"unlink {path:.30}", lambda side: os.unlink(side.path(path))


@step(10)
def rename(pick: Pick) -> Step:
    old, new = pick.path(), pick.path()
    text = f"rename {old:.30} {new:.30}"
    return text, lambda side: os.rename(side.path(old), side.path(new))


@step(4)
def rename_flagged(pick: Pick) -> Step:
    old, new = pick.path(), pick.path()
    flags = pick.rng.choice((syscalls.NOREPLACE, syscalls.EXCHANGE, syscalls.EXCHANGE, 3, 8))
    text = f"rename {old:.30} {new:.30} flags {flags}"
    return text, lambda side: syscalls.renameat2(side.path(old), side.path(new), flags)


@step(6)
def link(pick: Pick) -> Step:
    old, new, follow = pick.path(), pick.path(), pick.rng.random() < 0.2

    def run(side: "Side") -> object:
        return os.link(side.path(old), side.path(new), follow_symlinks=follow)

    return f"link {old:.30} {new:.30} {'follow' if follow else ''}", run


@step(5)
def symlink(pick: Pick) -> Step:
    target = str(
        pick.of("a", "b", "d1", "d1/a", "s", "missing", "../a", "t" * 4095, "t" * 4096, "")
    )
    path = str(pick.of("s", "f", "d1/b", "d2/d", pick.path()))
    return f"symlink {target:.20} {path:.30}", lambda side: os.symlink(target, side.path(path))


@step(3)
def make_node(pick: Pick) -> Step:
    path, mode = str(pick.of("f", pick.path())), pick.mode()
    kind = pick.rng.choice((stat.S_IFIFO, stat.S_IFIFO, stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK,
                            stat.S_IFSOCK))  # fmt: skip
    device = os.makedev(1, 3) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    text = f"mknod {path:.30} {kind | mode:o}"
    return text, lambda side: os.mknod(side.path(path), kind | mode, device)


@step(1)
def bind_socket(pick: Pick) -> Step:
    path = str(pick.of("f", "d1/b"))

    def run(side: "Side") -> object:
        with socket.socket(socket.AF_UNIX) as endpoint:
            here = os.open(side.path("."), os.O_PATH)
            try:  # a socket's path must be short
                endpoint.bind(f"/proc/self/fd/{here}/{path}")
            finally:
                os.close(here)

    return f"bind {path}", run


@step(2)
def read_link(pick: Pick) -> Step:
    path = pick.path()
    return f"readlink {path:.30}", lambda side: os.readlink(side.path(path))


@step(2)
def list_directory(pick: Pick) -> Step:
    path = pick.path()
    return f"list {path:.30}", lambda side: sorted(os.listdir(side.path(path)))


# Attributes


@step(8)
def change_mode(pick: Pick) -> Step:
    path, mode = pick.path(), pick.mode()
    return f"chmod {path:.30} {mode:o}", lambda side: os.chmod(side.path(path), mode)


@step(6)
def change_owner(pick: Pick) -> Step:
    path, (uid, gid), follow = pick.path(), pick.owner(), pick.rng.random() < 0.5
    call = os.chown if follow else os.lchown
    text = f"{call.__name__} {path:.30} {uid} {gid}"
    return text, lambda side: call(side.path(path), uid, gid)


@step(5)
def truncate(pick: Pick) -> Step:
    path, size = pick.path(), pick.size()
    return f"truncate {path:.30} {size}", lambda side: os.truncate(side.path(path), size)


@step(5)
def set_times(pick: Pick) -> Step:
    path, follow = pick.path(), pick.rng.random() < 0.6
    times = [
        pick.rng.choice((
            (0, 0), (-1, 999_999_999), (-86_400, 1), (12345, 678_901_234), (1 << 33, 5),
            (0, syscalls.UTIME_NOW), (0, syscalls.UTIME_OMIT), (0, 1_000_000_000),
        ))
        for _ in range(2)
    ]  # fmt: skip
    text = f"utimensat {path:.30} {times} {'' if follow else 'nofollow'}"
    return text, lambda side: syscalls.utimensat(side.path(path), *times, follow=follow)


@step(4)
def check_access(pick: Pick) -> Step:
    path = pick.path()
    return f"access {path:.30}", lambda side: [os.access(side.path(path), m) for m in range(8)]


@step(2)
def file_system_facts(pick: Pick) -> Step:
    path = pick.path()

    def run(side: "Side") -> object:
        facts = os.statvfs(side.path(path))
        return facts.f_namemax, facts.f_bavail > 0, facts.f_bsize == facts.f_frsize

    return f"statvfs {path:.30}", run


# Extended attributes

XATTRS = (
    "user.a", "user.a", "user.b", "trusted.t", "security.s", "system.x", "nothing", "user.",
    "user." + "n" * 250, "user." + "n" * 251, "security.capability", "",
)  # fmt: skip


@step(5)
def set_xattr(pick: Pick) -> Step:
    path, name, follow = pick.path(), pick.rng.choice(XATTRS), pick.rng.random() < 0.7
    size, flags = pick.rng.choice((0, 1, 20, 2000)), pick.rng.choice((0, 0, 0, 1, 2, 3, 4))
    flags = 0 if flags == 3 and "xattr_flags" not in pick.features else flags
    value = CAPABILITY if name == "security.capability" else pick.rng.randbytes(size)

    def run(side: "Side") -> object:
        return os.setxattr(side.path(path), name, value, flags, follow_symlinks=follow)

    return f"setxattr {path:.30} {name:.20} {len(value)} {flags} {follow}", run


@step(3)
def get_xattr(pick: Pick) -> Step:
    path, name, follow = pick.path(), pick.rng.choice(XATTRS), pick.rng.random() < 0.7

    def run(side: "Side") -> object:
        listed = sorted(os.listxattr(side.path(path), follow_symlinks=follow))
        return listed, attempt(_get_xattr, side.path(path), name, follow)

    return f"getxattr {path:.30} {name:.20} {follow}", run


def _get_xattr(path: str, name: str, follow: bool) -> bytes:
    return os.getxattr(path, name, follow_symlinks=follow)


@step(3)
def remove_xattr(pick: Pick) -> Step:
    path, name, follow = pick.path(), pick.rng.choice(XATTRS), pick.rng.random() < 0.7

    def run(side: "Side") -> object:
        return os.removexattr(side.path(path), name, follow_symlinks=follow)

    return f"removexattr {path:.30} {name:.20} {follow}", run


ENTRY = struct.Struct("<HHI")
NOBODY = 0xFFFFFFFF


def access_list(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX access control list as the kernel takes it."""
    return struct.pack("<I", 2) + b"".join(ENTRY.pack(*entry) for entry in entries)


@step(5)
def set_acl(pick: Pick) -> Step:
    path, kind = pick.path(), pick.rng.choice(("access", "default"))
    bits = [pick.rng.randrange(8) for _ in range(6)]
    base = [(1, bits[0], NOBODY), (4, bits[1], NOBODY), (32, bits[2], NOBODY)]
    rich = [
        base[0],
        (2, bits[3], 5001),
        base[1],
        (8, bits[4], 6001),
        (16, bits[5], NOBODY),
        base[2],
    ]
    raw = access_list(*pick.rng.choice((base, rich, rich, rich, rich[:3], [*base, base[0]])))
    name = f"system.posix_acl_{kind}"
    return f"setacl {path:.30} {kind} {raw.hex()}", lambda side: os.setxattr(
        side.path(path), name, raw
    )


@step(2)
def get_acl(pick: Pick) -> Step:
    path, kind = pick.path(), pick.rng.choice(("access", "default"))
    name = f"system.posix_acl_{kind}"
    return f"getacl {path:.30} {kind}", lambda side: os.getxattr(side.path(path), name)


@step(2)
def remove_acl(pick: Pick) -> Step:
    path, kind = pick.path(), pick.rng.choice(("access", "default"))
    name = f"system.posix_acl_{kind}"
    return f"rmacl {path:.30} {kind}", lambda side: os.removexattr(side.path(path), name)


@step(2)
def change_root(pick: Pick) -> Step:
    """Sticky, set-group-id and default-list directories, made on purpose rather than by luck."""
    path, mode = pick.of(".", "d1", "d2"), pick.of(0o1777, 0o2777, 0o3777, 0o777)
    return f"chmod {path} {mode:o}", lambda side: os.chmod(side.path(str(path)), int(mode))


def random_step(rng: random.Random, features: frozenset[str]) -> tuple[str, User, int, Call]:
    """One call with random arguments: its description, who makes it, the umask, the call."""
    usable = [(weight, make) for weight, needs, make in STEPS if not needs or needs in features]
    pick = Pick(rng, features)
    make = rng.choices([make for _, make in usable], [weight for weight, _ in usable])[0]
    text, call = make(pick)
    user, umask = pick.user(), rng.choice((0o022, 0o022, 0, 0o077, 0o027))
    return f"{text} by {user.uid} umask {umask:o}", user, umask, call


assert ctypes.sizeof(ctypes.c_long) == 8, "the layouts above are those of 64-bit Linux"
