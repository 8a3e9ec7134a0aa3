"""The faults of a plan, carried out. Each returns at once; what it did ends after its length."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from piperfs.daemon.upkeep import collect
from piperfs.protocol import handshake
from tests.sim import damage, skew
from tests.sim.machine import Machine
from tests.sim.plan import Fault

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

YEARS_S = 10 * 365 * 86400.0


class Faults:
    """Does to a cluster what its plan says."""

    def __init__(self, cluster: "Cluster") -> None:
        self.cluster = cluster

    async def apply(self, fault: Fault) -> None:
        do: Callable[[Fault], Awaitable[None]] = getattr(self, f"do_{fault.kind}")
        self.cluster.trace.sometimes(f"fault: {fault.kind}")
        self.cluster.trace.note("fault", fault.kind, fault.machine, fault.other)
        await do(fault)

    # Lines

    def _pairs(self, fault: Fault, *, both: bool) -> list[tuple[str, str]]:
        a = self.cluster.machine(fault.machine).address
        b = self.cluster.machine(fault.other).address
        return [(a, b), (b, a)] if both else [(a, b)]

    async def _degrade(self, fault: Fault, **quality: float) -> None:
        lines = [self.cluster.fabric.line(*p) for p in self._pairs(fault, both=True)]
        for line in lines:
            for name, value in quality.items():
                setattr(line, name, value)
        await trio.sleep(fault.length)
        for line in lines:
            for name in quality:
                setattr(line, name, 0.0 if name != "latency" else 0.0005)

    async def do_loss(self, fault: Fault) -> None:
        await self._degrade(fault, loss=0.5 * fault.amount)

    async def do_slow_line(self, fault: Fault) -> None:
        await self._degrade(fault, latency=0.5 * fault.amount, jitter=0.5 * fault.amount)

    async def do_stall(self, fault: Fault) -> None:
        await self._degrade(fault, stall=0.3 * fault.amount)

    async def do_corrupt(self, fault: Fault) -> None:
        await self._degrade(fault, corrupt=0.3 * fault.amount)

    async def do_tamper(self, fault: Fault) -> None:
        await self._degrade(fault, tamper=0.3 * fault.amount)

    async def _cut(self, pairs: list[tuple[str, str]], length: float) -> None:
        lines = [self.cluster.fabric.line(*pair) for pair in pairs]
        for line in lines:
            line.is_cut = True
        await trio.sleep(length)
        for line in lines:
            line.mend()

    async def do_cut(self, fault: Fault) -> None:
        await self._cut(self._pairs(fault, both=True), fault.length)

    async def do_cut_one_way(self, fault: Fault) -> None:
        await self._cut(self._pairs(fault, both=False), fault.length)

    async def do_isolate(self, fault: Fault) -> None:
        own = self.cluster.machine(fault.machine).address
        others = [m.address for m in self.cluster.machines if m.address != own]
        await self._cut([p for o in others for p in ((own, o), (o, own))], fault.length)

    async def do_swizzle(self, fault: Fault) -> None:
        """Stop all lines one by one, and start them again in another order."""
        fabric, random = self.cluster.fabric, self.cluster.random
        lines = [fabric.lines[key] for key in sorted(fabric.lines)]
        for line in random.sample(lines, len(lines)):
            line.is_cut = True
            await trio.sleep(fault.length / 4 / len(lines))
        for line in random.sample(lines, len(lines)):
            line.mend()
            await trio.sleep(fault.length / 4 / len(lines))

    async def do_slow_machine(self, fault: Fault) -> None:
        """Everything to and from one computer takes long."""
        own = self.cluster.machine(fault.machine).address
        lines = [
            self.cluster.fabric.line(*pair)
            for m in self.cluster.machines if m.address != own
            for pair in ((own, m.address), (m.address, own))
        ]  # fmt: skip
        for line in lines:
            line.latency = 1.5 * fault.amount
        await trio.sleep(fault.length)
        for line in lines:
            line.latency = 0.0005

    # Computers

    async def do_crash(self, fault: Fault) -> None:
        machine = self.cluster.machine(fault.machine)
        machine.crash(silently=fault.amount < 0.5)
        await trio.sleep(fault.length)
        await self.cluster.boot(machine)

    async def do_restart(self, fault: Fault) -> None:
        """An orderly stop, and another start."""
        machine = self.cluster.machine(fault.machine)
        await self.cluster.stop(machine)
        await trio.sleep(fault.length)
        await self.cluster.boot(machine)

    async def do_crash_in_commit(self, fault: Fault) -> None:
        machine = self.cluster.machine(fault.machine)
        machine.disk.crash_at_commit = "before" if fault.amount < 0.5 else "after"
        await trio.sleep(fault.length)
        machine.disk.crash_at_commit = None
        await self.cluster.boot(machine)

    async def do_restore(self, fault: Fault) -> None:
        """The disk of one computer is replaced by a copy made some seconds before."""
        machine = self.cluster.machine(fault.machine)
        backup = self.cluster.back_up(machine)
        await trio.sleep(fault.length)
        self.cluster.restore(machine, backup)
        await trio.sleep(fault.length * fault.amount)
        await self.cluster.boot(machine)

    async def do_join(self, fault: Fault) -> None:
        await self.cluster.join()

    # Disks

    async def do_disk_full(self, fault: Fault) -> None:
        disk = self.cluster.machine(fault.machine).disk
        disk.is_full = True
        await trio.sleep(fault.length)
        disk.is_full = False

    async def do_io_error(self, fault: Fault) -> None:
        """Commits fail until somebody replaces the disk and starts the computer again."""
        machine = self.cluster.machine(fault.machine)
        machine.disk.is_failing = True
        await trio.sleep(fault.length)
        machine.disk.is_failing = False
        if machine.node is not None and machine.engine.is_failed:
            machine.crash(silently=False)
            await self.cluster.boot(machine)

    async def do_slow_disk(self, fault: Fault) -> None:
        disk = self.cluster.machine(fault.machine).disk
        disk.slowness = 2 * fault.amount
        await trio.sleep(fault.length)
        disk.slowness = 0.0

    async def do_rot_chunk(self, fault: Fault) -> None:
        damage.rot_chunk(self.cluster, self.cluster.machine(fault.machine), fault.amount)

    async def do_rot_cell(self, fault: Fault) -> None:
        """A value changes at rest; after a while somebody has the store repaired."""
        machine = self.cluster.machine(fault.machine)
        damage.rot_cell(self.cluster, machine, fault.amount)
        await trio.sleep(fault.length)
        if machine.is_damaged:
            machine.crash(silently=False)
            await self.cluster.boot(machine)

    async def do_quota(self, fault: Fault) -> None:
        disk = self.cluster.machine(fault.machine).disk
        disk.is_over_quota = True
        await trio.sleep(fault.length)
        disk.is_over_quota = False

    async def do_collect(self, fault: Fault) -> None:
        """Chunks that nothing needs go, in the middle of everything."""
        machine = self.cluster.machine(fault.machine)
        node = machine.node
        if node is not None and not machine.is_damaged:
            with machine.visit():
                await collect(node)
                self.cluster.trace.sometimes("chunks were collected")

    # Members

    async def do_remove(self, fault: Fault) -> None:
        """A member is removed, in half of all cases by an admin who lacks some of its work."""
        machine = self.cluster.machine(fault.machine)
        if fault.amount < 0.5:
            lonely = machine if fault.amount < 0.25 else self.cluster.machine(fault.other % 2)
            others = [m.address for m in self.cluster.machines if m is not lonely]
            async with trio.open_nursery() as nursery:
                pairs = [p for o in others for p in ((lonely.address, o), (o, lonely.address))]
                nursery.start_soon(self._cut, pairs, fault.length)
                await trio.sleep(fault.length * 0.8)
                self.cluster.rights.remove(machine, fault.other)
        else:
            self.cluster.rights.remove(machine, fault.other)

    async def do_role(self, fault: Fault) -> None:
        """A writer may only read for a while, or for the rest."""
        machine = self.cluster.machine(fault.machine)
        self.cluster.rights.set_role(machine, fault.other, "reader")
        await trio.sleep(fault.length)
        if fault.amount < 0.7:
            self.cluster.rights.set_role(machine, fault.other, "writer")

    async def do_rotate(self, fault: Fault) -> None:
        self.cluster.rights.rotate(fault.other)

    async def do_clone(self, fault: Fault) -> None:
        """A computer is copied whole, and both go on."""
        twin = self.cluster.clone(self.cluster.machine(fault.machine))
        if twin is not None:
            await self.cluster.boot(twin)

    async def do_skew(self, fault: Fault) -> None:
        """One computer runs a program of another age, and then the same as the others again."""
        machine = self.cluster.machine(fault.machine)
        replica = machine.identity.replica
        if fault.amount < 0.4:
            skew.STEPS[replica] = 1 if fault.amount < 0.2 else -1
        else:
            skew.LATER.add(replica)
        await self._start_anew(machine)
        await trio.sleep(fault.length)
        self._note_skew()
        skew.STEPS.pop(replica, None)
        skew.LATER.discard(replica)
        await self._start_anew(machine)

    async def _start_anew(self, machine: Machine) -> None:
        await self.cluster.stop(machine)
        await self.cluster.boot(machine)

    def _note_skew(self) -> None:
        for machine in self.cluster.machines:
            replicator = machine.node.replicator if machine.node is not None else None
            if replicator is not None and replicator.refusals.count[handshake.Fault.VERSION]:
                self.cluster.trace.sometimes("a build of another version was refused")
            is_later = machine.identity.replica in skew.LATER
            if replicator is not None and is_later and replicator._sessions:
                self.cluster.trace.sometimes("a later build met the others")

    # Clocks

    async def do_clock_jump(self, fault: Fault) -> None:
        machine = self.cluster.machine(fault.machine)
        machine.offset_ns += int((fault.amount - 0.5) * 4000 * 1e9)

    async def do_clock_years(self, fault: Fault) -> None:
        machine = self.cluster.machine(fault.machine)
        change = int((YEARS_S if fault.amount < 0.5 else -YEARS_S) * 1e9)
        machine.offset_ns += change
        await trio.sleep(fault.length)
        if fault.amount * 4 % 1 < 0.5:
            machine.offset_ns -= change
