"""What a daemon says about itself: facts for `status`, `peers`, `conflicts` and metrics.

Everything is read from where it is anyway; nothing here changes anything, and a person who asks
for one thing that is not in sync always gets the reason with it.
"""

import datetime as dt
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import trio

from piperfs.core.ids import InodeId, ReplicaId
from piperfs.daemon import census
from piperfs.daemon.node import Node
from piperfs.obs.facts import (
    ConflictFacts,
    MemberFacts,
    OffenceFacts,
    PeerFacts,
    Status,
    StoreFacts,
    Waiting,
)
from piperfs.obs.metrics import Sample
from piperfs.store.directory import Found
from piperfs.store.rows import PeerRow

PATH_PARTS_MAX = 1000


def iso(ns: int) -> str:
    """A moment as people and programs read it."""
    try:
        moment = dt.datetime.fromtimestamp(ns / 1e9, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return "unknown"
    return moment.isoformat(timespec="seconds")


def path_of(node: Node, directory: InodeId, name: bytes = b"") -> str:
    """A path from the root of the volume, as text."""
    return path_bytes(node, directory, name).decode(errors="backslashreplace")


def path_bytes(node: Node, directory: InodeId, name: bytes = b"") -> bytes:
    """A path from the root of the volume."""
    parts = [name] if name else []
    inode = directory
    while len(parts) < PATH_PARTS_MAX:
        row = node.store.inode(inode)
        if inode == node.store.root or row is None or not row.links:
            break
        parts.append(row.links[0].name)
        inode = row.links[0].parent
    return b"/" + b"/".join(reversed(parts))


@dataclass(frozen=True, slots=True)
class Conflict:
    """A version that stands beside another: both paths, and what it is."""

    path: str
    copy: str
    found: Found


def conflicts_found(node: Node) -> Iterator[Conflict]:
    """Every version that stands beside another."""
    for directory, wanted, shown, found in node.store.conflicts():
        yield Conflict(path_of(node, directory, wanted), path_of(node, directory, shown), found)


def conflicts(node: Node) -> Iterator[ConflictFacts]:
    """The same, for people."""
    for conflict in conflicts_found(node):
        replica, when = _origin(conflict.found)
        yield ConflictFacts(
            path=conflict.path, copy=conflict.copy, author=node.name_of(replica), when=iso(when)
        )


def _origin(found: Found) -> tuple[ReplicaId, int]:
    if found.head is not None:
        return found.head.replica, found.head.hlc
    assert found.place is not None
    return found.place.replica, found.place.hlc


def members(node: Node) -> list[MemberFacts]:
    """Everybody who was ever let in."""
    proposals = node.graph.state().proposals
    return [
        MemberFacts(
            replica=member.replica.hex(),
            name=member.label,
            role=member.role,
            joined=iso(member.joined_ns),
            here=member.replica == node.store.replica,
            removed=member.removed,
            check_words=node.check_words(member.replica),
            proposals=tuple(
                node.describe(each) for each in proposals if each.member == member.replica
            ),
            forked_at=node.store.forks.known.get(member.replica),
            held=node.store.forks.held_of(member.replica),
            succeeds=_hex(member.succeeds),
        )
        for member in node.members()
    ]


def _hex(replica: ReplicaId | None) -> str | None:
    return None if replica is None else replica.hex()


def _succeeds(node: Node) -> str | None:
    own = node.graph.state().member(node.store.replica)
    return None if own is None else _hex(own.succeeds)


def peers(node: Node) -> list[PeerFacts]:
    """The other members as seen from here."""
    return node.replicator.status() if node.replicator is not None else _remembered(node)


def _remembered(node: Node) -> list[PeerFacts]:
    """Without a daemon: the members that are left, and where they were last met."""
    now = node.clock.now_ns()
    rows = node.store.peers()
    found = []
    for member in node.members():
        if member.replica == node.store.replica or member.removed:
            continue
        row = rows.get(member.replica, PeerRow())
        met = row.last_contact_ns
        found.append(
            PeerFacts(
                replica=member.replica.hex(),
                name=member.label,
                state="waiting" if met else "never met",
                address=row.addresses[0] if row.addresses else None,
                last_contact_s=(now - met) / 1e9 if met else None,
                waits_for="no daemon runs here",
            )
        )
    return found


def status(node: Node) -> Status:
    """Everything at once."""
    known = peers(node)
    waiting = list(_waiting(node, known))
    connected = [peer for peer in known if peer.state == "connected"]
    in_sync = not waiting if connected else None
    return Status(
        volume=node.store.volume.hex(),
        label=node.label,
        replica=node.store.replica.hex(),
        name=node.name_of(node.store.replica),
        role=node.role,
        succeeds=_succeeds(node),
        state=str(node.state.path),
        pid=os.getpid() if node.is_daemon else None,
        mountpoint=node.mountpoint,
        listening=node.replicator.listening if node.replicator is not None else [],
        digest=node.store.digest().hex(),
        in_sync=in_sync,
        waiting=waiting,
        peers=known,
        offences=list(offences(node)),
        conflicts=sum(1 for _ in node.store.conflicts()),
        key_protection=node.key_protection,
        store=_store(node),
        health=node.health(),
    )


def offences(node: Node) -> Iterator[OffenceFacts]:
    """What members did wrong within the last month."""
    now = node.clock.now_ns()
    for replica, offence, row in node.store.offences.all(now):
        yield OffenceFacts(
            replica=replica.hex(),
            name=node.name_of(replica),
            what=offence.text,
            detail=row.detail,
            count=row.count,
            first=iso(row.first_ns),
            last=iso(row.last_ns),
            last_s=(now - row.last_ns) / 1e9,
        )


def _store(node: Node) -> StoreFacts:
    log = node.store.log
    space = node.space()
    return StoreFacts(
        operations=log.count(),
        not_yet_durable=log.last_lseq - log.durable_lseq,
        chunks_wanted=node.store.chunks.want_count,
        operations_ahead=len(node.store.ahead),
        bytes_used=node.store.bytes_used(),
        bytes_free=max(0, space.available),
    )


def _waiting(node: Node, known: Iterable[PeerFacts]) -> Iterator[Waiting]:
    wanted = node.store.chunks.want_count
    if wanted and node.keeps_all:
        reason = "they arrive in the background" if node.is_daemon else "no daemon runs here"
        yield Waiting(what=f"{wanted} chunks", reason=reason)
    for author, ahead in node.store.ahead.facts().items():
        reason = (
            "dated more than a day ahead of the clock of this computer, which passes them "
            f"{iso(ahead.until_ns)}: one of the two clocks is wrong"
        )
        what = f"{ahead.operations} operations of {node.name_of(author)}"
        yield Waiting(what=what, reason=reason, on=node.name_of(author))
    yield from _unproved(node)
    for peer in known:
        if peer.waits_for is not None and peer.state == "connected":
            yield Waiting(what="operations", reason=peer.waits_for, on=peer.name)


def _unproved(node: Node) -> Iterator[Waiting]:
    """Operations that claim to know what nobody has shown, by author, author claimed and sender."""
    waiting = node.store.waiting
    found = Counter((each.operation.replica, each.lacks, each.sender) for each in waiting)
    for (author, lacks, sender), count in found.items():
        yield Waiting(
            what=f"{count} operations of {node.name_of(author)}",
            reason=f"they claim to know writes of {node.name_of(lacks)} that nobody has shown",
            on=None if sender is None else node.name_of(sender),
        )


def samples(node: Node) -> Iterator[Sample]:
    """The store in numbers."""
    log, chunks = node.store.log, node.store.chunks
    yield Sample("operations_live", "Operations in the log.", log.count())
    yield Sample(
        "durable_lag_operations",
        "Operations applied but not yet durable.",
        log.last_lseq - log.durable_lseq,
    )
    for replica, offence, row in node.store.offences.all(node.clock.now_ns()):
        labels = (("member", replica.hex()[:12]), ("kind", offence.value))
        yield Sample("offences", "What members did wrong in the last month.", row.count, labels)
    yield Sample("operations_unproved", "Operations that claim too much.", len(node.store.waiting))
    yield Sample("conflicts", "Versions beside others.", sum(1 for _ in node.store.conflicts()))
    yield Sample("chunks_wanted", "Absent chunks of live versions.", chunks.want_count)
    yield Sample("chunks_damaged", "Chunks found damaged.", chunks.damaged, counts_up=True)
    forks = node.store.forks
    yield Sample("forks", "Members that signed two operations under one number.", len(forks.known))
    yield Sample("operations_held", "Operations beyond a fork.", forks.held_count)
    for author, ahead in node.store.ahead.facts().items():
        label = (("author", author.hex()[:12]),)
        yield Sample("operations_ahead", "Dated too far ahead.", ahead.operations, label)
    aliases = node.store.shared_names
    yield Sample("shared_names", "Names that several directories share.", aliases)
    yield Sample("store_bytes", "Size of the store's file.", node.store.bytes_used())
    yield Sample("commits", "Commits of the store.", node.committer.commits, counts_up=True)
    tasks = trio.lowlevel.current_statistics().tasks_living
    yield Sample("tasks", "Concurrent tasks in the daemon.", tasks)
    if node.census is not None:
        yield from census.samples(node.census)
    for peer in peers(node):
        label = (("peer", peer.replica[:12]),)
        yield Sample("peer_connected", "1 if connected.", peer.state == "connected", label)
        if peer.behind is not None:
            yield Sample("peer_behind_operations", "What it lacks of ours.", peer.behind, label)
