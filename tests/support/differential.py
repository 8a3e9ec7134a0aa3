"""The same random system calls on two directories: everything that can be seen must be the same.

One lies on a file system that is known to be right. After each call its result, and every
attribute of every object, are compared, so the first difference names the call that made it.
Times cannot be equal; whether a call changed them must be. A failing sequence is shrunk to the
few calls that matter.
"""

import errno
import os
import random
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.steps import Call, attempt, random_step
from tests.support.syscalls import ROOT, User, acting_as

KERNEL_FEATURES = frozenset({"tmpfile", "seek", "fallocate", "umask", "xattr_flags"})
FEATURES = {"kernel": KERNEL_FEATURES, "pyfuse3": frozenset[str]()}
LONG_AGO_NS = 10**18  # times before September 2001 were set on purpose, and are compared exactly
WHOLE_BYTES_MAX = 1 << 20
CONTENT_EVERY = 8


@dataclass(frozen=True)
class Step:
    """One call, drawn and ready to be made."""

    text: str
    user: User
    umask: int
    call: Call


class Difference(AssertionError):  # noqa: N818 - it is what was looked for
    """The two sides differ after a step."""

    def __init__(self, number: int, step: Step, what: str) -> None:
        super().__init__(f"after '{step.text}': {what}")
        self.number, self.step, self.what = number, step, what


Times = dict[str, tuple[int, int, int, int]]  # inode number, atime, mtime, ctime


@dataclass
class Side:
    """One of the two directories."""

    base: str
    files: dict[int, int] = field(default_factory=dict)
    times: Times = field(default_factory=dict)

    def path(self, name: str) -> str:
        return f"{self.base}/{name}" if name else ""

    def call(self, step: Step) -> object:
        before = os.umask(step.umask)
        try:
            with acting_as(step.user):
                return step.call(self)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, error.errno)
        finally:
            os.umask(before)

    def describe(self, *, contents: bool) -> dict[str, object]:
        """Every object below and every open file, without what must differ."""
        facts = {".": os.lstat(self.base)}
        self._collect(self.base, "", facts)
        facts |= {f"fd {slot}": os.fstat(fd) for slot, fd in self.files.items()}
        seen, twins = {}, dict[int, str]()
        times: Times = {}
        for name, found in facts.items():
            twin = twins.setdefault(found.st_ino, name)
            times[name] = found.st_ino, found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns
            seen[name] = (*_facts(found), twin, *self._moved(name, times[name]),
                          self._extras(name, found, contents=contents))  # fmt: skip
        self.times = times
        return seen

    def _collect(self, path: str, short: str, facts: dict[str, os.stat_result]) -> None:
        for name in sorted(os.listdir(path)):
            found = os.lstat(f"{path}/{name}")
            facts[f"{short}{name}"] = found
            if stat.S_ISDIR(found.st_mode):
                self._collect(f"{path}/{name}", f"{short}{name}/", facts)

    def _moved(self, name: str, now: tuple[int, int, int, int]) -> tuple[object, ...]:
        """Which times the step moved. A time set by hand to long ago is shown as it is."""
        before = self.times.get(name)
        if before is None or before[0] != now[0]:
            return tuple(t if t < LONG_AGO_NS else "new" for t in now[1:])
        return tuple(
            new if new < LONG_AGO_NS else (new > old) - (new < old)
            for old, new in zip(before[1:], now[1:], strict=True)
        )

    def _extras(self, name: str, found: os.stat_result, *, contents: bool) -> object:
        path: str | int = self.files[int(name[3:])] if name.startswith("fd ") else self.path(name)
        if isinstance(path, int):
            return attempt(_read_open, path, found.st_size) if contents else None
        if stat.S_ISLNK(found.st_mode):
            return os.readlink(path)
        xattrs = {
            each: os.getxattr(path, each, follow_symlinks=False)
            for each in sorted(os.listxattr(path, follow_symlinks=False))
        }
        if contents and stat.S_ISREG(found.st_mode):
            with open(path, "rb") as file:
                return xattrs, _read_open(file.fileno(), found.st_size)
        return xattrs

    def close_slot(self, slot: int) -> None:
        """Close what a slot holds, if anything; what it will hold next is another file."""
        self.times.pop(f"fd {slot}", None)
        if slot in self.files:
            os.close(self.files.pop(slot))

    def close(self) -> None:
        for descriptor in self.files.values():
            os.close(descriptor)
        self.files.clear()


