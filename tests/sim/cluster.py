"""One run: computers, people, faults; then peace, and the questions that must be answered.

`simulate(plan)` is a function: the same plan gives the same trace, in this process and in any
other.
"""

import contextlib
import traceback
from collections.abc import Callable
from random import Random

import msgspec
import structlog
import trio
from blake3 import blake3
from msgspec.structs import replace

from piperfs.core.errors import PeerError, PiperError, StoreError, UserError
from piperfs.core.identity import generate
from piperfs.core.ids import ReplicaId
from piperfs.core.membership_records import record_id
from piperfs.core.ticket import Ticket, make_invite
from piperfs.daemon.node import Node
from piperfs.replication import greeting
from piperfs.replication.channel import Channel
from piperfs.replication.network import closing
from piperfs.store.engine import MemoryEngine
from tests.sim import crypto, damage, loop, oracles, skew
from tests.sim.desk import Desk
from tests.sim.faults import Faults
from tests.sim.ledger import Ledger, tokens_in
from tests.sim.machine import Machine
from tests.sim.net import Fabric, SimNetwork
from tests.sim.plan import Plan, Step
from tests.sim.rights import Rights
from tests.sim.trace import Trace
from tests.sim.volume import FOREVER_NS, Founded, found

PEACE_S_MAX = 120.0  # after faults have stopped, everyone agrees within this time
START_S = 0.2
JUMPS_MAX = 100_000  # of time in one run, about ten times as many as the busiest needs


class Outcome(msgspec.Struct):
    """What a run came to."""

    seed: int
    trace: str
    events: int
    frames: int
    steps: int
    operations: int
    peace_s: float
    reached: dict[str, int]
    violation: str | None = None


class Backup(msgspec.Struct):
    """A copy of a disk, and the tokens that were promised to be on it."""

    engine: MemoryEngine
    kept: frozenset[int]
    is_damaged: bool


