"""A person at a computer: does things by path, and the ledger remembers what they acted on."""

import os
import re

from piperfs.core.errors import FsError
from tests.support.computers import Computer
from tests.support.ledger import Ledger

CONFLICT = re.compile(r"\.conflict-\d{8}-[a-z2-7]{6}-[0-9a-f]{4,32}")
DIRECTORY, SYMLINK = 0o040000, 0o120000


class Person:
    """Acts on one computer; `tag` makes what this person writes unlike what anybody else does."""

    def __init__(self, computer: Computer, tag: str, ledger: Ledger | None = None) -> None:
        self.computer = computer
        self.tag = tag
        self.ledger = ledger or Ledger()

    def content(self, path: str) -> bytes | None:
        """What a leaf holds, a symlink's target marked as one; None for anything else."""
        try:
            attr = self.computer.walk(path)
        except FsError:
            return None
        kind = attr.mode & 0o170000
        if kind == SYMLINK:
            return b"->" + self.computer.fs.readlink(attr.ino)
        return None if kind == DIRECTORY else self.computer.read(path)

    def say(self, text: str) -> bytes:
        return f"{text} by {self.tag}".encode()

    def copy_of(self, path: str) -> str:
        """The path of the one conflict copy beside a file."""
        above, _, name = path.rpartition("/")
        found = [n for n in self.computer.listdir(above) if CONFLICT.sub("", n) == name != n]
        assert found, f"no conflict copy of {path}"
        return f"{above}/{found[0]}" if above else found[0]

    def write(self, path: str, data: bytes) -> None:
        before = self.content(path)
        self.computer.write(path, data)
        self.ledger.write(before, data)

    def append(self, path: str, data: bytes) -> None:
        before = self.content(path)
        assert before is not None
        self.computer.write(path, data, append=True)
        self.ledger.write(before, before + data)

    def symlink(self, target: bytes, path: str) -> None:
        self.computer.symlink(target, path)
        self.ledger.write(None, b"->" + target)

    def unlink(self, path: str) -> None:
        content, links = self.content(path), self.computer.stat(path).nlink
        assert content is not None
        self.computer.unlink(path)
        self.ledger.remove(content, links)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        there = self.content(new)
        if there is not None and not flags:
            stat, moved = self.computer.stat(new), self.computer.stat(old)
            self.computer.rename(old, new)
            if stat.ino != moved.ino:
                self.ledger.remove(there, stat.nlink)
            return
        self.computer.rename(old, new, flags)

    def remove_tree(self, path: str) -> None:
        for name in self.computer.listdir(path):
            child = f"{path}/{name}"
            if self.computer.stat(child).mode & 0o170000 == DIRECTORY:
                self.remove_tree(child)
            else:
                self.unlink(child)
        self.computer.rmdir(path)

    def visible(self) -> set[bytes]:
        """All contents that can be read under some name."""
        return {content for content in self.flat().values() if content is not None}

    def flat(self) -> dict[str, bytes | None]:
        """Every path with its content, None for directories."""
        found: dict[str, bytes | None] = {}
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            for name in self.computer.listdir(folder):
                path = f"{folder}/{name}" if folder else name
                found[path] = self.content(path)
                if found[path] is None:
                    waiting.append(path)
        return found


def settled_name(name: str) -> str:
    """A conflict copy's name without what depends on who, when and which."""
    return os.fspath(CONFLICT.sub("~", name))
