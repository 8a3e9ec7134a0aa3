"""Random changes of one file's bytes through every door there is, against a model in memory.

Buffered, direct and mapped writes, appends, truncation, holes, copies inside the file and from
another one; between them syncs, closing, forgotten caches and whole remounts. After every step
that reads, and at the end of each burst, the bytes must be those of the model.
"""

import mmap
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support import syscalls

ALIGNED = 4096
HISTORY = 40


@dataclass(frozen=True)
class Limits:
    """How large the file gets, and one write."""

    file: int = 600_000
    write: int = 70_000


SMALL = Limits()
LARGE = Limits(24 << 20, 5 << 20)  # large enough to be sealed beside the writer


class Wrong(AssertionError):  # noqa: N818 - it is what was looked for
    """The file differs from the model."""


class DataTorture:
    """One file, its model, and descriptors of several kinds."""

    def __init__(
        self, folder: Path, seed: int, limits: Limits, features: frozenset[str],
        remount: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self.rng = random.Random(seed)
        self.limits = limits
        self.path, self.other_path = folder / "file", folder / "other"
        self.model = bytearray()
        self.other = self.rng.randbytes(limits.file // 2)
        self.other_path.write_bytes(self.other)
        self.path.write_bytes(b"")
        self.done: list[str] = []
        self.remount = remount
        self.buffered = self.direct = self.appending = self.source = -1
        self._open()
        self._syncer: threading.Thread | None = None
        self.actions = [
            *[self.write] * 8, *[self.read] * 6, *[self.append] * 3, *[self.write_mapped] * 4,
            *[self.truncate] * 4, *[self.write_direct] * 3, *[self.read_direct] * 2,
            *[self.copy_inside] * 2, *[self.copy_from] * 2, self.sync, self.sync_behind,
            self.reopen, self.forget, self.write_pieces, self.replace, self.check,
        ]  # fmt: skip
        if "fallocate" in features:
            self.actions += [self.punch, self.punch, self.zero, self.allocate]

    def _open(self) -> None:
        self.buffered = os.open(self.path, os.O_RDWR)
        self.appending = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self.direct = os.open(self.path, os.O_RDWR | os.O_DIRECT)
        self.source = os.open(self.other_path, os.O_RDONLY)

    def close(self) -> None:
        self._join()
        for fd in (self.buffered, self.appending, self.direct, self.source):
            os.close(fd)

    def run(self, steps: int) -> None:
        """Raises Wrong."""
        try:
            for _ in range(steps):
                action = self.rng.choice(self.actions)
                action()
            self.check()
            if self.remount is not None:
                self.close()
                self.remount()
                self._open()
                self.check()
        finally:
            self.close()

    # Arguments

    def _note(self, text: str) -> None:
        self.done.append(text)
        del self.done[:-HISTORY]

    def _range(self) -> tuple[int, int]:
        """A range inside the file."""
        begin = self.rng.randrange(len(self.model) + 1)
        return begin, self.rng.randrange(min(self.limits.write, len(self.model) - begin) + 1)

    def _place(self) -> tuple[int, bytes]:
        """Where to write and what; now and then beyond the end."""
        size = self.rng.choice((1, 100, 4096, self.limits.write // 4, self.limits.write))
        data = self.rng.randbytes(self.rng.randrange(1, size + 1))
        if self.rng.random() < 0.3:
            data = self.rng.choice((b"\0", b"x")) * len(data)
        room = self.limits.file - len(data)
        end = min(room, len(self.model) + (20_000 if self.rng.random() < 0.1 else 0))
        return self.rng.randrange(max(1, end + 1)), data

    def _put(self, offset: int, data: bytes) -> None:
        if offset > len(self.model):
            self.model.extend(bytes(offset - len(self.model)))
        self.model[offset : offset + len(data)] = data

    def _expect(self, offset: int, expected: bytes, found: bytes) -> None:
        if expected == found:
            return
        length = min(len(expected), len(found))
        first = next((i for i in range(length) if expected[i] != found[i]), length)
        raise Wrong(
            f"{len(found)} bytes instead of {len(expected)} at {offset}, first difference at"
            f" {offset + first}: {found[first : first + 8].hex()} instead of"
            f" {expected[first : first + 8].hex()}; last steps: {self.done}"
        )

    # Writing

    def write(self) -> None:
        offset, data = self._place()
        self._note(f"write {offset} {len(data)}")
        assert os.pwrite(self.buffered, data, offset) == len(data)
        self._put(offset, data)

    def write_pieces(self) -> None:
        """Many small writes in a row, as a linker or a database makes them."""
        offset, data = self._place()
        self._note(f"write {offset} {len(data)} in pieces")
        for begin in range(0, min(len(data), 3000), 100):
            os.pwrite(self.buffered, data[begin : begin + 100], offset + begin)
            self._put(offset + begin, data[begin : begin + 100])

    def append(self) -> None:
        _, data = self._place()
        data = data[: max(0, self.limits.file - len(self.model))]
        self._note(f"append {len(data)}")
        os.write(self.appending, data)
        self._put(len(self.model), data)

    def write_mapped(self) -> None:
        if not self.model:
            return
        begin, length = self._range()
        data = self.rng.randbytes(length)
        self._note(f"map {begin} {length}")
        with mmap.mmap(self.buffered, len(self.model)) as window:
            window[begin : begin + length] = data
            if self.rng.random() < 0.5:
                window.flush()
        self._put(begin, data)

    def write_direct(self) -> None:
        offset, data = self._place()
        offset, length = offset // ALIGNED * ALIGNED, -(-len(data) // ALIGNED) * ALIGNED
        if self.rng.random() < 0.3:
            length = len(data)  # an odd size, which a FUSE file system takes
        self._note(f"write direct {offset} {length}")
        with mmap.mmap(-1, max(length, 1)) as aligned:
            aligned[:length] = data.ljust(length, b"-")[:length]
            with memoryview(aligned) as view, view[:length] as part:
                written = os.pwritev(self.direct, [part], offset)
            self._put(offset, aligned[:written])

    def truncate(self) -> None:
        size = self.rng.randrange(self.limits.file)
        if self.rng.random() < 0.5:
            size = max(0, len(self.model) - self.rng.randrange(9000))
        self._note(f"truncate {size}")
        if self.rng.random() < 0.5:
            os.ftruncate(self.buffered, size)
        else:
            os.truncate(self.path, size)
        self._cut(size)

    def _cut(self, size: int) -> None:
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

    def punch(self) -> None:
        begin, length = self._range()
        self._note(f"punch {begin} {length}")
        if length:
            mode = syscalls.PUNCH_HOLE | syscalls.KEEP_SIZE
            syscalls.fallocate(self.buffered, mode, begin, length)
            self._put(begin, bytes(length))

    def zero(self) -> None:
        begin, data = self._place()
        keep = self.rng.random() < 0.5
        self._note(f"zero {begin} {len(data)} {keep}")
        mode = syscalls.ZERO_RANGE | (syscalls.KEEP_SIZE if keep else 0)
        syscalls.fallocate(self.buffered, mode, begin, len(data))
        length = min(len(data), len(self.model) - begin) if keep else len(data)
        if length > 0:
            self._put(begin, bytes(length))

    def allocate(self) -> None:
        begin, data = self._place()
        keep = self.rng.random() < 0.5
        self._note(f"allocate {begin} {len(data)} {keep}")
        syscalls.fallocate(self.buffered, syscalls.KEEP_SIZE if keep else 0, begin, len(data))
        if not keep and begin + len(data) > len(self.model):
            self._cut(begin + len(data))

    def copy_inside(self) -> None:
        begin, length = self._range()
        to = self.rng.randrange(len(self.model) + 1)
        if not length or abs(to - begin) < length or to + length > self.limits.file:
            return
        self._note(f"copy {begin} {length} to {to}")
        copied = os.copy_file_range(self.buffered, self.buffered, length, begin, to)
        self._put(to, bytes(self.model[begin : begin + copied]))

    def copy_from(self) -> None:
        begin = self.rng.randrange(len(self.other))
        length = self.rng.randrange(1, self.limits.write)
        to = self.rng.randrange(len(self.model) + 1)
        if to + length > self.limits.file:
            return
        self._note(f"copy {length} from the other file's {begin} to {to}")
        copied = os.copy_file_range(self.source, self.buffered, length, begin, to)
        self._put(to, self.other[begin : begin + copied])

    def replace(self) -> None:
        """Save as editors do: another file, renamed over this one."""
        self.close()
        new = self.path.with_name("new")
        self._note("replace")
        new.write_bytes(self.model)
        new.rename(self.path)
        self._open()

    # Reading

    def read(self) -> None:
        begin, length = self._range()
        self._note(f"read {begin} {length}")
        found = os.pread(self.buffered, length, begin)
        self._expect(begin, bytes(self.model[begin : begin + length]), found)

    def read_direct(self) -> None:
        begin, length = self._range()
        begin, length = begin // ALIGNED * ALIGNED, -(-length // ALIGNED) * ALIGNED
        self._note(f"read direct {begin} {length}")
        with mmap.mmap(-1, max(length, 1)) as aligned:
            count = os.preadv(self.direct, [aligned], begin) if length else 0
            self._expect(begin, bytes(self.model[begin : begin + length]), aligned[:count])

    def check(self) -> None:
        size = os.stat(self.path).st_size
        assert size == len(self.model), (size, len(self.model), self.done)
        found = self.path.read_bytes()
        self._expect(0, bytes(self.model), found)

    # Everything else

    def sync(self) -> None:
        self._note("fsync")
        os.fsync(self.buffered)

    def sync_behind(self) -> None:
        """A sync in another thread, while the next steps go on."""
        self._join()
        self._note("fsync behind")
        self._syncer = threading.Thread(target=os.fsync, args=(self.appending,))
        self._syncer.start()

    def _join(self) -> None:
        if self._syncer is not None:
            self._syncer.join()
            self._syncer = None

    def reopen(self) -> None:
        self._note("reopen")
        self.close()
        self._open()

    def forget(self) -> None:
        """Make the kernel forget its pages."""
        self._note("forget")
        os.fsync(self.buffered)
        os.posix_fadvise(self.buffered, 0, 0, os.POSIX_FADV_DONTNEED)
