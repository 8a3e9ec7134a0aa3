"""Every operation of the file system with arbitrary arguments: it answers or fails, foreseeably.

No kernel stands between, so names with slashes, negative offsets and numbers of any size arrive.
An error other than `FsError` is a fault, and so is a volume that cannot be saved afterwards.
"""

import random
from collections import Counter

from piperfs.core.errors import FsError
from piperfs.fs.api import Caller, SetAttr
from tests.support.computers import Computer

NUMBERS = (
    0, 1, 2, 3, 16, 255, 4095, 4096, 70_000, 1 << 20, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63,
    (1 << 64) - 1, 1 << 70, -1, -4096, -(1 << 63), -(1 << 70),
)  # fmt: skip
NAMES = (
    b"a", b"b", b"c", b"d", b"", b".", b"..", b"/", b"a/b", b"\0", b"a\0b", b"n" * 255, b"n" * 256,
    b"\xff", b".piperfs", b"orphans", b"x" * 10_000,
)  # fmt: skip
XATTRS = (
    b"user.a", b"user.", b"", b"trusted.t", b"security.capability", b"system.posix_acl_access",
    b"system.posix_acl_default", b"user.piperfs.conflict", b"user." + b"n" * 251, b"\xff",
    b"user.piperfs.", b"system.",
)  # fmt: skip
DATA_BYTES_MAX = 1 << 20  # the kernel never sends more at once


