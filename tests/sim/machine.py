"""A simulated computer: what outlives a crash, and the whole real node that runs until then.

Nothing of the node is replaced: store, committer, replicator, sessions, file system and its
waiting half are the ones that people run. Around it disk, network, clock, worker threads and
randomness come from the seed.
"""

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeVar, cast

import trio

from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.identity import Identity
from piperfs.core.ids import ChunkId, ReplicaId
from piperfs.core.membership import graph_of
from piperfs.core.operation import Operation
from piperfs.daemon import upkeep
from piperfs.daemon.clock import Clock
from piperfs.daemon.keyfile import Secrets
from piperfs.daemon.node import Medium, Node, assemble_on
from piperfs.daemon.space import DiskSpace
from piperfs.daemon.sparing import Sparing
from piperfs.daemon.statedir import StateDirectory
from piperfs.fs.files import Clock as FileClock
from piperfs.fs.filesystem import Filesystem, World
from piperfs.fs.owners import Owners
from piperfs.fs.space import Space
from piperfs.fuse.service import Service, Surroundings
from piperfs.replication.replicator import Replicator, ReplicatorOptions
from piperfs.store.engine import Batch, MemoryEngine
from piperfs.store.remote import Applied
from piperfs.store.schema import NAMES
from tests.sim import skew
from tests.sim.net import Fabric, SimNetwork
from tests.sim.trace import Trace
from tests.sim.volume import BEGINNING_NS, SECOND_NS, Founded
from tests.support.computers import accounts

T = TypeVar("T")
GIB = 1 << 30
READ_DEADLINE_S = 10.0


class NoDirectory:
    """Stands for the state directory of a node whose store is in memory."""

    def __init__(self, name: str) -> None:
        self.path = Path("/") / name
        self.is_blind = False

    def close(self) -> None:
        """Nothing is locked."""


@dataclass(eq=False)
class Disk:
    """What the medium does at the moment."""

    is_full: bool = False
    is_over_quota: bool = False
    is_failing: bool = False
    slowness: float = 0.0
    crash_at_commit: str | None = None  # "before" or "after" the batch is durable

    @property
    def is_refusing(self) -> bool:
        """Whether some commit fails for a reason of the disk."""
        return self.is_full or self.is_over_quota or self.is_failing

    def heal(self) -> None:
        self.is_full = self.is_over_quota = self.is_failing = False
        self.slowness, self.crash_at_commit = 0.0, None


