"""Disks that change bits by themselves, and people who run fsck."""

from typing import TYPE_CHECKING

from piperfs.daemon.repairing import rebuild_on
from piperfs.store.cells import Cells
from piperfs.store.check import check_store
from piperfs.store.engine import MemoryEngine
from piperfs.store.repair import Salvage
from piperfs.store.salvage import POSITIONS, unreadable
from piperfs.store.schema import NAMES
from tests.sim.machine import Machine

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster


def rot_chunk(cluster: "Cluster", machine: Machine, amount: float) -> None:
    """Flip a bit in a chunk that another computer has as well."""
    rows = machine.engine
    keys = [key for key, _ in rows.scan("chunk", b"", b"\xff" * 33)]
    keys = [
        key for key in keys
        if any(m.engine.has("chunk", key) for m in cluster.machines if m is not machine)
    ]  # fmt: skip
    if keys:
        _flip(rows, "chunk", keys[int(amount * len(keys))], amount)
        cluster.chunks_may_be_lost = True  # the others may rot, or be set back, as well


def rot_cell(cluster: "Cluster", machine: Machine, amount: float) -> None:
    """Flip a bit in any value but a chunk."""
    rows = machine.engine
    tables = [name for name in NAMES if name != "chunk" and rows.count(name)]
    if not tables:
        return
    table = tables[int(amount * 997) % len(tables)]
    keys = list(rows.keys(table, b"", b"\xff" * 64))
    _flip(rows, table, keys[int(amount * len(keys))], amount)
    machine.is_damaged = True
    cluster.trace.note("damaged", machine.name, table)


def _flip(rows: MemoryEngine, table: str, key: bytes, amount: float) -> None:
    raw = bytearray(rows.get(table, key) or b"")
    if raw:
        raw[int(amount * len(raw))] ^= 4
        rows.damage(table, key, bytes(raw))


def repair(cluster: "Cluster", machine: Machine) -> None:
    """What `piperfs fsck --repair` does, on the computer that was just stopped."""
    machine.crash(silently=False)
    broken = machine.engine.snapshot()
    lost = unreadable(broken, Cells(machine.store_key, machine.entropy))
    for table, key in lost:
        broken.damage(table, key, None)
    for key in POSITIONS if lost else ():
        if broken.has("meta", key):
            broken.damage("meta", key, None)
    node = machine.assemble_on(broken)
    findings = list(check_store(node.store))
    if findings or lost:
        fresh = MemoryEngine(NAMES)
        salvage = Salvage()
        left = list(check_store(rebuild_on(node, fresh, salvage)))
        assert not left, f"a repaired store has findings: {left}"
        machine.engine = fresh
        if salvage.lost_operations or salvage.lost_values:
            cluster.excuse_unseen(machine)
        cluster.trace.sometimes("a damaged store was repaired")
    machine.is_damaged = False
