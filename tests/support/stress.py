"""Several processes at once do anything to one tree: nothing may hang, fail oddly, or be lost.

What a call returns depends on what the others do, so nothing is compared call by call. Errors
that no local file system gives here are faults, and so is a call that takes a minute. Afterwards
the tree must read the same before and after a remount.
"""

import errno
import hashlib
import mmap
import multiprocessing
import os
import random
import shutil
import signal
import stat
import time
from pathlib import Path

ALLOWED = {
    errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EINVAL,
    errno.ELOOP, errno.EPERM, errno.ENODATA, errno.EMLINK, errno.EXDEV, errno.EBADF,
    errno.ENXIO, errno.ESPIPE, errno.EAGAIN,  # of fifos
}  # fmt: skip
HANG_S = 60
DEPTH = 3


class Worker:
    """One process's share."""

    def __init__(self, base: Path, seed: int) -> None:
        self.base, self.rng = str(base), random.Random(seed)
        self.calls = 0
        self.actions = [
            *[self.write] * 8, *[self.read] * 6, *[self.make] * 3, *[self.unlink] * 5,
            *[self.rename] * 5, *[self.link] * 2, *[self.symlink] * 2, *[self.listing] * 2,
            *[self.status] * 6, *[self.truncate] * 2, self.xattrs, self.sync, self.mapped,
            self.copy, self.remove, self.fifo, self.times, self.unlinked,
        ]  # fmt: skip

    def path(self) -> str:
        parts = [f"{self.rng.choice('abcd')}{self.rng.randrange(4)}" for _ in range(DEPTH)]
        return "/".join([self.base, *parts[: self.rng.randrange(1, DEPTH + 1)]])

    def run(self, seconds: float) -> None:
        signal.signal(signal.SIGALRM, _hang)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            action = self.rng.choice(self.actions)
            signal.alarm(HANG_S)
            try:
                action()
            except OSError as error:
                if error.errno not in ALLOWED:
                    raise RuntimeError(f"{action.__name__}: {error!r}") from error
            except ValueError:
                pass  # a file that somebody shortened is too short to map
            signal.alarm(0)
            self.calls += 1

    def write(self) -> None:
        flags = self.rng.choice((os.O_WRONLY, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_APPEND))
        fd = os.open(self.path(), flags | os.O_CREAT | os.O_NONBLOCK, 0o644)
        try:
            for _ in range(self.rng.randrange(4)):
                data = self.rng.randbytes(self.rng.choice((10, 4096, 100_000)))
                os.pwrite(fd, data, self.rng.choice((0, 5000, 300_000)))
        finally:
            os.close(fd)

    def read(self) -> None:
        fd = os.open(self.path(), os.O_RDONLY | os.O_NONBLOCK)
        try:
            for _ in range(8):  # and no more: some files are a terabyte of nothing
                os.read(fd, 128 << 10)
        finally:
            os.close(fd)

    def make(self) -> None:
        os.makedirs(self.path(), exist_ok=True)

    def unlink(self) -> None:
        os.unlink(self.path())

    def remove(self) -> None:
        shutil.rmtree(self.path(), ignore_errors=True)

    def rename(self) -> None:
        os.rename(self.path(), self.path())

    def link(self) -> None:
        os.link(self.path(), self.path(), follow_symlinks=False)

    def symlink(self) -> None:
        os.symlink(self.path(), self.path())

    def fifo(self) -> None:
        os.mkfifo(self.path())

    def listing(self) -> None:
        for entry in os.scandir(self.path()):
            entry.stat(follow_symlinks=False)

    def status(self) -> None:
        os.lstat(self.path())

    def truncate(self) -> None:
        os.truncate(self.path(), self.rng.choice((0, 100, 200_000, 1 << 40)))

    def times(self) -> None:
        os.utime(self.path(), ns=(self.rng.randrange(1 << 60),) * 2, follow_symlinks=False)

    def xattrs(self) -> None:
        path = self.path()
        os.setxattr(path, f"user.{self.rng.randrange(4)}", self.rng.randbytes(50))
        os.listxattr(path)
        os.removexattr(path, f"user.{self.rng.randrange(4)}")

    def sync(self) -> None:
        fd = os.open(self.path(), os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def mapped(self) -> None:
        fd = os.open(self.path(), os.O_RDWR | os.O_NONBLOCK)
        try:
            length = min(os.fstat(fd).st_size, 1 << 20)
            os.posix_fallocate(fd, 0, max(length, 5000))
            with mmap.mmap(fd, 5000, mmap.MAP_PRIVATE, mmap.PROT_READ) as window:
                bytes(window[:1])
        finally:
            os.close(fd)

    def copy(self) -> None:
        source = os.open(self.path(), os.O_RDONLY | os.O_NONBLOCK)
        try:
            target = os.open(self.path(), os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK)
            try:
                os.copy_file_range(source, target, 200_000)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def unlinked(self) -> None:
        """A file that is read and written after its name is gone, as temporary files are."""
        path = f"{self.base}/tmp-{os.getpid()}-{self.rng.randrange(1 << 60)}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            data = self.rng.randbytes(20_000)
            os.write(fd, data[:9000])
            os.unlink(path)
            os.write(fd, data[9000:])
            found = os.pread(fd, 30_000, 0)
            if found != data or os.fstat(fd).st_nlink:
                raise RuntimeError("an unlinked file lost its bytes")
        finally:
            os.close(fd)


def _hang(_signal: int, _frame: object) -> None:
    raise RuntimeError(f"a call took longer than {HANG_S} s")


def stress(base: Path, seed: int, seconds: float, processes: int = 4) -> int:
    """Run the workers; returns how many calls they made. Raises RuntimeError."""
    base.mkdir(exist_ok=True)
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[int | str] = context.Queue()
    workers = [
        context.Process(target=_work, args=(base, seed * 100 + number, seconds, results))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    answers = [results.get(timeout=seconds + 3 * HANG_S) for _ in workers]
    for worker in workers:
        worker.join()
    faults = [answer for answer in answers if isinstance(answer, str)]
    if faults:
        raise RuntimeError("; ".join(faults))
    return sum(answer for answer in answers if isinstance(answer, int))


def _work(
    base: Path, seed: int, seconds: float, results: "multiprocessing.Queue[int | str]"
) -> None:
    worker = Worker(base, seed)
    try:
        worker.run(seconds)
    except RuntimeError as error:
        results.put(str(error))
    else:
        results.put(worker.calls)


def fingerprint(base: Path) -> dict[str, object]:
    """What a tree holds: every attribute that must survive a remount, and all bytes."""
    seen: dict[str, object] = {}
    for root, directories, files in os.walk(base):
        for name in (*directories, *files):
            path = os.path.join(root, name)
            facts = os.lstat(path)
            seen[path] = (
                facts.st_ino, facts.st_mode, facts.st_nlink, facts.st_size, facts.st_mtime_ns,
                facts.st_ctime_ns, facts.st_atime_ns, _bytes_of(path, facts),
            )  # fmt: skip
    return seen


def _bytes_of(path: str, facts: os.stat_result) -> str:
    if stat.S_ISLNK(facts.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(facts.st_mode):
        return ""
    digest = hashlib.blake2b()
    with open(path, "rb") as file:
        digest.update(file.read(1 << 21))
    return digest.hexdigest()