def _facts(found: os.stat_result) -> tuple[object, ...]:
    """Sizes of directories are the file system's own affair."""
    size = -1 if stat.S_ISDIR(found.st_mode) else found.st_size
    return oct(found.st_mode), found.st_nlink, found.st_uid, found.st_gid, size, found.st_rdev


def _read_open(fd: int, size: int) -> bytes:
    if size <= WHOLE_BYTES_MAX:
        return os.pread(fd, size + 1, 0)
    return b"".join(os.pread(fd, 70_000, at) for at in (0, 60_000, 140_000, 1 << 33, size - 9))


def draw(seed: int, count: int, features: frozenset[str]) -> list[Step]:
    """The steps of a seed; nothing that happens changes them."""
    rng = random.Random(seed)
    return [Step(*random_step(rng, features)) for _ in range(count)]


def play(right: Path, tested: Path, steps: Sequence[Step]) -> None:
    """Make all steps on both sides. Raises Difference at the first that shows one."""
    sides = tuple(_fresh(base) for base in (right, tested))
    try:
        for number, step in enumerate(steps):
            results = [side.call(step) for side in sides]
            if results[0] != results[1]:
                raise Difference(number, step, f"{results[0]!r:.300} became {results[1]!r:.300}")
            contents = number % CONTENT_EVERY == 0 or number == len(steps) - 1
            expected, found = (side.describe(contents=contents) for side in sides)
            if expected != found:
                raise Difference(number, step, _explain(expected, found))
    finally:
        for side in sides:
            side.close()


def _fresh(base: Path) -> Side:
    """An empty directory for a sequence, two levels below so that `..` is the same too."""
    shutil.rmtree(base, ignore_errors=True)
    (base / "right-or-tested").mkdir(parents=True)
    base.chmod(0o755)
    side = Side(str(base / "right-or-tested"))
    os.chmod(side.base, 0o777)
    side.call(Step("", ROOT, 0o022, lambda side: _populate(side.base)))
    side.describe(contents=False)
    return side


def _populate(base: str) -> None:
    os.mkdir(f"{base}/d1", 0o755)
    os.mkdir(f"{base}/d2", 0o755)
    os.chmod(f"{base}/d2", 0o1777)
    with open(f"{base}/a", "wb") as file:
        file.write(b"hello")
    os.chmod(f"{base}/a", 0o666)


def _explain(expected: dict[str, object], found: dict[str, object]) -> str:
    lines = []
    for key in sorted(expected.keys() | found.keys()):
        right, wrong = expected.get(key), found.get(key)
        if right == wrong:
            continue
        if isinstance(right, tuple) and isinstance(wrong, tuple):
            lines += [
                f"{key} {label}: {r!r:.200} became {w!r:.200}"
                for label, r, w in zip(LABELS, right, wrong, strict=True)
                if r != w
            ]
        else:
            lines.append(f"{key}: {right!r:.200} became {wrong!r:.200}")
    return "; ".join(lines)


LABELS = (
    "mode", "links", "uid", "gid", "size", "device", "number", "atime", "mtime", "ctime", "content",
)  # fmt: skip


def shrink(
    steps: Sequence[Step],
    found: Difference,
    fails: Callable[[Sequence[Step]], Difference | None],
) -> Difference:
    """Leave out steps as long as a difference remains; returns the last one, with its steps."""
    current = list(steps[: found.number + 1])
    size = max(1, len(current) // 2)
    while size:
        begin = 0
        while begin < len(current):
            shorter = current[:begin] + current[begin + size :]
            failed = fails(shorter) if shorter else None
            if failed is not None:
                current, found = shorter[: failed.number + 1], failed
            else:
                begin += size
        size //= 2
    found.add_note("\n".join(step.text for step in current))
    return found


def compare(right: Path, tested: Path, seed: int, count: int, driver: str = "kernel") -> None:
    """One sequence. Raises Difference, shrunk, with the seed in its text."""
    steps = draw(seed, count, FEATURES[driver])

    def fails(some: Sequence[Step]) -> Difference | None:
        try:
            play(right, tested, some)
        except Difference as difference:
            return difference
        return None

    found = fails(steps)
    if found is not None:
        raise shrink(steps, found, fails)
