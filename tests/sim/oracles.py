"""What must hold once faults have stopped and everything is quiet.

Each check raises `Violation` with the rule it stands for; the names are those of the design.
"""

import contextlib
import functools
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import trio

from piperfs.core.errors import FsError
from piperfs.core.operation import decode_header
from piperfs.fs.api import ROOT_INO
from piperfs.replication.dialling import ADDRESSES_MAX
from piperfs.replication.pushing import KNOWN_MAX, OWED_MAX
from piperfs.replication.replicator import SESSIONS_HELD_MAX
from tests.sim.desk import Desk, Spot
from tests.sim.ledger import Ledger, tokens_in
from tests.sim.machine import Machine
from tests.store.test_index_equals_view import check as index_equals_view


class Violation(AssertionError):  # noqa: N818 - it is what the report calls it
    """A promise was broken."""


def require(holds: object, rule: str, *facts: object) -> None:
    if not holds:
        raise Violation(f"{rule}: {', '.join(map(str, facts))}"[:2000])


def is_quiet(machines: Sequence[Machine], hopeless: frozenset[bytes]) -> bool:
    """Whether all replicas hold the same, durably, content included."""
    nodes = [machine.running for machine in machines]
    for node in nodes:
        if node.store.has_uncommitted and node.store._local.waiting:
            return False
        if node.store.log.last_lseq > node.store.log.durable_lseq:  # which no digest counts yet
            return False
        if any(chunk not in hopeless for chunk in node.store.chunks.wanted(1 << 20)):
            return False
    return len({node.store.digest() for node in nodes}) == 1


def why_not_quiet(machines: Sequence[Machine]) -> str:
    """What keeps replicas apart, for the report of a violation."""
    parts = []
    for machine in machines:
        node = machine.running
        assert node.replicator is not None
        status = node.replicator.status()
        peers = [(p.name, p.state, p.behind, p.ahead, p.waits_for) for p in status]
        parts.append(
            f"\n  {machine.name}: {node.store.log.count()} operations, digest "
            f"{node.store.digest().hex()[:8]}, wants {node.store.chunks.want_count}, "
            f"members {len(node.graph.records())}, "
            f"uncommitted {node.store._local.waiting}, failure {node.committer.failure}, {peers}"
        )
    return "".join(parts)


def agree(machines: Sequence[Machine]) -> None:
    """O1 and O6: equal trees, each equal to the view of its own records."""
    trees = {}
    for machine in machines:
        store = machine.running.store
        node: Any = SimpleNamespace(store=store, root=store.root)
        try:
            trees[machine.name] = index_equals_view(node)
        except AssertionError as error:
            raise Violation(f"O6 the index equals the view: {machine.name}: {error}") from error
    first = next(iter(trees.values()))
    for name, tree in trees.items():
        require(tree == first, "O1 equal trees", name, f"\n{tree}\n", f"\n{first}\n")


def shown(desk: Desk) -> dict[str, bytes]:
    """Every readable path with what it shows, orphans included."""
    found: dict[str, bytes] = {}
    waiting: list[tuple[str, Spot]] = [("", spot) for spot in desk.spots()]
    orphans = orphans_of(desk)
    waiting += [("orphans/", spot) for spot in (desk.spots(orphans) if orphans else ())]
    for prefix, spot in waiting:
        path = f"{prefix}{spot.parent}/{spot.name!r}"
        try:
            found[path] = desk.content(spot)
        except Exception as error:  # noqa: BLE001 - absent chunks are judged by who asks
            found[path] = f"unreadable: {type(error).__name__}".encode()
    return found


def orphans_of(desk: Desk) -> int | None:
    try:
        hidden = desk.fs.lookup(ROOT_INO, b".piperfs").ino
        return desk.fs.lookup(hidden, b"orphans").ino
    except FsError:
        return None


async def mend(desk: Desk) -> None:
    """Read everything once, as people do: a damaged chunk is noticed and fetched again."""
    waiting = desk.spots()
    orphans = orphans_of(desk)
    for spot in [*waiting, *(desk.spots(orphans) if orphans else ())]:
        with contextlib.suppress(FsError):
            await desk.service.with_chunks(functools.partial(desk.content, spot))


def nothing_lost(desks: Iterable[Desk], ledger: Ledger, *, chunks_may_be_lost: bool) -> None:
    """O2, O3 and O7: every write is there, or was let go of by somebody who saw it."""
    first: list[bytes] | None = None
    for desk in desks:
        content = shown(desk)
        bad = [path for path, data in content.items() if data.startswith(b"unreadable")]
        require(chunks_may_be_lost or not bad, "every content can be read", desk.machine.name, bad)
        found = sorted(content.values())
        other = [each[:40] for each in set(found).symmetric_difference(first or found)]
        require(first is None or found == first, "O1 equal contents", desk.machine.name, other)
        first = found
        visible = frozenset[int]().union(*map(tokens_in, content.values()))
        missing = ledger.missing(visible)
        if chunks_may_be_lost and bad:
            continue
        facts = [(t, ledger.written[t], ledger.let_go.get(t)) for t in missing[:5]]
        require(not missing, "O3 no write is lost unseen", desk.machine.name, facts)


def dots_are_unique(
    machines: Iterable[Machine], known: dict[tuple[bytes, int], bytes], liars: frozenset[bytes]
) -> None:
    """O7: no number of an author is ever used twice, whatever crashed."""
    for machine in machines:
        if machine.node is None:
            continue
        for _, raw in machine.running.store.log.after(0, 1 << 40):
            header = decode_header(raw)
            identity = machine.running.store.log
            del identity
            dot = (bytes(header.replica), header.seq)
            if header.replica in liars:
                continue
            before = known.setdefault(dot, raw)
            require(before == raw, "O7 a number is used once", machine.name, dot)


def bounded(machine: Machine) -> None:
    """Memory that peers fill has its limits."""
    replicator = machine.running.replicator
    assert replicator is not None
    require(len(replicator._sessions) <= SESSIONS_HELD_MAX, "bounded sessions", machine.name)
    require(len(replicator.dials) <= ADDRESSES_MAX, "bounded addresses", machine.name)
    for session in replicator._sessions.values():
        require(len(session.pushing.known) <= KNOWN_MAX, "bounded memory of ids", machine.name)
        require(len(session.pushing.owed) <= OWED_MAX, "bounded debts", machine.name)


def nothing_waits(machine: Machine) -> None:
    """What honest replicas write is believed."""
    waiting = len(machine.running.store.waiting)
    require(not waiting, "no honest operation waits for proof", machine.name, waiting)


# Faults after which a member may look like a liar: its frames, disk, clock or program are wrong.
SUSPICIOUS = frozenset(
    (
        "tamper",
        "corrupt",
        "remove",
        "role",
        "clone",
        "restore",
        "rot_cell",
        "rot_chunk",
        "skew",
        "clock_years",
    )
)  # fmt: skip


def nobody_is_accused(machine: Machine) -> None:
    """What honest members do is never held against them."""
    node = machine.running
    known = [
        (node.name_of(replica), offence.value, row.count, row.detail)
        for replica, offence, row in node.store.offences.all(node.clock.now_ns())
    ]
    require(not known, "no honest member is accused", machine.name, known)


def living_tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living