class Room(DiskSpace):
    """How much room a simulated disk has."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(Path("/"), trio.current_time)
        self._disk = disk

    def __call__(self) -> Space:
        return Space(GIB, 0, -1) if self._disk.is_full else Space(GIB, GIB, GIB)


@dataclass(eq=False)
class Machine:
    """One computer."""

    name: str
    address: str
    identity: Identity
    founded: Founded
    fabric: Fabric
    trace: Trace
    random: Random
    peers: tuple[str, ...]
    engine: MemoryEngine = field(default_factory=lambda: MemoryEngine(NAMES))
    records: tuple[bytes, ...] = ()
    offset_ns: int = 0
    drift: float = 0.0
    disk: Disk = field(default_factory=Disk)
    boots: int = 0
    is_starting: bool = False
    node: Node | None = None
    service: Service | None = None
    in_use: trio.Lock = field(default_factory=trio.Lock)  # by one step of a person, or by its stop
    on_crash: Callable[["Machine"], None] = lambda _machine: None
    is_damaged: bool = False  # a bit of its store has changed, and nobody has run fsck yet
    _scope: trio.CancelScope | None = None
    _network: SimNetwork | None = None
    _stop: trio.Event | None = None
    ended: trio.Event = field(default_factory=trio.Event)
    _guests: list[trio.CancelScope] = field(default_factory=list)
    store_key: bytes = b""

    def __post_init__(self) -> None:
        self.store_key = self.random.randbytes(32)

    @property
    def is_up(self) -> bool:
        return self.node is not None

    @property
    def running(self) -> Node:
        assert self.node is not None
        return self.node

    @property
    def filesystem(self) -> Filesystem:
        assert self.node is not None
        return cast(Filesystem, self.node.filesystem)

    # Surroundings

    def now_ns(self) -> int:
        elapsed = trio.current_time() * (1 + self.drift)
        return BEGINNING_NS + int(elapsed * SECOND_NS) + self.offset_ns

    def entropy(self, count: int) -> bytes:
        return self.random.randbytes(count)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run work on the spot, as late and as slowly as the disk of this computer is."""
        slowness = self.disk.slowness
        await trio.sleep(0.001 + slowness * self.random.random())
        result = work()
        if slowness or self.random.random() < 0.1:
            await trio.sleep(0.001 + slowness * self.random.random())
        return result

    def _before_commit(self, batch: Batch) -> None:
        disk = self.disk
        if disk.crash_at_commit is not None:
            when, disk.crash_at_commit = disk.crash_at_commit, None
            self.trace.sometimes(f"power was lost just {when} a batch was durable")
            if when == "after":
                self.engine.accept(batch)
            self.crash(silently=self.random.random() < 0.5)
            raise OSError(errno.EIO, "the power is off")
        if disk.is_failing:
            self.trace.sometimes("a commit met an I/O error")
            raise OSError(errno.EIO, "input/output error")
        if disk.is_full and sum(map(len, batch.values())) > 40:
            self.trace.sometimes("a commit found the disk full")
            raise OSError(errno.ENOSPC, "no space left on device")
        if disk.is_over_quota and sum(map(len, batch.values())) > 20:
            self.trace.sometimes("a commit met a quota")
            raise OSError(errno.EDQUOT, "disk quota exceeded")

    # Life

    def assemble_on(self, engine: MemoryEngine) -> Node:
        """The replica as it is on a disk of this computer."""
        secrets = Secrets(self.identity.secrets, self.store_key)
        clock = Clock(self.now_ns, trio.current_time, self.entropy, self.in_thread)
        state = cast(StateDirectory, NoDirectory(self.name))
        graph = graph_of(self.founded.volume, self.records or self.founded.records)
        medium = Medium(engine, Room(self.disk))
        return assemble_on(medium, state, "simulated", secrets, "none", graph, clock)

    def _assemble(self) -> Node:
        self.engine.before_commit = self._before_commit
        node = self.assemble_on(self.engine)
        node.is_daemon = True
        apply_remote = node.store.apply_remote

        def watched(
            operations: Iterable[Operation], now_ns: int, sender: ReplicaId | None = None
        ) -> Applied:
            arrived = list(operations)
            if any(operation.replica == self.identity.replica for operation in arrived):
                self.trace.sometimes("an operation came back to its author")
            applied = apply_remote(arrived, now_ns, sender)
            if applied.unattested:
                self.trace.sometimes("an operation waited for proof of what it claims")
            return applied

        node.store.apply_remote = watched  # type: ignore[method-assign]
        return node

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start, run until `stop` or `crash`, and end as the daemon does."""
        self.boots += 1
        self.trace.note("boot", self.name, self.boots)
        if self.engine.is_failed:
            self.engine = self.engine.snapshot()  # the store is opened anew
        node = self.node = self._assemble()
        network = self._network = SimNetwork(
            self.fabric, self.address, is_later=self.identity.replica in skew.LATER
        )
        stop, self.ended = trio.Event(), trio.Event()
        self._stop = stop
        replicator = Replicator(node, ReplicatorOptions(discovery=False, peers=self.peers), network)
        node.replicator = replicator
        clock = FileClock(self.now_ns, trio.current_time)
        owners = Owners(accounts(), 0, 0)
        node.filesystem = Filesystem(node.store, node.keyring, World(
            clock, self.entropy, node.space, owners))  # fmt: skip
        node.store.on_change = node.filesystem.report
        sparing = Sparing(node)
        self.service = Service(node.filesystem, self._surroundings(node, replicator, sparing))
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as committing:
                committing.start_soon(node.committer.run)
                async with trio.open_nursery() as nursery:
                    await nursery.start(replicator.run)
                    nursery.start_soon(self.service.run)
                    nursery.start_soon(sparing.run)
                    nursery.start_soon(upkeep.forget_wants, node)
                    nursery.start_soon(upkeep.tend_members, node)
                    task_status.started()
                    await stop.wait()
                    await self._save()
                    nursery.cancel_scope.cancel()
                committing.cancel_scope.cancel()
            await node.committer.flush()
        if self.node is node:
            self.node = None
            self.trace.note("stopped", self.name)
            self.ended.set()
            self._end_guests()

    async def _save(self) -> None:
        """What people wrote before they became readers cannot be saved; all else must be."""
        assert self.service is not None
        assert self.node is not None
        try:
            await self.service.sync()
        except FsError as error:
            if error.kind is not ErrorKind.READ_ONLY or self.node.may_write:
                raise
            self.trace.note("unsaved", self.name)

    def _surroundings(self, node: Node, replicator: Replicator, sparing: Sparing) -> Surroundings:
        async def fetch(chunks: Iterable[ChunkId], deadline: float) -> None:
            await replicator.fetch(chunks, deadline)

        return Surroundings(
            fetch, replicator.prefetch, node.committer.wake, node.committer.commit, self.now_ns,
            self.in_thread, READ_DEADLINE_S, is_crowded=sparing.is_crowded,
            find_room=sparing.find_room,
        )  # fmt: skip

    def stop(self) -> None:
        if self._stop is not None:
            self._stop.set()

    def crash(self, *, silently: bool) -> None:
        """Lose power: nothing but what is durable remains, and nothing more is said."""
        if self.node is None:
            return
        assert self._network is not None
        assert self._scope is not None
        self.trace.note("crash", self.name, silently)
        self.on_crash(self)
        self.engine.before_commit = _dead
        self.engine = self.engine.snapshot()
        self._network.unplug(broken=not silently)
        self._scope.cancel()
        self._end_guests()
        self.node = self.service = None
        self.ended.set()

    def _end_guests(self) -> None:
        """A program that still waits does not live on to write into what was stopped."""
        for scope in self._guests:
            scope.cancel()

    @contextmanager
    def visit(self) -> Iterator[trio.CancelScope]:
        """What a program on this computer does; it ends when the computer does."""
        with trio.CancelScope() as scope:
            self._guests.append(scope)
            try:
                yield scope
            finally:
                self._guests.remove(scope)


def _dead(_batch: Batch) -> None:
    raise OSError(errno.EIO, "the power is off")
