"""Two ways to be P or Q: at a simulated computer, and at a real mount."""

import os
import shutil
from pathlib import Path

from piperfs.fs.api import SetAttr
from tests.support.computers import ROOT_USER, Computer
from tests.support.people import CONFLICT, Person


def fold(path: str) -> str:
    """Conflict names without what depends on who, when and which."""
    return CONFLICT.sub("~", path)


class Simulated:
    """A person at a computer without kernel and network."""

    def __init__(self, computer: Computer) -> None:
        self.computer = computer
        self._person = Person(computer, computer.replica.decode())
        for name in ("write", "append", "unlink", "rename", "copy_of", "remove_tree"):
            setattr(self, name, getattr(self._person, name))
        for name in ("mkdir", "rmdir", "link", "chmod", "utime"):
            setattr(self, name, getattr(computer, name))

    def truncate(self, path: str, size: int) -> None:
        self.computer.fs.setattr(self.computer.walk(path).ino, SetAttr(size=size), None, ROOT_USER)

    def symlink(self, target: str, path: str) -> None:
        self._person.symlink(target.encode(), path)

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        self.computer.setxattr(path, name.encode(), value)

    def removexattr(self, path: str, name: str) -> None:
        self.computer.removexattr(path, name.encode())

    def xattrs(self, path: str) -> dict[str, bytes]:
        fs, ino = self.computer.fs, self.computer.walk(path).ino
        return {name.decode(): fs.getxattr(ino, name) for name in fs.listxattr(ino, ROOT_USER)}

    def mode(self, path: str) -> int:
        return self.computer.stat(path).mode & 0o7777

    def mtime(self, path: str) -> int:
        return self.computer.stat(path).mtime_ns

    def hold(self, path: str) -> "HeldSimulated":
        return HeldSimulated(self.computer, path)

    def tree(self) -> dict[str, bytes | None]:
        return self._person.flat()


class HeldSimulated:
    """A file that stays open."""

    def __init__(self, computer: Computer, path: str) -> None:
        self._computer, self._fh = computer, computer.open(path)

    def save(self, data: bytes) -> None:
        self._computer.fs.write(self._fh, 0, data)
        self._computer.close(self._fh)


class Mounted:
    """A person in a directory of a real mount."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, data: bytes) -> None:
        (self.root / path).write_bytes(data)

    def append(self, path: str, data: bytes) -> None:
        with (self.root / path).open("ab") as file:
            file.write(data)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self.root / path, size)

    def unlink(self, path: str) -> None:
        (self.root / path).unlink()

    def rename(self, old: str, new: str) -> None:
        (self.root / old).rename(self.root / new)

    def mkdir(self, path: str) -> None:
        (self.root / path).mkdir()

    def rmdir(self, path: str) -> None:
        (self.root / path).rmdir()

    def remove_tree(self, path: str) -> None:
        shutil.rmtree(self.root / path)

    def symlink(self, target: str, path: str) -> None:
        (self.root / path).symlink_to(target)

    def link(self, old: str, new: str) -> None:
        (self.root / new).hardlink_to(self.root / old)

    def chmod(self, path: str, mode: int) -> None:
        (self.root / path).chmod(mode)

    def utime(self, path: str, mtime_ns: int) -> None:
        os.utime(self.root / path, ns=(mtime_ns, mtime_ns))

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        os.setxattr(self.root / path, name, value)

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self.root / path, name)

    def xattrs(self, path: str) -> dict[str, bytes]:
        found = self.root / path
        return {n: os.getxattr(found, n) for n in os.listxattr(found) if n.startswith("user.k")
                or n in ("user.p", "user.q", "user.gone")}  # fmt: skip

    def mode(self, path: str) -> int:
        return (self.root / path).stat().st_mode & 0o7777

    def mtime(self, path: str) -> int:
        return (self.root / path).stat().st_mtime_ns

    def copy_of(self, path: str) -> str:
        found = [p for p in self.tree() if CONFLICT.sub("", p) == path != p]
        assert found, f"no conflict copy of {path}"
        return found[0]

    def hold(self, path: str) -> "HeldMounted":
        return HeldMounted(self.root / path)

    def tree(self) -> dict[str, bytes | None]:
        found: dict[str, bytes | None] = {}
        for top, folders, files in os.walk(self.root):
            for name in (*folders, *files):
                full = Path(top) / name
                path = str(full.relative_to(self.root))
                if full.is_symlink():
                    found[path] = b"->" + os.fsencode(full.readlink())
                else:
                    found[path] = None if full.is_dir() else full.read_bytes()
        return found


class HeldMounted:
    """A file that stays open."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR)

    def save(self, data: bytes) -> None:
        os.pwrite(self._fd, data, 0)
        os.close(self._fd)
