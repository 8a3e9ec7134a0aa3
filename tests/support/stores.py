"""Real stores for tests: small builders, and an exchange of operations without a network."""

import itertools
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from piperfs.core.ids import (
    DIRECTORY,
    FILE,
    EpochId,
    InodeId,
    LinkId,
    ReplicaId,
    VolumeId,
    is_directory,
    make_inode_id,
)
from piperfs.core.operation import Operation, decode, header_of
from piperfs.core.record import Birth, ContentBody
from piperfs.core.resolve import current_content
from piperfs.store.authors import Shown
from piperfs.store.change import Change, PutContent, PutLink
from piperfs.store.engine import Engine, LmdbEngine, MemoryEngine
from piperfs.store.schema import NAMES
from piperfs.store.store import Identity, Store

VOLUME = VolumeId(bytes(range(32)))
SECOND = 1_000_000_000


class PlainSealing:
    """Leaves bodies in the clear: the store does not care, and tests read them."""

    epoch = EpochId(b"epoch" * 3 + b"!")

    def seal_bodies(self, header: bytes, plain: bytes) -> bytes:
        del header
        return plain


class NoSigner:
    def sign(self, message: bytes) -> bytes:
        return message[-32:] * 2


class TestClock:
    """A clock that moves one millisecond whenever it is read."""

    __test__ = False

    def __init__(self, start_s: int = 1_700_000_000) -> None:
        self.ns = start_s * SECOND

    def __call__(self) -> int:
        self.ns += 1_000_000
        return self.ns


class Node:
    """A store with a clock, and the few file-system calls that tests need."""

    def __init__(
        self,
        name: str,
        engine: Engine | None = None,
        clock: TestClock | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.clock = clock or TestClock()
        self.entropy = entropy
        self.replica = ReplicaId(name.encode().ljust(16, b"."))
        identity = Identity(VOLUME, self.replica, NoSigner(), PlainSealing())
        self.engine = engine or MemoryEngine(NAMES)
        self.store = Store(self.engine, identity, b"k" * 32, entropy, lambda raw: (0, ()))
        self.root = self.store.root

    def apply(self, *changes: Change) -> None:
        self.store.apply_local(changes, self.clock())

    def birth(self, mode: int = 0o644) -> Birth:
        return Birth(mode, "root", "root", self.replica)

    def create(self, parent: InodeId, name: bytes, text: bytes = b"") -> InodeId:
        inode = make_inode_id(FILE, self.entropy(15))
        link = PutLink(LinkId(self.entropy(16)), parent, name, inode)
        self.apply(link, PutContent(inode, self.version(text)))
        return inode

    def version(self, text: bytes) -> ContentBody:
        """A content whose bytes are told apart by `target`, which needs no chunks."""
        return ContentBody(True, 0, self.clock(), self.birth(), target=text)

    def write(self, inode: InodeId, text: bytes) -> None:
        self.apply(PutContent(inode, self.version(text)))

    def mkdir(self, parent: InodeId, name: bytes) -> InodeId:
        inode = make_inode_id(DIRECTORY, self.entropy(15))
        self.apply(PutLink(LinkId(inode), parent, name, inode, self.birth(0o755)))
        return inode

    def link_of(self, parent: InodeId, name: bytes) -> LinkId:
        found = self.store.lookup(parent, name)
        assert found is not None
        assert found.place is not None
        return found.place.link

    def commit(self) -> None:
        self.store.commit(self.clock())

    def operations(self) -> list[Operation]:
        self.commit()
        rows = self.store.log.after(0, 1 << 40)
        return [decode(raw, lambda epoch, header, sealed: sealed) for _, raw in rows]

    def receive(self, operations: Iterable[Operation]) -> None:
        self.store.apply_remote(operations, self.clock())
        self.commit()

    def learn_from(self, other: "Node") -> None:
        """Hear how far authors have counted, as replicas tell each other."""
        self.store.note_newest(all_shown(other.store), self.clock())

    def tree(self, directory: InodeId | None = None) -> dict[bytes, object]:
        """Names below a directory: a file's text, or a directory's own tree."""
        directory = directory or self.root
        shown: dict[bytes, object] = {}
        for _, name, inode in self.store.list_directory(directory, 0, 1 << 20):
            if is_directory(inode):
                shown[name] = self.tree(inode)
                continue
            found = self.store.lookup(directory, name)
            assert found is not None
            head = found.head or current_content(self.store.contents(inode))
            shown[name] = head.body.target
        return shown


def lmdb_engine(directory: Path) -> LmdbEngine:
    return LmdbEngine(directory / "store", NAMES)


def all_shown(store: Store) -> list[Shown]:
    """How far all authors have counted by a store."""
    rows = store.tables.author.scan(b"", b"\xff" * 17)
    return [Shown(ReplicaId(key), header_of(envelope).seq, envelope) for key, envelope in rows]


def exchange(*nodes: Node) -> None:
    """Give every node every operation of the others."""
    for sender, receiver in itertools.permutations(nodes, 2):
        receiver.learn_from(sender)
        receiver.receive(sender.operations())