class ArgumentsFuzz:
    """Calls one operation after the other on one computer."""

    def __init__(self, computer: Computer, seed: int) -> None:
        self.computer, self.fs = computer, computer.fs
        self.rng = random.Random(seed)
        self.inos, self.handles = [1], [1]
        self.outcomes: Counter[str] = Counter()
        self.operations = [
            getattr(self, name) for name in sorted(vars(ArgumentsFuzz)) if name.startswith("do_")
        ]

    def run(self, count: int) -> None:
        for number in range(count):
            operation = self.rng.choice(self.operations)
            try:
                operation()
                self.outcomes["granted"] += 1
            except FsError as error:
                self.outcomes[error.kind.name] += 1
            if number % 400 == 0:
                self.computer.commit()
        for handle in self.handles:
            self.fs.release(handle)
        self.computer.commit()
        self.walk(1)

    def walk(self, ino: int) -> None:
        """Everything can still be listed and looked up."""
        fh = self.fs.opendir(ino)
        for entry in self.fs.readdir(fh, 0, plus=False, count=1 << 20)[2:]:
            child = self.fs.lookup(ino, entry.name)
            assert child.ino == entry.ino, (entry, child)
            if entry.mode >> 12 == 0o04:
                self.walk(child.ino)
        self.fs.release(fh)

    # Arguments

    def ino(self) -> int:
        return self.rng.choice(NUMBERS if self.rng.random() < 0.05 else self.inos[-30:])

    def fh(self) -> int:
        return self.rng.choice(NUMBERS if self.rng.random() < 0.05 else self.handles[-10:])

    def number(self) -> int:
        return self.rng.choice(NUMBERS)

    def name(self) -> bytes:
        return self.rng.choice(NAMES)

    def data(self) -> bytes:
        return self.rng.randbytes(self.rng.choice((0, 1, 100, 5000, 300_000)))

    def flags(self) -> int:
        return self.rng.choice((0, 1, 2, 3, 4, 0o1000, 0o1002, 0o200, 0o202, *NUMBERS))

    def caller(self) -> Caller:
        return Caller(self.rng.choice((0, 1000)), self.rng.choice((0, 1000)), 1, 0o22)

    def size(self) -> int:
        return self.rng.choice((0, 1, 4096, 100_000, DATA_BYTES_MAX))

    def maybe(self) -> int | None:
        return self.rng.choice((None, None, self.number()))

    # Operations

    def do_lookup(self) -> None:
        self.inos.append(self.fs.lookup(self.ino(), self.name()).ino)

    def do_forget(self) -> None:
        self.fs.forget(self.ino(), self.rng.choice((0, 1, 5, 1 << 64)))

    def do_getattr(self) -> None:
        self.fs.getattr(self.ino())

    def do_setattr(self) -> None:
        change = SetAttr(*(self.maybe() for _ in range(6)), kill_suidgid=self.rng.random() < 0.3)
        if change.uid is not None or change.gid is not None:
            change = SetAttr(uid=1000, gid=0)
        self.fs.setattr(self.ino(), change, None, self.caller())

    def do_readlink(self) -> None:
        self.fs.readlink(self.ino())

    def do_mknod(self) -> None:
        mode = self.rng.choice((0o100644, 0o010644, 0o020644, 0o060644, 0o140644, *NUMBERS))
        made = self.fs.mknod(self.ino(), self.name(), mode, self.number(), self.caller())
        self.inos.append(made.ino)

    def do_mkdir(self) -> None:
        made = self.fs.mkdir(self.ino(), self.name(), self.number(), self.caller())
        self.inos.append(made.ino)

    def do_symlink(self) -> None:
        target = self.rng.choice((b"a", b"", b"t" * 4095, b"t" * 4096, b"\0", b"\xff"))
        made = self.fs.symlink(self.ino(), self.name(), target, self.caller())
        self.inos.append(made.ino)

    def do_link(self) -> None:
        self.fs.link(self.ino(), self.ino(), self.name())

    def do_unlink(self) -> None:
        self.fs.unlink(self.ino(), self.name())

    def do_rmdir(self) -> None:
        self.fs.rmdir(self.ino(), self.name())

    def do_rename(self) -> None:
        flags = self.rng.choice((0, 0, 0, 1, 2, 3, 4, *NUMBERS))
        self.fs.rename(self.ino(), self.name(), self.ino(), self.name(), flags)

    def do_open(self) -> None:
        self.handles.append(self.fs.open(self.ino(), self.flags()).fh)

    def do_create(self) -> None:
        attr, opened = self.fs.create(
            self.ino(), self.name(), self.number(), self.flags(), self.caller()
        )
        self.inos.append(attr.ino)
        self.handles.append(opened.fh)

    def do_tmpfile(self) -> None:
        attr, opened = self.fs.tmpfile(self.ino(), self.number(), self.flags(), self.caller())
        self.inos.append(attr.ino)
        self.handles.append(opened.fh)

    def do_read(self) -> None:
        self.fs.read(self.fh(), self.number(), self.size())

    def do_write(self) -> None:
        self.fs.write(self.fh(), self.number(), self.data())

    def do_release(self) -> None:
        fh = self.fh()
        self.computer.close(fh)

    def do_fallocate(self) -> None:
        mode = self.rng.choice((0, 1, 3, 16, 17, 8, 32, *NUMBERS))
        self.fs.fallocate(self.fh(), mode, self.number(), self.number())

    def do_seek(self) -> None:
        self.fs.seek(self.fh(), self.number(), self.rng.choice((3, 4, *NUMBERS)))

    def do_copy_range(self) -> None:
        self.fs.copy_range(self.fh(), self.number(), self.fh(), self.number(), self.size())

    def do_opendir(self) -> None:
        self.handles.append(self.fs.opendir(self.ino()))

    def do_readdir(self) -> None:
        plus = self.rng.random() < 0.5
        self.fs.readdir(self.fh(), self.number(), plus=plus, count=self.size())

    def do_getxattr(self) -> None:
        self.fs.getxattr(self.ino(), self.rng.choice(XATTRS))

    def do_listxattr(self) -> None:
        self.fs.listxattr(self.ino(), self.caller())

    def do_setxattr(self) -> None:
        value = self.rng.choice((b"", self.data(), b"\x02\0\0\0", bytes(28)))
        name = self.rng.choice(XATTRS)
        self.fs.setxattr(self.ino(), name, value, self.number(), self.caller())

    def do_removexattr(self) -> None:
        self.fs.removexattr(self.ino(), self.rng.choice(XATTRS))

    def do_kill_suidgid(self) -> None:
        self.fs.kill_suidgid(self.ino(), self.caller())

    def do_statfs(self) -> None:
        self.fs.statfs()

    def do_chunks_from(self) -> None:
        self.fs.chunks_from(self.fh(), self.number(), self.size())
