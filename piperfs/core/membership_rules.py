"""The rules of membership: what a set of signed records amounts to, whatever their order.

1. A record counts if its author holds the right by the records that it has seen and that count
   themselves, and if no removal of the author stands where neither record had seen the other. So
   whoever is removed cannot undo it, neither in person nor through others whom he let in or
   promoted meanwhile.
2. A removal that takes away another one's ground beats it. Where two do this to each other, the
   one of the senior author stands: earlier grant, then smaller id.
3. Of several removals of one member the largest cut counts.
4. An invite lets one device in: of two joins the first by depth and hash stands; the other
   device counts as removed, since it was given keys.
5. The current epoch is the newest of those whose key no outsider holds, one that every reader
   holds before one that some lack.
6. The last admin stays.
7. A device that goes on under other keys is another member with the name, the seniority and the
   role that the first has by then. A change of role that had not seen it applies to it too.
8. On a volume that was founded with a quorum, removals and roles need so many votes; see
   `membership_votes.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import msgspec
from msgspec.structs import replace

from piperfs.core.identity import PublicKeys
from piperfs.core.ids import EpochId, ReplicaId, VolumeId
from piperfs.core.limits import SEQ_MAX
from piperfs.core.membership_records import (
    EPOCH_BYTES,
    Genesis,
    Invite,
    Join,
    RecordId,
    Remove,
    Renew,
    Role,
    Rotate,
    SetRole,
    epoch_of,
)
from piperfs.core.membership_votes import ADMINS_MIN, Node, Proposal, Votes, are_apart, claims_of

WRITING_ROLES: Final = frozenset(("admin", "writer"))
READING_ROLES: Final = frozenset(("admin", "writer", "reader"))


class Member(msgspec.Struct, frozen=True):
    """A device that was let in; its operations count up to number `counts_until`."""

    replica: ReplicaId
    keys: PublicKeys
    label: str
    role: Role
    joined_ns: int
    grant: tuple[int, RecordId]  # depth and record: seniority
    counts_until: int
    removed: bool = False
    succeeds: ReplicaId | None = None  # the same device, under the keys that it had before


def origin_of(members: Mapping[ReplicaId, Member], replica: ReplicaId) -> ReplicaId:
    """Under which keys the device of a member was first let in."""
    member = members[replica]
    while member.succeeds is not None:
        member = members[member.succeeds]
    return member.replica


class Invitation(msgspec.Struct, frozen=True):
    """An invite, and who spent it."""

    invite: Invite
    node: Node
    spent_by: ReplicaId | None = None


Standing: TypeAlias = Mapping[ReplicaId, Sequence[Node]]  # removals by whom they remove


@dataclass(slots=True)
class Counting:
    """Records taken in one by one, in their order, where the removals `standing` take effect."""

    standing: dict[ReplicaId, list[Node]] = field(default_factory=dict)
    members: dict[ReplicaId, Member] = field(default_factory=dict)
    invitations: dict[RecordId, Invitation] = field(default_factory=dict)
    epochs: list[Node] = field(default_factory=list)
    joins: list[Node] = field(default_factory=list)
    open: list[Node] = field(default_factory=list)  # removals that might stand too
    _renewals: list[Node] = field(default_factory=list)
    votes: Votes = field(default_factory=Votes)
    _grants: dict[ReplicaId, list[tuple[Node, Role | None]]] = field(default_factory=dict)
    _caps: dict[ReplicaId, int] = field(default_factory=dict)

    def add(self, node: Node) -> None:
        """Take in a record if it counts."""
        if self.why_not(node) is None and not self._is_removed_meanwhile(node):
            self._apply(node)

    def why_not(self, node: Node) -> str | None:
        """Why a record's author had no right to it by what it builds on; None if he had."""
        statement = node.record.statement
        if isinstance(statement, Genesis):
            return None
        role = self._role_at(node, node.record.author)
        if role is None:
            return "its author was no member"
        if isinstance(statement, Join):
            return None if role in READING_ROLES else f"a {role} lets nobody in"
        if isinstance(statement, Renew):
            return None
        return None if role == "admin" else f"a {role} has no right to it"

    def _role_at(self, node: Node, who: ReplicaId) -> Role | None:
        """Somebody's role by the counting records that a record builds on."""
        for grant, role in reversed(self._grants.get(who, ())):
            if node.seen & grant.bit:
                return role
        return None

    def role_beside(self, removal: Node) -> Role | None:
        """The last role of whom a removal removes, but for what was said by who had seen it."""
        grants = self._grants[_removed_by(removal)]
        return next(role for grant, role in reversed(grants) if not grant.seen & removal.bit)

    def _is_removed_meanwhile(self, node: Node) -> bool:
        """Whether the author was removed by somebody while neither had seen the other's record."""
        removals = self.standing.get(node.record.author, ())
        return any(are_apart(removal, node) for removal in removals)

    def _apply(self, node: Node) -> None:
        statement = node.record.statement
        match statement:
            case Genesis():
                self.votes.quorum = statement.quorum
                self._let_in(node, statement.keys, statement.member_label, "admin")
                self.epochs.append(node)
            case Invite():
                self.invitations[node.identity] = Invitation(statement, node)
            case Join():
                self._apply_join(node, statement)
            case Renew():
                self._apply_renewal(node, statement)
            case SetRole():
                self._apply_role(node, statement)
            case Remove():
                self._apply_removal(node, statement)
            case Rotate():
                self.epochs.append(node)

    def _let_in(self, node: Node, keys: PublicKeys, label: str, role: Role) -> None:
        until = SEQ_MAX if role in WRITING_ROLES else 0
        self.members[keys.replica] = Member(
            keys.replica, keys, label, role, node.record.time_ns, node.order, until
        )
        self._grants.setdefault(keys.replica, []).append((node, role))

    def _apply_join(self, node: Node, join: Join) -> None:
        replica = join.keys.replica
        invitation = self.invitations.get(join.invite)
        if invitation is None or not node.seen & invitation.node.bit:
            return
        self.joins.append(node)
        if replica in self.members:
            return
        role = invitation.invite.role
        if role == "admin" and self._votes_needed(invitation.node, None) > 1:
            role = "writer"  # admins are made by as many as it takes
        self._let_in(node, join.keys, join.label, role)
        if invitation.spent_by is None:
            self.invitations[join.invite] = replace(invitation, spent_by=replica)
        else:
            self._strike(replica, 0)
            self._grants[replica].append((node, None))

    def _apply_renewal(self, node: Node, renewal: Renew) -> None:
        """The device keeps its name, its seniority and the role that it has by now."""
        before = self.members[node.record.author]
        replica = renewal.keys.replica
        if replica in self.members:
            return
        self._let_in(node, renewal.keys, before.label, before.role)
        self.joins.append(node)
        self._renewals.append(node)
        self.members[replica] = replace(
            self.members[replica], grant=before.grant, succeeds=before.replica
        )

    def renewals_of(self, replica: ReplicaId) -> int:
        """How often the device of a member went on under other keys, over all copies of it."""
        authors = (node.record.author for node in self._renewals)
        return sum(1 for author in authors if self._origin(author) == self._origin(replica))

    def _origin(self, replica: ReplicaId) -> ReplicaId:
        return origin_of(self.members, replica)

    def _apply_role(self, node: Node, change: SetRole) -> None:
        cuts = self._cuts(node, change.member)
        if cuts is not None:
            self.votes.roles.pop(change.member, None)
            self._change_role(node, SetRole(change.member, change.role, max(cuts)))

    def _change_role(self, node: Node, change: SetRole) -> None:
        """Also for what the device became meanwhile, which the admin could not know."""
        self._apply_role_to(node, change)
        for renewal in self._renewals:
            statement = renewal.record.statement
            assert isinstance(statement, Renew)
            if renewal.record.author == change.member and not node.seen & renewal.bit:
                self._change_role(node, SetRole(statement.keys.replica, change.role))

    def _apply_role_to(self, node: Node, change: SetRole) -> None:
        member = self.members.get(change.member)
        if member is None or member.removed or not self._keeps_an_admin(member, change.role):
            return
        if (member.role == "store") != (change.role == "store"):
            return  # it lacks the keys, or has them: such a computer is invited anew
        until = SEQ_MAX
        if change.role not in WRITING_ROLES:
            cut = max(0, min(change.cut, SEQ_MAX))
            until = cut if member.role in WRITING_ROLES else max(cut, member.counts_until)
        self.members[member.replica] = replace(member, role=change.role, counts_until=until)
        self._grants[member.replica].append((node, change.role))

    def _keeps_an_admin(self, member: Member, role: Role) -> bool:
        others = (
            other.role == "admin" and not other.removed and other.replica != member.replica
            for other in self.members.values()
        )
        return role == "admin" or member.role != "admin" or any(others)

    def _apply_removal(self, node: Node, removal: Remove) -> None:
        member = self.members.get(removal.member)
        if member is None or not (member.removed or self._keeps_an_admin(member, "reader")):
            return
        cuts = self._cuts(node, member.replica)
        if cuts is None:
            return
        if node in self.standing.get(member.replica, ()):
            self._strike(member.replica, max(cuts))
            self._grants[member.replica].append((node, None))
        else:
            self.open.append(node)

    def _cuts(self, node: Node, member: ReplicaId) -> list[int] | None:
        """The cuts of all who voted for the same, or None if they are too few."""
        statement = node.record.statement
        assert isinstance(statement, Remove | SetRole)
        if self.votes.quorum == 1:
            return [statement.cut]
        admins = {m.replica for m in self.members.values() if m.role == "admin" and not m.removed}
        votes = self.votes.cast(node, admins)
        voters = {self._origin(vote.record.author) for vote in votes}
        if len(voters) < self._votes_needed(node, member):
            return None
        said = (vote.record.statement for vote in votes)
        return [each.cut for each in said if isinstance(each, Remove | SetRole)]

    def _votes_needed(self, node: Node, about: ReplicaId | None) -> int:
        """A device that goes on under other keys is one admin all the while."""
        if self.votes.quorum == 1 or node.record.author == about:
            return 1  # whoever wants to may go
        still: set[ReplicaId] = set()
        lost: set[ReplicaId] = set()
        for who, grants in self._grants.items():
            seen = [role for grant, role in grants if node.seen & grant.bit]
            if seen:
                (still if seen[-1] == "admin" else lost).add(self._origin(who))
        claimed = self.votes.claimed_beside(node, about)
        admins = {self._origin(who) if who in self.members else who for who in claimed}
        return self.votes.quorum if len(admins - (lost - still)) >= ADMINS_MIN else 1

    def _strike(self, replica: ReplicaId, cut: int) -> None:
        member = self.members[replica]
        cap = self._caps.setdefault(replica, member.counts_until)
        until = min(cap, max(0, cut))
        if member.removed:
            until = max(until, member.counts_until)
        self.members[replica] = replace(member, removed=True, counts_until=until)

    def extend(self, node: Node) -> None:
        """Take in a record that builds on everything here."""
        if self.votes.quorum > 1 or isinstance(node.record.statement, Genesis):
            invited = [invitation.node for invitation in self.invitations.values()]
            self.votes.claims += claims_of([*invited, node])
        self.add(node)
        while self.open:
            removal = self.open.pop()
            statement = removal.record.statement
            assert isinstance(statement, Remove)
            self.standing.setdefault(statement.member, []).append(removal)
            self._apply_removal(removal, statement)