class Cluster:
    """All of one run."""

    def __init__(self, plan: Plan, trace: Trace) -> None:
        self.plan = plan
        self.trace = trace
        self.random = Random(f"world {plan.seed}")
        self.fabric = Fabric(Random(f"net {plan.seed}"), trace)
        self.founded: Founded = found(plan.machines, real_signatures=plan.real_signatures)
        self.ledger = Ledger()
        self.machines: list[Machine] = []
        self.desks: dict[str, Desk] = {}
        self.dots: dict[tuple[bytes, int], bytes] = {}
        self.chunks_may_be_lost = False
        self.operations = 0
        self.failures: list[str] = []
        self.rights = Rights(self)
        self._twins: set[ReplicaId] = set()  # identities that two computers have
        self._nursery: trio.Nursery | None = None
        addresses = [self.address(n) for n in range(plan.machines)]
        for number in range(plan.machines):
            known = addresses if number == 0 else [addresses[0], addresses[number - 1]]
            self._add(number, self.founded.members[number], tuple(known))

    @staticmethod
    def address(number: int) -> str:
        return f"10.0.0.{number}:7000"

    def _add(self, number: int, identity: object, peers: tuple[str, ...]) -> Machine:
        own = self.address(number)
        machine = Machine(
            f"m{number}", own, identity, self.founded, self.fabric, self.trace,
            Random(f"machine {number} of {self.plan.seed}"), tuple(p for p in peers if p != own),
        )  # fmt: skip
        machine.drift = self.random.choice((0.0, 0.0, 1e-4, -1e-4))
        machine.offset_ns = self.random.choice((0, 0, 0, 40, -40, 3000)) * 1_000_000
        machine.on_crash = self._crashed
        self.machines.append(machine)
        return machine

    @property
    def judged(self) -> list[Machine]:
        """Those who must agree in the end."""
        alone = [m for m in self.machines if m.identity.replica not in self._twins]
        return self.rights.writers(alone)

    def machine(self, number: int) -> Machine:
        return self.machines[number % len(self.machines)]

    # Life of computers

    async def boot(self, machine: Machine) -> None:
        """Start a computer that is down. Its owner has its disk checked if it is damaged."""
        if machine.node is not None or machine.is_starting:
            return
        if machine.is_damaged:
            damage.repair(self, machine)
        assert self._nursery is not None
        machine.is_starting = True
        try:
            await self._nursery.start(self._run, machine)
        finally:
            machine.is_starting = False

    async def _run(
        self, machine: Machine, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        engine = machine.engine
        status = _Booted(self, machine, task_status)
        try:
            await machine.run(task_status=status)
        except* (StoreError, UserError) as group:
            self.trace.note("died", machine.name, str(group.exceptions[0]))
            if machine.engine is engine:
                self.trace.sometimes("a daemon ended after a failure of its store")
                disk = machine.disk
                has_failed = machine.node is not None and machine.node.store.is_failing
                if not (disk.is_refusing or machine.is_damaged or has_failed):
                    self.failures.append(f"{machine.name} ended: {_first(group)!r}")
                machine.crash(silently=False)

    async def stop(self, machine: Machine) -> None:
        if machine.node is None:
            return
        node = machine.node
        with machine.visit():
            async with machine.in_use:  # whoever unmounts waits for programs to end
                desk = self.desks[machine.name]
                with contextlib.suppress(PiperError):
                    await desk.finish()
                if machine.node is node:
                    machine.stop()
                    await machine.ended.wait()

    def _crashed(self, machine: Machine) -> None:
        self.ledger.crashed(machine.name, machine.boots)

    # What faults do

    def back_up(self, machine: Machine) -> Backup:
        return Backup(machine.engine.snapshot(), self.ledger.acknowledged, machine.is_damaged)

    def restore(self, machine: Machine, backup: Backup) -> None:
        machine.crash(silently=False)
        machine.engine, machine.is_damaged = backup.engine, backup.is_damaged
        self.excuse_unseen(machine, backup.kept)
        self.chunks_may_be_lost = True
        self.trace.sometimes("a computer was set back to an old copy")

    def excuse_unseen(self, machine: Machine, kept: frozenset[int] = frozenset()) -> None:
        """What one computer wrote beside that, and no other one shows, may be lost."""
        elsewhere = self._visible_elsewhere(machine)
        lost = [
            token for token, written in self.ledger.written.items()
            if written.machine == machine.name and token not in kept
            and token not in elsewhere
        ]  # fmt: skip
        self.ledger.excuse(lost)

    def _visible_elsewhere(self, machine: Machine) -> frozenset[int]:
        found: frozenset[int] = frozenset()
        for other in self.machines:
            if other is not machine and other.node is not None and not other.is_damaged:
                found |= frozenset[int]().union(
                    *map(tokens_in, oracles.shown(self.desks[other.name]).values())
                )
        return found

    def clone(self, machine: Machine) -> Machine | None:
        """A copy of a whole computer, which goes on beside it under the same identity.

        What the two write is theirs to lose; all others must agree and keep what is theirs.
        """
        if len(self.machines) >= self.plan.machines + 2 or self._twins:
            return None
        twin = self._add(len(self.machines), machine.identity, (self.machines[0].address,))
        twin.engine, twin.records = machine.engine.snapshot(), machine.records
        twin.store_key, twin.is_damaged = machine.store_key, machine.is_damaged
        self._twins.add(machine.identity.replica)
        self.trace.sometimes("a computer was cloned")
        return twin

    async def join(self) -> None:
        """A new computer joins through whoever is an admin and up."""
        up = (m for m in self.machines[:2] if m.node is not None)
        admins = [m for m in up if m.running.role == "admin"]
        if not admins or len(self.machines) >= self.plan.machines + 2:
            return
        host = admins[0]
        node = host.running
        number = len(self.machines)
        invite, secret = make_invite(host.entropy, "writer", FOREVER_NS)
        raw = node.author(invite)
        random = Random(f"joiner {number} of {self.plan.seed}")
        identity = generate(random.randbytes)
        address = self.address(number)
        ticket = Ticket(node.store.volume, record_id(raw), secret, FOREVER_NS, (host.address,))
        network = SimNetwork(self.fabric, address)
        try:
            with host.visit():
                await node.commit()
                async with closing(await network.dial(host.address)) as link:
                    answer = await greeting.join(
                        Channel(link), ticket, identity, f"m{number}", random.randbytes(32)
                    )
                machine = self._add(number, identity, (host.address,))
                machine.records = answer.records
                self.trace.sometimes("a computer joined")
                await self.boot(machine)
        except (PeerError, UserError, StoreError) as error:
            self.trace.note("join failed", str(error))

    # The run

    async def run(self) -> float:
        """Work, faults, peace; returns how long it took to agree."""
        await trio.sleep(START_S)
        async with trio.open_nursery() as self._nursery:
            before = oracles.living_tasks()
            for machine in self.machines:
                await self.boot(machine)
            with trio.move_on_after(self.plan.seconds):
                async with trio.open_nursery() as events:
                    for number in range(self.plan.machines + 2):
                        events.start_soon(self._work, number, self._steps_of(number))
                    for fault in self.plan.faults:
                        events.start_soon(self._suffer, fault)
                    events.start_soon(trio.sleep, self.plan.seconds)
            peace_s = await self._make_peace()
            if self.chunks_may_be_lost:
                for machine in self.judged:
                    await oracles.mend(self.desks[machine.name])
                await self._quiet()  # computers that are not judged may have gone on writing
            self._judge()
            for machine in self.machines:
                await self.stop(machine)
            await trio.sleep(1)
            self._require_no_leak(before)
            self._nursery.cancel_scope.cancel()
        return peace_s

    def _require_no_leak(self, before: int) -> None:
        now = oracles.living_tasks()
        oracles.require(now <= before, "no task is left behind", before, now)

    def _steps_of(self, number: int) -> list[Step]:
        """Who comes later does what somebody else does, a little after him."""
        count = self.plan.machines
        return [
            replace(step, at=step.at + 0.3 * (number // count))
            for step in self.plan.steps if step.machine == number % count
        ]  # fmt: skip

    async def _work(self, number: int, steps: list[Step]) -> None:
        for step in steps:
            await trio.sleep_until(START_S + step.at)
            if number >= len(self.machines) or self.machines[number].node is None:
                continue
            machine = self.machines[number]
            desk = self.desks.get(machine.name)
            if desk is None or desk.boot != machine.boots:
                continue
            with machine.visit():
                async with machine.in_use:
                    if machine.is_up and machine.boots == desk.boot:
                        await desk.step(step.action, step.x, step.y, step.z)

    async def _suffer(self, fault) -> None:
        await trio.sleep_until(START_S + fault.at)
        await Faults(self).apply(fault)

    async def _make_peace(self) -> float:
        """End all faults and wait until everyone agrees. Raises Violation."""
        self.trace.note("peace")
        self.fabric.heal()
        begun = trio.current_time()
        for machine in self.machines:
            if skew.STEPS.pop(machine.identity.replica, 0):
                await self.stop(machine)  # its program is updated
        for machine in self.machines:
            machine.disk.heal()
            if machine.node is not None and (machine.engine.is_failed or machine.is_damaged):
                machine.crash(silently=False)
            await self.boot(machine)
        for machine in self.judged:
            with machine.visit():
                await self.desks[machine.name].finish()
        await self._quiet()
        return trio.current_time() - begun

    async def _quiet(self) -> None:
        """Wait until everyone agrees. Raises Violation."""
        begun = trio.current_time()
        while not oracles.is_quiet(self.judged, self._hopeless()):
            if trio.current_time() - begun > PEACE_S_MAX:
                reasons = oracles.why_not_quiet(self.judged)
                raise oracles.Violation(f"O9 agreement within {PEACE_S_MAX:.0f} s:{reasons}")
            self._pass_time()
            await trio.sleep(1)

    def _pass_time(self) -> None:
        """Let the clocks pass what waits for its date, as years would."""
        waiting = [row for m in self.judged for row in m.running.store.ahead.facts().values()]
        if not waiting:
            return
        self.trace.sometimes("operations waited for the clocks")
        until_ns = max(row.until_ns for row in waiting)
        for machine in self.machines:
            machine.offset_ns += max(0, until_ns - machine.now_ns())

    def _hopeless(self) -> frozenset[bytes]:
        """Chunks that no computer has any more, or only one of two that share an identity."""
        if not self.chunks_may_be_lost and not self._twins:
            return frozenset()
        judged = self.judged
        wanted = {c for m in judged for c in m.running.store.chunks.wanted(1 << 20)}
        return frozenset(
            chunk for chunk in sorted(wanted)
            if not any(
                (raw := m.engine.get_anywhere("chunk", chunk)) is not None
                and blake3(raw).digest() == chunk
                for m in judged
            )
        )  # fmt: skip

    def _judge(self) -> None:
        oracles.require(not self.failures, "daemons do not end by themselves", self.failures)
        judged = self.judged
        oracles.agree(judged)
        self.operations = judged[0].running.store.log.count()
        self.rights.excuse_the_rest(judged)
        desks = [self.desks[machine.name] for machine in judged]
        oracles.nothing_lost(desks, self.ledger, chunks_may_be_lost=self.chunks_may_be_lost)
        liars = frozenset(m.identity.replica for m in self.machines if m not in judged)
        oracles.dots_are_unique(judged, self.dots, liars | self._twins)
        for machine in judged:
            oracles.bounded(machine)
            if not liars:
                oracles.nothing_waits(machine)
                if not any(fault.kind in oracles.SUSPICIOUS for fault in self.plan.faults):
                    oracles.nobody_is_accused(machine)
            self._note_rare(machine.running)
            if any(True for _ in machine.running.store.conflicts()):
                self.trace.sometimes("conflict copies remained")

    def _note_rare(self, node: Node) -> None:
        if node.store.chunks.damaged:
            self.trace.sometimes("a damaged chunk was found")
        if node.store._parts.index.disputes.aliases:
            self.trace.sometimes("directories shared a name")


class _Booted:
    """Prepares a desk as soon as a computer has started."""

    def __init__(self, cluster: Cluster, machine: Machine, status: trio.TaskStatus[None]) -> None:
        self._cluster, self._machine, self._status = cluster, machine, status

    def started(self, value: None = None) -> None:
        self._cluster.desks[self._machine.name] = Desk(self._machine, self._cluster.ledger)
        self._status.started(value)


def _first(group: BaseExceptionGroup) -> BaseException:
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner


def simulate(
    plan: Plan,
    *,
    trace: Trace | None = None,
    make: Callable[[Plan, Trace], Cluster] = Cluster,
) -> Outcome:
    """Run a plan from begin to end."""
    trace = trace or Trace()
    structlog.configure(
        processors=[_counting(trace)], logger_factory=structlog.ReturnLoggerFactory(),
        wrapper_class=structlog.BoundLogger, cache_logger_on_first_use=False,
    )  # fmt: skip
    kept: list[Cluster] = []

    async def main() -> float:
        kept.append(make(plan, trace))
        return await kept[0].run()

    peace_s, violation = 0.0, None
    with crypto.simulated(real_signatures=plan.real_signatures), skew.simulated():
        try:
            peace_s = loop.run(main, plan.seed, JUMPS_MAX)
        except BaseExceptionGroup as group:
            error = _first(group)
            if isinstance(error, KeyboardInterrupt):
                raise
            violation = _describe(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            violation = _describe(error)
    unexpected = [name for name in trace.reached if name.startswith("log: ") and "failed" in name]
    if violation is None and unexpected:
        violation = f"internal errors were logged: {unexpected}"
    operations = kept[0].operations if kept else 0
    return Outcome(
        plan.seed, trace.digest, trace.events, kept[0].fabric.frames if kept else 0,
        len(plan.steps), operations, round(peace_s, 3), dict(trace.reached), violation,
    )  # fmt: skip


def _describe(error: BaseException) -> str:
    if isinstance(error, oracles.Violation):
        return str(error)
    return "".join(traceback.format_exception(error))[-3000:]


def _counting(trace: Trace) -> Callable[..., str]:
    """A log processor that counts events by name, as states reached, and writes nothing."""

    def process(_logger: object, method: str, event: dict[str, object]) -> str:
        trace.sometimes(f"log: {event['event']}")
        if method == "exception" and trace.lines is not None:
            trace.lines.append(traceback.format_exc())
        return ""

    return process
