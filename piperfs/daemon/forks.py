"""What a replica does about members that signed two operations under one number.

The proof is kept and told to everybody. What the member wrote beyond that number is taken out of
the tree and held, here and on every replica that knows the proof, so all of them agree; the two
operations themselves stay. It counts again when an admin removes the member: what it wrote until
then, and nothing more.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from piperfs.core.forks import Fork, check_fork, point_of
from piperfs.core.ids import ReplicaId
from piperfs.core.limits import EARLY_FORKS_MAX, SEQ_MAX
from piperfs.core.membership_rules import MembershipState
from piperfs.obs.log import get_logger
from piperfs.replication.verifying import unseal_of

if TYPE_CHECKING:
    from piperfs.daemon.node import Node

log = get_logger("members")


def note(node: "Node", fork: Fork) -> bool:
    """Take in a proof; tells whether it says something new. Raises PeerError if it proves nothing.

    A proof about somebody unknown waits, since records may come later than proofs.
    """
    point = point_of(fork)
    member = node.graph.state().member(point.replica)
    if member is None:
        if len(node.early_forks) < EARLY_FORKS_MAX:
            node.early_forks[point.replica] = fork
        return False
    check_fork(fork, node.graph.volume, member.keys.signing)
    if not node.store.forks.put(fork):
        return False
    log.warning("member.forked", name=member.label, member=point.replica.hex(), number=point.seq)
    if enforce(node).get(point.replica) is not None:
        withdraw(node)
    node.store.on_dirty()
    return True


def note_early(node: "Node") -> None:
    """Look again at proofs about members that were unknown."""
    state = node.graph.state()
    for replica in [replica for replica in node.early_forks if state.member(replica)]:
        note(node, node.early_forks.pop(replica))


def enforce(node: "Node") -> dict[ReplicaId, int]:
    """Which forks are in force: of a removed member its cut decides."""
    state = node.graph.state()
    forks = node.store.forks
    limits = {
        replica: seq
        for replica, seq in forks.known.items()
        if state.may_connect(replica) and replica != node.store.replica
    }
    forks.limits = limits
    return limits


def limits(node: "Node", state: MembershipState) -> dict[ReplicaId, int]:
    """Up to which number the operations of others count, where not all do."""
    found = {
        replica: member.counts_until
        for replica, member in state.members.items()
        if member.counts_until < SEQ_MAX and replica != node.store.replica
    }
    for replica, seq in node.store.forks.limits.items():
        found[replica] = min(seq, found.get(replica, seq))
    return found


def withdraw(node: "Node") -> int:
    """Take out what does not count; returns how many operations went."""
    until = limits(node, node.graph.state())
    beyond = {who: seq for who, seq in until.items() if node.store.log.has_beyond(who, seq)}
    if not beyond:
        return 0
    count = node.store.withdraw(beyond, unseal_of(node), node.clock.now_ns())
    if count:
        names = [node.name_of(author) for author in beyond]
        log.warning("operations.withdrawn", count=count, authors=names)
    return count


def release(node: "Node") -> None:
    """Let count what was held of members whom an admin removed since, up to the cut."""
    forks, state = node.store.forks, node.graph.state()
    for replica in set(forks.known) - set(forks.limits) - {node.store.replica}:
        member = state.member(replica)
        if member is None or not forks.held_of(replica):
            continue
        now = node.clock.now_ns()
        came, went = node.store.release(replica, member.counts_until, unseal_of(node), now)
        log.info("operations.released", name=member.label, merged=came, dropped=went)


def health(node: "Node") -> Iterator[tuple[str, str]]:
    """What a person should know of it, by member."""
    forks, state = node.store.forks, node.graph.state()
    for replica in forks.known:
        name = node.name_of(replica)
        if replica == node.store.replica:
            yield f"fork {name}", "another computer writes under this one's key: see members"
        elif replica in forks.limits and state.may_connect(replica):
            later = f"{forks.held_of(replica)} later ones are held"
            reason = f"it signed two operations under one number; {later}"
            yield f"fork {name}", f"{reason}: a copied computer, or a liar; see members"