def count(nodes: Iterable[Node]) -> Counting:
    """Evaluate a set of records that holds the parents of each."""
    order = sorted(nodes, key=lambda node: node.order)
    standing: dict[ReplicaId, list[Node]] = {}
    while True:
        counting = _count(order, standing)
        if not counting.open:
            return counting
        for node in _choose(order, counting):
            standing.setdefault(_removed_by(node), []).append(node)


def _count(order: Sequence[Node], standing: Standing) -> Counting:
    counting = Counting({member: list(nodes) for member, nodes in standing.items()})
    if any(
        isinstance(n.record.statement, Genesis) and n.record.statement.quorum > 1 for n in order[:1]
    ):
        counting.votes.claims = claims_of(order)
    for node in order:
        counting.add(node)
    return counting


def _removed_by(node: Node) -> ReplicaId:
    assert isinstance(node.record.statement, Remove)
    return node.record.statement.member


def _choose(order: Sequence[Node], counting: Counting) -> list[Node]:
    """Which of the open removals stand next: harmless ones in no danger, else one to go first."""
    if len(counting.open) == 1:
        return counting.open
    harmless = [node for node in counting.open if _is_harmless(node, order, counting)]
    others = [node for node in counting.open if node not in harmless]
    beaten = {node.identity: _beaten_by(node, order, counting) for node in others}
    in_danger = set().union(*beaten.values())
    safe = [node for node in harmless if node.identity not in in_danger]
    if safe:
        return safe

    def rank(node: Node) -> tuple[tuple[int, RecordId], tuple[int, RecordId]]:
        return counting.members[node.record.author].grant, node.order

    def yields(node: Node) -> bool:
        return any(
            node.identity in beaten[other.identity]
            and (other.identity not in beaten[node.identity] or rank(other) < rank(node))
            for other in others
        )

    firm = [node for node in others if not yields(node)]
    return [min(firm or others, key=rank)]


