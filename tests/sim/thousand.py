"""Many replicas: the real overlay, sessions and repair, with no file system on top.

Each replica holds a few connections and a short list of addresses, whatever the number of
replicas. A burst of writes is made while packets are lost and part of the replicas is dead; what
is measured is how long, and how much, it takes until all that live hold everything.
"""

import gc
import math
import resource
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import msgspec
import structlog
import trio

from piperfs.core.identity import Identity, PublicKeys, generate
from piperfs.core.ids import FILE, EpochId, LinkId, ReplicaId, VolumeId, make_inode_id
from piperfs.core.manifest import node_children
from piperfs.core.membership_rules import Member, MembershipState
from piperfs.core.operation import decode_envelope
from piperfs.core.record import Birth, ContentBody
from piperfs.core.sealing import Keyring
from piperfs.daemon.clock import Clock
from piperfs.daemon.committer import Committer
from piperfs.protocol import messages as m
from piperfs.replication.replicator import Replicator, ReplicatorOptions
from piperfs.replication.session import Session
from piperfs.store.change import PutContent, PutLink
from piperfs.store.engine import MemoryEngine
from piperfs.store.schema import NAMES
from piperfs.store.store import Identity as StoreIdentity
from piperfs.store.store import Store
from tests.sim import crypto, loop
from tests.sim.net import Fabric, SimNetwork
from tests.sim.trace import Trace
from tests.sim.volume import BEGINNING_NS, SECOND_NS

T = TypeVar("T")
VOLUME = VolumeId(b"a volume of very many members!!!")
EPOCH = EpochId(b"epoch of many...")
WANTED, HELD = 5, 8
JOIN_EVERY_S = 0.02
SETTLE_S = 30.0
WAIT_S_MAX = 600.0


class Report(msgspec.Struct):
    """What a burst cost."""

    replicas: int
    writers: int
    loss: float
    dead: int
    connections: float  # of each living replica, on average, before the burst
    connections_max: int
    addresses_max: int
    components: int  # of the graph of the living, after the deaths
    half_s: float
    most_s: float  # 99 %
    all_s: float
    messages: float  # of each living replica
    kilobytes: float
    hops: float  # that an operation came to a replica over, on average
    hops_max: int
    memory_kib: float  # of the whole process, for each replica
    all_agree: bool


class Hops:
    """Over how many connections each operation came to each replica at first."""

    def __init__(self) -> None:
        self.count: dict[tuple[bytes, bytes], int] = {}  # (operation, replica)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Look at every batch that a session takes in."""
        take = Session._apply_batch

        async def look(session: Session, batch: m.Operations) -> None:
            for raw in batch.envelopes:
                operation = decode_envelope(raw).id
                before = self.count.get((operation, session.replica), 0)
                own = session._store.replica
                if not session._store.log.has(operation):
                    self.count.setdefault((operation, own), before + 1)
            await take(session, batch)

        Session._apply_batch = look  # type: ignore[method-assign]
        try:
            yield
        finally:
            Session._apply_batch = take  # type: ignore[method-assign]


class Members:
    """The membership that all share: who may connect and write."""

    volume = VOLUME

    def __init__(self, identities: Iterable[Identity]) -> None:
        members = {
            each.replica: Member(each.replica, each.public, "m", "writer", 0, (n, b""), 1 << 62)
            for n, each in enumerate(identities)
        }
        self._state = MembershipState(members, {}, (EPOCH,), is_clean=True, is_complete=True)

    def state(self) -> MembershipState:
        return self._state

    def introduction(self, replica: ReplicaId) -> tuple[bytes, ...]:
        """Nobody goes on under other keys here."""
        del replica
        return ()

    def records(self) -> dict[bytes, bytes]:
        return {}

    def keys_of(self, replica: ReplicaId) -> PublicKeys | None:
        member = self._state.members.get(replica)
        return member.keys if member else None

    def __contains__(self, identity: object) -> bool:
        return True


@dataclass(eq=False)
class Light:
    """A replica without a file system."""

    number: int
    identity: Identity
    graph: Any
    fabric: Fabric
    introducer: str
    random: Random
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done_at: float | None = None

    def __post_init__(self) -> None:
        self.address = f"n{self.number}:1"
        self.keyring = Keyring(VOLUME, {EPOCH: b"k" * 32}, EPOCH)
        own = StoreIdentity(VOLUME, self.identity.replica, self.identity, self.keyring)
        engine = MemoryEngine(NAMES)
        self.store = Store(engine, own, b"s" * 32, self.random.randbytes, node_children)
        self.clock = Clock(self.now_ns, trio.current_time, self.random.randbytes, self.in_thread)
        self.committer = Committer(self.store, self.clock)
        self.store.on_dirty = self.committer.wake
        self.network = SimNetwork(self.fabric, self.address)
        options = ReplicatorOptions(
            discovery=False, peers=(self.introducer,), sessions_wanted=WANTED, sessions_held=HELD
        )
        self.replicator = Replicator(cast(Any, self), options, self.network)

    @staticmethod
    def now_ns() -> int:
        return BEGINNING_NS + int(trio.current_time() * SECOND_NS)

    @staticmethod
    async def in_thread(work: Callable[[], T]) -> T:
        await trio.lowlevel.checkpoint()
        return work()

    def on_members(self, listener: Callable[[], None]) -> None:
        """Nobody joins or leaves here."""

    def name_of(self, replica: ReplicaId) -> str:
        return replica.hex()[:8]

    def add_records(self, raws: Iterable[bytes]) -> int:
        return 0

    async def commit(self) -> None:
        await self.committer.commit()

    async def run(self) -> None:
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.committer.run)
                nursery.start_soon(self.replicator.run)

    def die(self) -> None:
        """Fall silent: the others have to notice."""
        self.network.unplug(broken=False)
        self.scope.cancel()

    def write(self) -> None:
        """A new empty file."""
        inode = make_inode_id(FILE, self.random.randbytes(15))
        now = self.now_ns()
        birth = Birth(0o644, "root", "root", self.store.replica)
        link = PutLink(
            LinkId(self.random.randbytes(16)), self.store.root, b"f%d" % self.number, inode
        )
        self.store.apply_local([link, PutContent(inode, ContentBody(True, 0, now, birth))], now)

    @property
    def peers(self) -> list[ReplicaId]:
        return list(self.replicator._sessions)


