"""The same random system calls on two directories: everything they return must be the same.

One is on a file system that is known to be right. Results, error numbers, attributes, listings
and contents are compared after each step, so the first difference names the call that made it.
"""

import ctypes
import errno
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
NAMES = ("a", "b", "c", "d1", "d2", "d1/e", "d1/f", "d2/g", "d2/h", "d1/s", "n" * 255, "n" * 256)
MODES = (0o644, 0o600, 0o755, 0o4755, 0o2755, 0o1777, 0)
NOREPLACE, EXCHANGE = 1, 2


class Side:
    """One of the two directories."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.files: dict[int, int] = {}

    def path(self, name: str) -> str:
        return f"{self.base}/{name}"

    def call(self, do: Callable[["Side"], object]) -> object:
        try:
            return do(self)
        except OSError as error:
            return errno.errorcode.get(error.errno, error.errno)

    def describe(self) -> dict[str, object]:
        """Everything below, without what must differ (numbers, times, blocks)."""
        seen: dict[str, object] = {}
        inodes: dict[int, str] = {}
        for root, directories, files in os.walk(self.base):
            for name in sorted([*directories, *files]):
                path = os.path.join(root, name)
                short = os.path.relpath(path, self.base)
                facts = os.lstat(path)
                twin = inodes.setdefault(facts.st_ino, short)
                size = 0 if stat.S_ISDIR(facts.st_mode) else facts.st_size
                seen[short] = (
                    oct(facts.st_mode), facts.st_nlink, facts.st_uid, facts.st_gid, size, twin,
                    self._content(path, facts), facts.st_rdev,
                )  # fmt: skip
        return seen

    def _content(self, path: str, facts: os.stat_result) -> object:
        if stat.S_ISLNK(facts.st_mode):
            return os.readlink(path)
        if stat.S_ISREG(facts.st_mode):
            names = sorted(n for n in os.listxattr(path) if n.startswith("user."))
            with open(path, "rb") as file:
                return file.read(), [(name, os.getxattr(path, name)) for name in names]
        return None

    def close(self) -> None:
        for descriptor in self.files.values():
            os.close(descriptor)
        self.files.clear()


def renameat2(old: str, new: str, flags: int) -> None:
    if LIBC.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def random_step(rng: random.Random) -> tuple[str, Callable[[Side], object]]:
    """One call with random arguments, and its description."""
    x, y, mode = rng.choice(NAMES), rng.choice(NAMES), rng.choice(MODES)
    size, data = rng.choice((0, 1, 5000, 70_000)), rng.randbytes(rng.choice((1, 100, 9000)))
    slot, offset = rng.randrange(4), rng.choice((0, 3, 4096, 66_000))
    flags = rng.choice((
        os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_RDWR | os.O_TRUNC,
        os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_RDONLY | os.O_DIRECTORY,
        os.O_RDWR | os.O_NOFOLLOW,
    ))  # fmt: skip

    def reopen(side: Side) -> object:
        if slot in side.files:
            os.close(side.files.pop(slot))
        side.files[slot] = os.open(side.path(x), flags, mode)
        return None

    def with_file(do: Callable[[int], object]) -> Callable[[Side], object]:
        def run(side: Side) -> object:
            return do(side.files[slot]) if slot in side.files else None

        return run

    def seek(fd: int) -> object:
        return [_try(os.lseek, fd, offset, whence) for whence in (os.SEEK_END, os.SEEK_CUR)]

    name = f"user.{rng.randrange(3)}"
    steps: list[tuple[str, Callable[[Side], object]]] = [
        (f"open {x} {flags:o} {mode:o} as {slot}", reopen),
        (f"write {slot} {offset} {len(data)}", with_file(lambda fd: os.pwrite(fd, data, offset))),
        (f"append {slot} {len(data)}", with_file(lambda fd: os.write(fd, data))),
        (f"read {slot} {offset} {size}", with_file(lambda fd: os.pread(fd, size, offset))),
        (f"ftruncate {slot} {size}", with_file(lambda fd: os.ftruncate(fd, size))),
        (f"fstat {slot}", with_file(lambda fd: _short(os.fstat(fd)))),
        (f"fsync {slot}", with_file(os.fsync)),
        (f"fchmod {slot} {mode:o}", with_file(lambda fd: os.fchmod(fd, mode))),
        (f"seek {slot} {offset}", with_file(seek)),
        (f"fallocate {slot} {offset} {size}",
         with_file(lambda fd: os.posix_fallocate(fd, offset, size))),
        (f"mkdir {x} {mode:o}", lambda side: os.mkdir(side.path(x), mode)),
        (f"rmdir {x}", lambda side: os.rmdir(side.path(x))),
        (f"unlink {x}", lambda side: os.unlink(side.path(x))),
        (f"rename {x} {y}", lambda side: os.rename(side.path(x), side.path(y))),
        (f"rename {x} {y}", lambda side: os.rename(side.path(x), side.path(y))),
        (f"noreplace {x} {y}", lambda side: renameat2(side.path(x), side.path(y), NOREPLACE)),
        (f"exchange {x} {y}", lambda side: renameat2(side.path(x), side.path(y), EXCHANGE)),
        (f"link {x} {y}", lambda side: os.link(side.path(x), side.path(y), follow_symlinks=False)),
        (f"symlink {x} {y}", lambda side: os.symlink(x, side.path(y))),
        (f"mkfifo {x}", lambda side: os.mkfifo(side.path(x), mode)),
        (f"chmod {x} {mode:o}", lambda side: os.chmod(side.path(x), mode)),
        (f"chown {x}", lambda side: os.lchown(side.path(x), slot, offset % 9)),
        (f"truncate {x} {size}", lambda side: os.truncate(side.path(x), size)),
        (f"utime {x}", lambda side: os.utime(side.path(x), ns=(offset, -size - 1))),
        (f"mtime {x}", lambda side: os.stat(side.path(x)).st_mtime_ns
         if os.stat(side.path(x)).st_mtime_ns < 0 else None),
        (f"setxattr {x} {name}", lambda side: os.setxattr(side.path(x), name, data)),
        (f"removexattr {x} {name}", lambda side: os.removexattr(side.path(x), name)),
        (f"access {x}", lambda side: [os.access(side.path(x), m) for m in (4, 2, 1)]),
        (f"stat {x}", lambda side: _short(os.stat(side.path(x)))),
    ]  # fmt: skip
    return rng.choice(steps)


def _try(call: Callable[..., object], *arguments: object) -> object:
    try:
        return call(*arguments)
    except OSError as error:
        return error.errno


def _short(facts: os.stat_result) -> tuple[object, ...]:
    size = 0 if stat.S_ISDIR(facts.st_mode) else facts.st_size
    return oct(facts.st_mode), facts.st_nlink, size, facts.st_uid, facts.st_gid


def compare(right: Path, tested: Path, seed: int, steps: int) -> None:
    """Run `steps` calls on both. Raises AssertionError with the calls so far."""
    rng = random.Random(seed)
    sides = (Side(right), Side(tested))
    done: list[str] = []
    try:
        for number in range(steps):
            text, do = random_step(rng)
            results = [side.call(do) for side in sides]
            done.append(f"{text} -> {results[0]!r:.80}")
            assert results[0] == results[1], (seed, text, results, done[-12:])
            if number % 5 == 0:
                expected, found = (side.describe() for side in sides)
                different = {
                    key: (expected.get(key), found.get(key))
                    for key in expected.keys() | found.keys()
                    if expected.get(key) != found.get(key)
                }
                assert not different, (seed, f"{different!r:.600}", done[-12:])
    finally:
        for side in sides:
            side.close()