def _is_harmless(node: Node, order: Sequence[Node], counting: Counting) -> bool:
    """Whoever it removes has done nothing meanwhile, and was no admin.

    What was said later, by who had seen the removal, has no say: so a record on top of all others
    changes nothing of what was decided without it.
    """
    member = _removed_by(node)
    if counting.role_beside(node) == "admin":
        return False
    return not any(are_apart(node, other) for other in order if other.record.author == member)


def _beaten_by(node: Node, order: Sequence[Node], counting: Counting) -> set[RecordId]:
    """The other open removals that do not count if this one stands."""
    standing = {**counting.standing, _removed_by(node): [
        *counting.standing.get(_removed_by(node), ()), node
    ]}  # fmt: skip
    left = {other.identity for other in _count(order, standing).open}
    return {other.identity for other in counting.open if other is not node} - left


def rank_epochs(counting: Counting) -> tuple[list[EpochId], bool, bool]:
    """Epochs, the best to write in first; whether the best is clean, and known to all readers."""
    present = {m.replica for m in counting.members.values() if not m.removed}
    readers = {r for r in present if counting.members[r].role in READING_ROLES}
    holders = _holders(counting)

    def quality(node: Node) -> tuple[bool, bool, tuple[int, RecordId]]:
        held = holders[epoch_of(node.identity)]
        return held <= readers, readers <= held, node.order

    ranked = sorted(counting.epochs, key=quality, reverse=True)
    is_clean, is_complete, _ = quality(ranked[0])
    return [epoch_of(node.identity) for node in ranked], is_clean, is_complete


