"""Members that lie, as plug-ins of the simulation: the real node, and what it should not do.

A behaviour is called again and again with each session of the liar and may say anything there.
Honest replicas must agree with each other, lose nothing of their own, and keep within bounds.
"""

from collections.abc import Callable, Iterator
from random import Random

import msgspec
import trio

from piperfs.core.ids import FILE, ChunkId, InodeId, OperationId, StoreId
from piperfs.core.limits import SEQ_MAX
from piperfs.core.operation import Write
from piperfs.core.record import ContentBody, Kind
from piperfs.daemon.node import Node
from piperfs.protocol import messages as m
from piperfs.replication.session import Session
from tests.sim.cluster import Cluster
from tests.sim.machine import Machine
from tests.sim.plan import Plan, draw
from tests.sim.trace import Trace
from tests.support import forging

Behaviour = Callable[[Node, Session, Random], None]
EVERY_S = 0.7
EQUIVOCATED = InodeId(bytes((FILE,)) + b"equivocation123")


def replays(node: Node, session: Session, random: Random) -> None:
    """Sends everything it has, over and over."""
    session._owe([each for _, each, _ in node.store.log.after_with_ids(0, 1 << 20)])


def floods_wants(node: Node, session: Session, random: Random) -> None:
    chunks = tuple(ChunkId(random.randbytes(32)) for _ in range(500))
    session.channel.send(m.Want(chunks, urgent=True))


def floods_comparisons(node: Node, session: Session, random: Random) -> None:
    everything = m.Range(b"", b"\xff" * 33, 1 << 40, random.randbytes(32))
    session.channel.send(m.Reconcile((everything,)))


def asks_for_nothing_that_exists(node: Node, session: Session, random: Random) -> None:
    wanted = tuple(OperationId(random.randbytes(32)) for _ in range(500))
    session.channel.send(m.WantOperations(wanted))


def _state(node: Node, session: Session, **changes: object) -> m.State:
    store = node.store
    true = m.State(
        store.store_id, store.log.durable_lseq, StoreId(b""), 0, 0, store.digest(),
        store.log.durable_sum[0], node.clock.now_ns(), (),
    )  # fmt: skip
    return msgspec.structs.replace(true, **changes)


def lies_about_its_state(node: Node, session: Session, random: Random) -> None:
    """Another digest each time, and far more operations than it ever sends."""
    lie = _state(
        node, session, digest=random.randbytes(32), durable_lseq=1 << 50, operations=1 << 50
    )
    session.channel.send(lie)


def lies_about_our_numbers(node: Node, session: Session, random: Random) -> None:
    session.channel.send(_state(node, session, seen_seq=SEQ_MAX))


def acknowledges_everything(node: Node, session: Session, random: Random) -> None:
    session.channel.send(m.Ack(1 << 60, 1 << 60))


def tells_of_many_peers(node: Node, session: Session, random: Random) -> None:
    members = [member.replica for member in node.members()]
    told = tuple((random.choice(members), (f"10.9.{n}.1:1",)) for n in range(m.PEERS_MAX))
    session.channel.send(m.Peers(told))


def _file(node: Node, random: Random, name: bytes, hlc: int) -> tuple[Write, ...]:
    return forging.file_called(node, random.randbytes(31), name, hlc)


def _seq(node: Node, random: Random) -> int:
    return node.clock.now_ns() // 1_000_000 + random.randrange(1_000)


def writes_names_that_cannot_be(node: Node, session: Session, random: Random) -> None:
    name = random.choice((b"..", b"a/b", b"", b"x" * 300, b"nul\0"))
    writes = _file(node, random, name, node.clock.now_ns())
    session.channel.send(m.Operations((forging.signed(node, writes, _seq(node, random)),), 0))


def signs_wrongly(node: Node, session: Session, random: Random) -> None:
    raw = bytearray(
        forging.signed(node, _file(node, random, b"z", node.clock.now_ns()), _seq(node, random))
    )
    raw[-1] ^= 1
    session.channel.send(m.Operations((bytes(raw),), 0))


def lives_in_the_future(node: Node, session: Session, random: Random) -> None:
    writes = _file(node, random, b"later", node.clock.now_ns() + 50 * 365 * 86_400 * 10**9)
    session.channel.send(m.Operations((forging.signed(node, writes, _seq(node, random)),), 0))


