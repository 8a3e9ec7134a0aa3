"""Who may do what, changed while people work; and what follows from it for the judges.

A member is removed, or made a reader for a while, by an admin who may not have seen all that it
wrote. What the admin had seen at that moment stays for ever; the rest of a removed member's work
goes, on every computer, and whatever it had superseded comes back.
"""

from typing import TYPE_CHECKING

from piperfs.core.errors import PiperError
from piperfs.core.ids import ReplicaId
from piperfs.core.membership import MembershipGraph, parents_first
from piperfs.core.membership_records import Role
from piperfs.core.membership_rules import WRITING_ROLES
from tests.sim import oracles
from tests.sim.ledger import tokens_in
from tests.sim.machine import Machine

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

REMOVED_MAX = 2
LEFT_MIN = 3  # computers, so that there is somebody to agree with


class Rights:
    """Removals, roles and keys of one run."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self._removed = 0
        self._is_changed = False
        self._kept: dict[ReplicaId, frozenset[int]] = {}  # tokens that every such admin had seen

    def _admin(self, number: int, *, other_than: Machine | None = None) -> Machine | None:
        """An admin's computer that is up; the first two are asked in the order of the plan.

        What an admin sees on a damaged disk cannot be told, and so not what may be missing later.
        """
        for each in (number, number + 1):
            machine = self._cluster.machines[each % 2]
            node = None if machine.is_damaged else machine.node
            if machine is not other_than and node is not None and node.role == "admin":
                return machine
        return None

    def remove(self, machine: Machine, number: int) -> None:
        """An admin removes a member."""
        if machine is self._cluster.machines[0]:
            return  # two that remove each other would not meet again, see convergence.md
        admin = self._admin(number, other_than=machine)
        alike = [m for m in self._cluster.machines if m.identity is machine.identity]
        left = len(self._cluster.machines) - self._removed - len(alike)
        if admin is None or self._removed >= REMOVED_MAX or left < LEFT_MIN:
            return
        node = admin.running
        member = node.graph.state().member(machine.identity.replica)
        if member is not None and not member.removed and self._try(node.remove_member, member):
            self._removed += len(alike)
            self._note(admin, machine)
            self._note_chunks(alike)
            self._cluster.trace.sometimes("a member was removed")

    def _note_chunks(self, gone: list[Machine]) -> None:
        """What only those have who are removed will not be had from them any more."""
        others = [m.engine for m in self._cluster.machines if m not in gone]
        chunks = {key for m in gone for key in m.engine.keys("chunk", b"", b"\xff" * 33)}
        if not all(any(engine.has("chunk", key) for engine in others) for key in chunks):
            self._cluster.chunks_may_be_lost = True

    def set_role(self, machine: Machine, number: int, role: Role) -> None:
        """An admin changes what a member may do."""
        if machine is self._cluster.machines[0]:
            return  # as above: it may just be removing whoever makes it a reader
        admin = self._admin(number, other_than=machine)
        if admin is None:
            return
        node = admin.running
        member = node.graph.state().member(machine.identity.replica)
        if member is None or member.removed or member.role == role:
            return
        if self._try(node.set_role, member, role):
            if role not in WRITING_ROLES:
                self._note(admin, machine)
            self._cluster.trace.sometimes(f"a member was made a {role}")

    def rotate(self, number: int) -> None:
        admin = self._admin(number)
        if admin is not None and self._try(admin.running.rotate):
            self._cluster.trace.sometimes("a new key was made")

    def _try(self, do, *arguments) -> bool:
        try:
            do(*arguments)
        except PiperError as error:
            self._cluster.trace.note("not done", str(error))
            return False
        return True

    def _note(self, admin: Machine, machine: Machine) -> None:
        self._is_changed = True
        seen = frozenset[int]().union(
            *map(tokens_in, oracles.shown(self._cluster.desks[admin.name]).values())
        )
        replica = machine.identity.replica
        self._kept[replica] = self._kept.get(replica, seen) & seen

    # What the judges ask

    def writers(self, machines: list[Machine]) -> list[Machine]:
        """Those whose operations count, by everything that anybody knows about members."""
        if not self._is_changed:
            return machines
        volume = self._cluster.founded.volume
        graph = MembershipGraph(volume)
        known = {
            record: raw
            for machine in self._cluster.machines if machine.node is not None
            for record, raw in machine.running.graph.records().items()
        }  # fmt: skip
        for raw in parents_first(known.values()):
            graph.add(raw)
        state = graph.state()
        rights = {
            replica for replica, member in state.members.items()
            if not member.removed and member.role in WRITING_ROLES
        }  # fmt: skip
        return [m for m in machines if m.identity.replica in rights]

    def excuse_the_rest(self, judged: list[Machine]) -> None:
        """What removed members wrote behind an admin's back is gone."""
        ledger = self._cluster.ledger
        present = {machine.identity.replica for machine in judged}
        for machine in self._cluster.machines:
            replica = machine.identity.replica
            if replica not in present:
                kept = self._kept.get(replica, frozenset())
                ledger.excuse(
                    token for token, written in ledger.written.items()
                    if written.machine == machine.name and token not in kept
                )  # fmt: skip
                self._cluster.trace.sometimes("a member without rights was left out")
