"""A whole computer without kernel and network: store, keys and file system, driven by paths."""

import itertools
import os
from collections.abc import Callable

from piperfs.core.errors import FsError
from piperfs.core.ids import EpochId, ReplicaId
from piperfs.core.manifest import node_children
from piperfs.core.operation import decode
from piperfs.core.sealing import Keyring
from piperfs.fs.api import ROOT_INO, Attr, Caller, SetAttr
from piperfs.fs.files import Clock
from piperfs.fs.filesystem import Filesystem, World
from piperfs.fs.owners import Accounts, Owners
from piperfs.fs.space import Space
from piperfs.store.engine import Engine, MemoryEngine
from piperfs.store.schema import NAMES
from piperfs.store.store import Identity, Store
from tests.support.stores import VOLUME, NoSigner, TestClock, all_shown

EPOCH = EpochId(b"epoch" * 3 + b"!")
ROOT_USER = Caller(0, 0, 1, 0o022)
O_RDONLY, O_WRONLY, O_RDWR, O_TRUNC = 0, 1, 2, 0o1000
GIB = 1 << 30


def accounts() -> Accounts:
    users = {"root": 0, "alice": 1000}
    names = {number: name for name, number in users.items()}
    return Accounts(names.get, names.get, users.get, users.get)


class Computer:
    """One replica. Paths are strings relative to the root; contents are bytes."""

    def __init__(
        self,
        name: str,
        engine: Engine | None = None,
        clock: TestClock | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ):
        self.clock = clock or TestClock()
        self.entropy = entropy
        self.replica = ReplicaId(name.encode().ljust(16, b"."))
        self.engine = engine or MemoryEngine(NAMES)
        self.keyring = Keyring(VOLUME, {EPOCH: b"s" * 32}, EPOCH)
        self.space = Space(GIB, GIB, GIB)
        self.start()

    def start(self) -> None:
        """Begin, or begin again after a crash, from what is durable."""
        identity = Identity(VOLUME, self.replica, NoSigner(), self.keyring)
        self.store = Store(self.engine, identity, b"k" * 32, self.entropy, node_children)
        monotonic = lambda: self.clock.ns / 1e9
        world = World(
            Clock(self.clock, monotonic), self.entropy, lambda: self.space, Owners(accounts(), 0, 0)
        )
        self.fs = Filesystem(self.store, self.keyring, world)

    def commit(self) -> None:
        self.store.commit(self.clock())

    # Paths

    def walk(self, path: str) -> Attr:
        attr = self.fs.getattr(ROOT_INO)
        for part in filter(None, path.split("/")):
            attr = self.fs.lookup(attr.ino, os.fsencode(part))
        return attr

    def split(self, path: str) -> tuple[int, bytes]:
        above, _, name = path.rpartition("/")
        return self.walk(above).ino, os.fsencode(name)

    def stat(self, path: str) -> Attr:
        return self.walk(path)

    def exists(self, path: str) -> bool:
        try:
            self.walk(path)
        except FsError:
            return False
        return True

    def create(self, path: str, mode: int = 0o644) -> int:
        parent, name = self.split(path)
        return self.fs.create(parent, name, mode, O_RDWR, ROOT_USER)[1].fh

    def open(self, path: str, flags: int = O_RDWR) -> int:
        return self.fs.open(self.walk(path).ino, flags).fh

    def close(self, fh: int) -> None:
        self.flush(fh)
        self.fs.release(fh)

    def flush(self, fh: int) -> None:
        ino = self.fs._files.handle(fh).node.ino
        flush = self.fs.begin_flush(ino)
        if flush is not None:
            flush.execute()
            self.fs.finish_flush(ino, flush)

    def write(self, path: str, data: bytes, offset: int = 0, *, append: bool = False) -> None:
        fh = self.open(path) if self.exists(path) else self.create(path)
        if append:
            offset = self.stat(path).size
        elif not offset:
            self.fs.setattr(self.walk(path).ino, SetAttr(size=0), fh, ROOT_USER)
        self.fs.write(fh, offset, data)
        self.close(fh)

    def read(self, path: str) -> bytes:
        fh = self.open(path, O_RDONLY)
        try:
            return bytes(self.fs.read(fh, 0, 1 << 40))
        finally:
            self.fs.release(fh)

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        self.fs.mkdir(*self.split(path), mode, ROOT_USER)

    def symlink(self, target: bytes, path: str) -> None:
        self.fs.symlink(*self.split(path), target, ROOT_USER)

    def unlink(self, path: str) -> None:
        self.fs.unlink(*self.split(path))

    def rmdir(self, path: str) -> None:
        self.fs.rmdir(*self.split(path))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        self.fs.rename(*self.split(old), *self.split(new), flags)

    def link(self, old: str, new: str) -> None:
        self.fs.link(self.walk(old).ino, *self.split(new))

    def chmod(self, path: str, mode: int) -> None:
        self.fs.setattr(self.walk(path).ino, SetAttr(mode=mode), None, ROOT_USER)

    def utime(self, path: str, mtime_ns: int) -> None:
        self.fs.setattr(self.walk(path).ino, SetAttr(mtime_ns=mtime_ns), None, ROOT_USER)

    def setxattr(self, path: str, name: bytes, value: bytes) -> None:
        self.fs.setxattr(self.walk(path).ino, name, value, 0, ROOT_USER)

    def removexattr(self, path: str, name: bytes) -> None:
        self.fs.removexattr(self.walk(path).ino, name)

    def getxattr(self, path: str, name: bytes) -> bytes:
        return self.fs.getxattr(self.walk(path).ino, name)

    def listdir(self, path: str = "") -> list[str]:
        fh = self.fs.opendir(self.walk(path).ino)
        entries = self.fs.readdir(fh, 0, plus=False, count=1 << 20)
        self.fs.releasedir(fh)
        return sorted(os.fsdecode(e.name) for e in entries if e.name not in (b".", b".."))

    def tree(self, path: str = "") -> dict[str, object]:
        """Everything below a directory: contents, link targets, directories."""
        shown: dict[str, object] = {}
        for name in self.listdir(path):
            child = f"{path}/{name}" if path else name
            attr = self.walk(child)
            kind = attr.mode & 0o170000
            if kind == 0o040000:
                shown[name] = self.tree(child)
            elif kind == 0o120000:
                shown[name] = ("->", self.fs.readlink(attr.ino))
            else:
                shown[name] = (attr.mode, attr.nlink, attr.mtime_ns, self.read(child))
        return shown

    # Exchange

    def operations(self) -> list[bytes]:
        self.commit()
        return [raw for _, raw in self.store.log.after(0, 1 << 40)]

    def receive_from(self, other: "Computer", *, chunks: bool = True) -> None:
        operations = [decode(raw, self.keyring.unseal_bodies) for raw in other.operations()]
        self.store.note_newest(all_shown(other.store), self.clock())
        self.store.apply_remote(operations, self.clock())
        if chunks:
            self.fetch_from(other)
        self.commit()

    def fetch_from(self, other: "Computer") -> None:
        """Take the wanted chunks that another computer has."""
        progress = True
        while progress:
            progress = False
            for chunk in self.store.chunks.wanted(1000):
                sealed = other.store.chunks.get(chunk)
                if sealed is not None:
                    self.store.chunks.put(chunk, sealed)
                    progress = True


def exchange(*computers: Computer) -> None:
    """Give every computer everything of the others."""
    for sender, receiver in itertools.permutations(computers, 2):
        receiver.receive_from(sender)
    for receiver, sender in itertools.permutations(computers, 2):
        receiver.fetch_from(sender)
    assert not any(computer.store.chunks.want_count for computer in computers)