def claims_what_is_not_written(node: Node, session: Session, random: Random) -> None:
    """Versions of others' files that say to know what their authors will write some day."""
    for key in node.store.keys("content")[:3]:
        head = node.store.contents(InodeId(key))[0]
        if head.replica == node.store.replica:
            continue
        ahead = node.store.highest_seq_of(head.replica) + random.choice((600_000, 10**9))
        known = {**head.vector, head.replica: ahead}
        known.pop(node.store.replica, None)
        write = forging.version(node, InodeId(key), b"", known)
        raw = forging.signed(node, (write,), _seq(node, random))
        session.channel.send(m.Operations((raw,), 0))


def equivocates(node: Node, session: Session, random: Random) -> None:
    """Two writes under one number, each to whoever happens to listen; then it goes on."""
    birth = forging.birth_by(node)
    body = ContentBody(True, 0, random.randrange(2), birth, target=random.choice((b"", b"x")))
    write = Write(Kind.CONTENT, EQUIVOCATED, 1, {}, (), body)
    more = _file(node, random, b"after the fork", node.clock.now_ns())
    said = (
        forging.signed(node, (write,), 1_600_000_000_000),
        forging.signed(node, more, _seq(node, random)),
    )
    session.channel.send(m.Operations(said, 0))


def sends_a_chunk_under_another_name(node: Node, session: Session, random: Random) -> None:
    session.channel.send(m.Chunks(((ChunkId(random.randbytes(32)), b"bomb" * 100),)))


def says_it_has_no_chunk(node: Node, session: Session, random: Random) -> None:
    node.store.chunks.get = lambda _chunk: None  # type: ignore[method-assign]


def speaks_out_of_turn(node: Node, session: Session, random: Random) -> None:
    session.channel.send(m.Welcome())


def falls_silent(node: Node, session: Session, random: Random) -> None:
    session.channel.send = lambda *_a, **_k: None  # type: ignore[method-assign]


BEHAVIOURS: tuple[Behaviour, ...] = (
    replays, floods_wants, floods_comparisons, asks_for_nothing_that_exists, lies_about_its_state,
    lies_about_our_numbers, acknowledges_everything, tells_of_many_peers,
    writes_names_that_cannot_be, signs_wrongly, lives_in_the_future, claims_what_is_not_written,
    equivocates,
    sends_a_chunk_under_another_name, says_it_has_no_chunk, speaks_out_of_turn, falls_silent,
)  # fmt: skip


class Infiltrated(Cluster):
    """A cluster whose last computer misbehaves."""

    behaviour: Behaviour

    @property
    def judged(self) -> list[Machine]:
        return self.machines[: self.plan.machines - 1]

    async def _work(self, number: int, steps: list) -> None:
        if number == self.plan.machines - 1:
            await self._misbehave()
        else:
            await super()._work(number, steps)

    async def _misbehave(self) -> None:
        random = Random(f"liar {self.plan.seed}")
        while True:
            await trio.sleep(EVERY_S)
            self._note_what_shows()
            for session in self._sessions_of_liar():
                type(self).behaviour(self.machines[-1].running, session, random)

    def _note_what_shows(self) -> None:
        liar = self.machines[-1].identity.replica
        for machine in self.judged:
            node = machine.node
            facts = node.replicator.status() if node and node.replicator else ()
            if node and any(each.sender == liar for each in node.store.waiting):
                self.trace.sometimes("what claims too much waits")
            if any(f.replica == liar.hex() and "refused" in (f.waits_for or "") for f in facts):
                self.trace.sometimes("status names the liar")
            if node and len(node.store.contents(EQUIVOCATED)) > 1:
                self.trace.sometimes("both writes under one number are kept")
        nodes = [machine.node for machine in self.judged]
        if all(node and liar in node.store.forks.limits for node in nodes):
            self.trace.sometimes("all know the proof of a fork")
            if all(node and node.store.forks.held_count for node in nodes):
                self.trace.sometimes("operations beyond a fork are held everywhere")

    def _sessions_of_liar(self) -> Iterator[Session]:
        node = self.machines[-1].node
        if node is not None and node.replicator is not None:
            yield from list(node.replicator._sessions.values())


def cluster_with(behaviour: Behaviour) -> type[Cluster]:
    return type("Infiltrated", (Infiltrated,), {"behaviour": staticmethod(behaviour)})


def plan_of(seed: int, seconds: float = 12.0, hurry: float = 1.0) -> Plan:
    """Four computers, the last one hostile, and no other faults; people may be in a hurry."""
    plan = draw(seed, 4, seconds * hurry)
    steps = tuple(
        msgspec.structs.replace(step, at=round(step.at / hurry, 3))
        for step in plan.steps
        if step.machine != 3
    )
    return msgspec.structs.replace(plan, seconds=seconds, steps=steps, faults=())


def make(behaviour: Behaviour) -> Callable[[Plan, Trace], Cluster]:
    return cluster_with(behaviour)