def _holders(counting: Counting) -> dict[EpochId, set[ReplicaId]]:
    """Who can open each epoch: by a wrap for it, or through a later epoch."""
    holders: dict[EpochId, set[ReplicaId]] = {
        epoch_of(node.identity): set() for node in counting.epochs
    }
    for node in counting.joins:
        assert isinstance(node.record.statement, Join | Renew)
        for wrap in node.record.statement.wraps:
            holders.get(EpochId(wrap.sealed[:EPOCH_BYTES]), set()).add(wrap.member)
    for node in sorted(counting.epochs, key=lambda node: node.order, reverse=True):
        statement = node.record.statement
        assert isinstance(statement, Genesis | Rotate)
        held = holders[epoch_of(node.identity)]
        held.update(wrap.member for wrap in statement.wraps)
        for earlier in statement.previous if isinstance(statement, Rotate) else ():
            holders.get(earlier.epoch, set()).update(held)
    return holders


@dataclass(frozen=True)
class MembershipState:
    """What the records amount to."""

    members: Mapping[ReplicaId, Member]
    invites: Mapping[RecordId, tuple[Invite, ReplicaId | None]]  # with who spent it
    epochs: tuple[EpochId, ...]  # the best to write in first
    is_clean: bool  # nobody but present readers holds the current key
    is_complete: bool  # every present reader holds it
    proposals: tuple[Proposal, ...] = ()  # what waits for votes of more admins
    quorum: int = 1

    @classmethod
    def of(cls, counting: Counting) -> "MembershipState":
        epochs, is_clean, is_complete = rank_epochs(counting)
        invites = {i: (each.invite, each.spent_by) for i, each in counting.invitations.items()}
        members, votes = dict(counting.members), counting.votes
        present = {replica: m.role for replica, m in members.items() if not m.removed}
        proposals = tuple(votes.proposals(present))
        return cls(members, invites, tuple(epochs), is_clean, is_complete, proposals, votes.quorum)

    @property
    def current(self) -> EpochId:
        return self.epochs[0]

    def member(self, replica: ReplicaId) -> Member | None:
        return self.members.get(replica)

    def present(self) -> list[Member]:
        return [member for member in self.members.values() if not member.removed]

    def proposal(self, member: ReplicaId, role: Role | None) -> Proposal | None:
        """Who signed so far that a member gets a role, or goes, and waits for others."""
        same = (each for each in self.proposals if (each.member, each.role) == (member, role))
        return next(same, None)

    @property
    def votes_needed(self) -> int:
        """How many admins must sign a removal or a role now."""
        present = (each for each in self.present() if each.role == "admin")
        admins = {origin_of(self.members, each.replica) for each in present}
        return self.quorum if len(admins) >= ADMINS_MIN else 1

    @property
    def has_store(self) -> bool:
        """Whether a member holds what it cannot read."""
        return any(member.role == "store" for member in self.present())

    def may_connect(self, replica: ReplicaId) -> bool:
        member = self.members.get(replica)
        return member is not None and not member.removed

    def may_write(self, replica: ReplicaId, seq: int) -> bool:
        """Whether an operation of a replica counts: the same rule everywhere."""
        member = self.members.get(replica)
        return member is not None and seq <= member.counts_until


def volume_of(node: Node) -> VolumeId:
    """The volume that a genesis record founds."""
    return VolumeId(node.identity)
