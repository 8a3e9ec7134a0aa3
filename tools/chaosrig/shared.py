"""Work in a directory that everybody writes to, with a record of what each write had seen.

Before a version is replaced, changed or deleted its token is read through a descriptor that is
open across the call, and read again behind it, so the record names exactly what was covered. Where
another computer's file took the name between look and call, the call hits what nobody looked at;
that shows in the links that are left, and is written down as `blind`. One line of JSON each: `op`
before a call, `done` or `void` behind it, `ack` after an fsync.
"""

import ctypes
import errno
import json
import os
import random
from pathlib import Path
from typing import Any, Final

from blocks import Parsed, block, parse

READ_BYTES: Final = 1 << 24
FILES: Final = 12
DIRECTORIES: Final = 4
LARGE_BYTES: Final = 600_000
LIBC: Final = ctypes.CDLL(None, use_errno=True)
AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_STATX_FORCE_SYNC: Final = 0x2000
STATX_NLINK: Final = 0x4
RENAME_NOREPLACE: Final = 1


class UnreadableError(Exception):
    """What is there cannot be told now, so it is left alone."""


class Shared:
    """The shared directory as one worker uses it."""

    races = frozenset({
        errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.ESTALE,
        errno.EINVAL, errno.EMLINK, errno.ELOOP, errno.EBUSY,
    })  # fmt: skip

    def __init__(self, directory: Path, name: str, source: random.Random, log: Path) -> None:
        self.directory = directory
        self.name = name
        self.random = source
        self.doing = ""
        self._count = 0
        self._log = log.open("a", buffering=1)
        self.operations = (
            (self._create, 8), (self._overwrite, 8), (self._append, 6), (self._replace, 8),
            (self._rename, 5), (self._unlink, 4), (self._mkdir, 3), (self._rmdir, 2),
            (self._chmod, 2), (self._xattr, 2), (self._symlink, 1), (self._link, 2),
            (self._list, 6), (self._look, 8), (self._large, 1), (self.sync, 5),
        )  # fmt: skip

    def _write_log(self, kind: str, **what: Any) -> None:
        self._log.write(json.dumps({"kind": kind, "number": self._count, **what}) + "\n")

    def crashed(self) -> None:
        self._write_log("crash")

    def step(self) -> None:
        choices, weights = zip(*self.operations, strict=True)
        (operation,) = self.random.choices(choices, weights)
        self.doing = operation.__name__
        try:
            operation()
        except UnreadableError:
            return

    def sync(self) -> None:
        """An fsync of anything acknowledges everything before."""
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._write_log("ack")

    # Choosing

    def _above(self) -> Path:
        number = self.random.randrange(DIRECTORIES * 2)
        return self.directory / f"d{number}" if number < DIRECTORIES else self.directory

    def _fixed(self) -> Path:
        """A name that others choose as well."""
        return self._above() / f"s{self.random.randrange(FILES)}"

    def _present(self) -> Path:
        """A file that is there, under whatever name."""
        above = self._above()
        entries = os.scandir(above)
        names = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
        if not names:
            raise UnreadableError
        return above / self.random.choice(names)

    def _read(self, descriptor: int) -> Parsed:
        try:
            data = os.pread(descriptor, READ_BYTES, 0)
            size = os.fstat(descriptor).st_size
            while len(data) < size and (more := os.pread(descriptor, READ_BYTES, len(data))):
                data += more
        except OSError as error:
            if error.errno in (errno.EHOSTUNREACH, errno.ETIMEDOUT):
                raise UnreadableError from error
            raise
        return parse(data)

    def _read_covered(self, descriptor: int) -> Parsed:
        """What a call just covered; the daemon is asked, as the kernel may lag a moment behind."""
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return self._read(descriptor)

    # Changing contents

    def _begin(self, action: str, saw: Parsed | None, **what: Any) -> str:
        self._count += 1
        token = f"{self.name}.s{self._count}"
        self._write_log("op", action=action, token=token, saw=_names(saw), **what)
        return token

    def _finish(self, saw: Parsed | None = None, *, blind: bool = False) -> None:
        self._write_log("done", saw=_names(saw), blind=blind)

    def _void(self, error: OSError) -> None:
        """A call that failed for what others did meanwhile has changed nothing."""
        if error.errno in self.races:
            self._write_log("void")

    def _length(self) -> int:
        return self.random.randrange(2500)

    def _create(self, length: int | None = None) -> None:
        path = self._fixed()
        token = self._begin("create", None, path=path.name)
        try:
            file = path.open("xb", buffering=0)
        except OSError as error:
            self._void(error)
            raise
        with file:
            self._put(file.fileno(), token, self._length() if length is None else length)
        self._finish()

    def _put(self, descriptor: int, token: str, length: int) -> None:
        data = memoryview(block(token, length))
        while data:
            data = data[os.write(descriptor, data) :]

    def _large(self) -> None:
        self._create(self.random.randrange(LARGE_BYTES))

    def _overwrite(self) -> None:
        with self._present().open("r+b", buffering=0) as file:
            saw = self._read(file.fileno())
            token = self._begin("overwrite", saw, path=file.name)
            os.ftruncate(file.fileno(), 0)
            self._put(file.fileno(), token, self._length())
            self._sync_sometimes(file.fileno())
        self._finish()

    def _append(self) -> None:
        path = self._present()
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
        try:
            saw = self._read(descriptor)
            if not saw.is_whole or len(saw.tokens) > 8:
                return
            token = self._begin("append", saw, path=path.name)
            self._put(descriptor, token, self._length())
            self._sync_sometimes(descriptor)
        finally:
            os.close(descriptor)
        self._finish()

    def _sync_sometimes(self, descriptor: int) -> None:
        if self.random.random() < 0.3:
            os.fsync(descriptor)

    def _replace(self) -> None:
        """Save as editors do."""
        path = self._fixed() if self.random.random() < 0.5 else self._present()
        temporary = self.directory / f".tmp-{self.name}-{self._count}"
        saw, old = self._hold(path)
        token = self._begin("replace", saw, path=path.name)
        try:
            with temporary.open("xb", buffering=0) as file:
                self._put(file.fileno(), token, self._length())
                os.fsync(file.fileno())
            self._move(temporary, path, old)
        finally:
            self._drop(old)

    def _hold(self, path: Path) -> tuple[Parsed | None, int]:
        """What a name stands for, and a descriptor that keeps it readable; -1 if nothing."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None, -1
        try:
            return self._read(descriptor), descriptor
        except BaseException:
            os.close(descriptor)
            raise

    def _move(self, source: Path, target: Path, held: int) -> None:
        """Rename onto what is held, or onto nothing."""
        if held < 0:
            _rename_onto_nothing(source, target)
            self._finish()
            return
        before = _links(held)
        os.rename(source, target)
        self._finish(self._read_covered(held), blind=_links(held) >= before)

    def _drop(self, descriptor: int) -> None:
        if descriptor >= 0:
            os.close(descriptor)

    def _rename(self) -> None:
        old, new = self._present(), self._fixed()
        saw, descriptor = self._hold(new)
        self._begin("rename", saw, path=f"{old.name} {new.name}")
        try:
            if descriptor < 0 or not os.path.samestat(os.stat(old), os.fstat(descriptor)):
                self._move(old, new, descriptor)
        except OSError as error:
            self._void(error)
            raise
        finally:
            self._drop(descriptor)

    def _unlink(self) -> None:
        path = self._present()
        saw, descriptor = self._hold(path)
        if descriptor < 0:
            return
        self._begin("unlink", saw, path=path.name)
        try:
            before = _links(descriptor)
            os.unlink(path)
            self._finish(self._read_covered(descriptor), blind=_links(descriptor) >= before)
        except OSError as error:
            self._void(error)
            raise
        finally:
            self._drop(descriptor)

    # The rest

    def _mkdir(self) -> None:
        os.mkdir(self.directory / f"d{self.random.randrange(DIRECTORIES)}")

    def _rmdir(self) -> None:
        os.rmdir(self.directory / f"d{self.random.randrange(DIRECTORIES)}")

    def _chmod(self) -> None:
        os.chmod(self._present(), self.random.choice((0o600, 0o644, 0o755)))

    def _xattr(self) -> None:
        os.setxattr(self._present(), f"user.x{self.random.randrange(3)}", self.random.randbytes(6))

    def _symlink(self) -> None:
        path = self._above() / f"l{self.random.randrange(4)}"
        os.symlink(f"s{self.random.randrange(FILES)}", path)

    def _link(self) -> None:
        os.link(self._present(), self._fixed())

    def _list(self) -> None:
        for _above, directories, files in os.walk(self.directory):
            directories.sort()
            files.sort()

    def _look(self) -> None:
        with self._present().open("rb", buffering=0) as file:
            self._read(file.fileno())


def _links(descriptor: int) -> int:
    """How many names an open file has, asked of the daemon itself and not of the kernel's cache."""
    facts = ctypes.create_string_buffer(256)
    if LIBC.statx(descriptor, b"", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_NLINK, facts):
        raise OSError(ctypes.get_errno(), "statx")
    return int.from_bytes(facts.raw[16:20], "little")


def _rename_onto_nothing(source: Path, target: Path) -> None:
    old, new = os.fsencode(source), os.fsencode(target)
    if LIBC.renameat2(AT_FDCWD, old, AT_FDCWD, new, RENAME_NOREPLACE):
        raise OSError(ctypes.get_errno(), "renameat2", str(target))


def _names(saw: Parsed | None) -> list[str]:
    """The version that was seen; the token of a torn one stands for it as well."""
    return [] if saw is None or saw.last is None else [saw.last]
