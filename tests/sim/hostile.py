"""A cluster whose last computer lies, and what the others must come to in spite of it.

Honest replicas agree with each other, lose nothing of their own, keep within bounds, hold nothing
against each other, and name the liar where something can be held against it.
"""

from collections.abc import Callable, Iterator
from functools import partial
from random import Random

import msgspec
import trio

from piperfs.core.limits import OFFENCES_MAX, WAITING_OPERATIONS_MAX
from piperfs.core.offences import Offence
from piperfs.daemon.node import Node
from piperfs.replication.session import Session
from tests.sim import oracles
from tests.sim.behaviours import FORKED, Behaviour
from tests.sim.cluster import Cluster, Outcome, simulate
from tests.sim.ledger import tokens_in
from tests.sim.machine import Machine
from tests.sim.plan import Plan, draw
from tests.sim.trace import Trace


class Infiltrated(Cluster):
    """A cluster whose last computer misbehaves."""

    def __init__(self, behaviour: Behaviour, plan: Plan, trace: Trace) -> None:
        super().__init__(plan, trace)
        self.behaviour = behaviour
        self._last: set[Session] = set()
        self.chunks_may_be_lost = behaviour.start_s > 0

    @property
    def liar(self) -> Machine:
        return self.machines[self.plan.machines - 1]

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
        await trio.sleep(self.behaviour.start_s or self.behaviour.every_s)
        if self.behaviour.before is not None:
            with self.machines[0].visit():
                self.behaviour.before(self.machines[0].running, self.liar.running)
        while True:
            await trio.sleep(self.behaviour.every_s)
            self._note_what_shows()
            sessions = list(self._sessions_of_liar())
            if self._last - set(sessions):
                self.trace.sometimes("a connection of the liar was ended")
            self._last = set(sessions)
            for session in sessions:
                self.behaviour.act(self.liar.running, session, random)

    def _nodes(self) -> list[Node]:
        return [machine.node for machine in self.judged if machine.node is not None]

    def named(self, node: Node) -> set[Offence]:
        """As what a replica's status names the liar."""
        known = node.store.offences.all(node.clock.now_ns())
        return {offence for who, offence, _ in known if who == self.liar.identity.replica}

    def _note_what_shows(self) -> None:
        liar, nodes = self.liar.identity.replica, self._nodes()
        for node in nodes:
            if any(each.sender == liar for each in node.store.waiting):
                self.trace.sometimes("what claims too much waits")
            if len(node.store.contents(FORKED)) > 1:
                self.trace.sometimes("both writes under one number are kept")
        if all(liar in node.store.forks.limits for node in nodes):
            self.trace.sometimes("all know the proof of a fork")
            if all(node.store.forks.held_count for node in nodes):
                self.trace.sometimes("operations beyond a fork are held everywhere")

    def _sessions_of_liar(self) -> Iterator[Session]:
        node = self.liar.node
        if node is not None and node.replicator is not None:
            yield from list(node.replicator._sessions.values())

    def _judge(self) -> None:
        super()._judge()
        named = [self.named(node) for node in self._nodes()]
        wanted = self.behaviour.named
        oracles.require(
            wanted is None or any(wanted in each for each in named), "the liar is named", named
        )
        for machine in self.judged:
            self._judge_one(machine)

    def _judge_one(self, machine: Machine) -> None:
        store = machine.running.store
        shown = oracles.shown(self.desks[machine.name]).values()
        visible = frozenset[int]().union(*map(tokens_in, shown))
        missing = self.ledger.missing(visible)
        oracles.require(not missing, "O3 no honest write is lost", machine.name, missing[:5])
        oracles.require(len(store.waiting) <= WAITING_OPERATIONS_MAX, "bounded waiting")
        accused = store.offences.all(machine.running.clock.now_ns())
        oracles.require(len(accused) <= OFFENCES_MAX, "bounded memory of offences")
        honest = {each.identity.replica for each in self.judged}
        others = [(offence, row.detail) for who, offence, row in accused if who in honest]
        oracles.require(not others, "no honest member is accused", machine.name, others)


def plan_of(seed: int, behaviour: Behaviour) -> Plan:
    """Four computers, the last one hostile, and no other faults."""
    busy_s = min(behaviour.seconds, behaviour.start_s or 12.0)
    plan = draw(seed, 4, busy_s * behaviour.hurry)
    steps = tuple(
        msgspec.structs.replace(step, at=round(step.at / behaviour.hurry, 3))
        for step in plan.steps
        if step.machine != 3
    )
    return msgspec.structs.replace(plan, seconds=behaviour.seconds, steps=steps, faults=())


def run(seed: int, behaviour: Behaviour) -> Outcome:
    """One run among three honest replicas."""
    make: Callable[[Plan, Trace], Cluster] = partial(Infiltrated, behaviour)
    return simulate(plan_of(seed, behaviour), make=make)