class Crowd:
    """All replicas of one measurement."""

    def __init__(self, replicas: int, writers: int, loss: float, dead_share: float, seed: int):
        self.random = Random(f"crowd {seed}")
        self.trace = Trace()
        self.trace.note = lambda *_facts: None  # type: ignore[method-assign]
        self.fabric = Fabric(self.random, self.trace)
        identities = [generate(self.random.randbytes) for _ in range(replicas)]
        members = Members(identities)
        self.loss, self.writers = loss, writers
        self.dead_share = dead_share
        self.hops = Hops()
        self.lights = [
            Light(n, identity, members, self.fabric, self._introducer(n), Random(f"{seed} {n}"))
            for n, identity in enumerate(identities)
        ]

    def _introducer(self, number: int) -> str:
        """Whoever let it in: any of those that were there before."""
        return f"n{self.random.randrange(number) if number else 0}:1"

    async def run(self) -> Report:
        async with trio.open_nursery() as nursery:
            for light in self.lights:
                nursery.start_soon(light.run)
                await trio.sleep(JOIN_EVERY_S)
            await trio.sleep(SETTLE_S)
            gc.collect()
            report = await self._measure()
            nursery.cancel_scope.cancel()
        return report

    async def _measure(self) -> Report:
        for line in self.fabric.lines.values():
            line.loss = self.loss
        self.fabric.default_loss = self.loss
        before = [len(light.peers) for light in self.lights]
        dead = self.random.sample(self.lights, int(self.dead_share * len(self.lights)))
        for light in dead:
            light.die()
        alive = [light for light in self.lights if light not in dead]
        components = count_components(alive)
        frames, moved = self.fabric.frames, self.fabric.bytes
        begun = trio.current_time()
        for light in self.random.sample(alive, min(self.writers, len(alive))):
            light.write()
        with self.hops.counted():
            await self._wait(alive, begun)
        times = sorted(light.done_at if light.done_at is not None else math.inf for light in alive)
        living = len(alive)
        hops = self.hops.count.values()
        known = [len(light.replicator.dials) for light in alive]
        return Report(
            len(self.lights), self.writers, self.loss, len(dead), sum(before) / len(before),
            max(before), max(known), components, times[living // 2], times[living * 99 // 100],
            times[-1], (self.fabric.frames - frames) / living,
            (self.fabric.bytes - moved) / living / 1024, sum(hops) / max(1, len(hops)),
            max(hops, default=0), peak_kib() / len(self.lights), times[-1] < math.inf,
        )  # fmt: skip

    async def _wait(self, alive: list[Light], begun: float) -> None:
        total = min(self.writers, len(alive))
        waiting = list(alive)
        while waiting and trio.current_time() - begun < WAIT_S_MAX:
            await trio.sleep(0.1)
            for light in waiting:
                if light.store.log.durable_sum[0] >= total:
                    light.done_at = trio.current_time() - begun
            waiting = [light for light in waiting if light.done_at is None]


def peak_kib() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def count_components(alive: list[Light]) -> int:
    """How many parts the graph of connections among the living has."""
    by_replica = {light.identity.replica: light for light in alive}
    left = dict.fromkeys(by_replica)
    parts = 0
    while left:
        parts += 1
        waiting = [left.popitem()[0]]
        while waiting:
            for peer in by_replica[waiting.pop()].peers:
                if peer in left:
                    del left[peer]
                    waiting.append(peer)
    return parts


def measure(replicas: int, writers: int, loss: float, dead_share: float, seed: int = 1) -> Report:
    """Make a crowd, let it settle, and measure a burst."""
    structlog.configure(
        processors=[lambda *_: ""], logger_factory=structlog.ReturnLoggerFactory(),
        wrapper_class=structlog.BoundLogger, cache_logger_on_first_use=False,
    )  # fmt: skip
    kept = SimpleNamespace()

    async def main() -> Report:
        kept.crowd = Crowd(replicas, writers, loss, dead_share, seed)
        return await kept.crowd.run()

    run: Callable[[Callable[[], Awaitable[Report]], int], Report] = loop.run
    with crypto.simulated(real_signatures=False):
        return run(main, seed)
