"""How many admins must say the same before it is done, on volumes that were founded with a quorum.

Two records say the same if they remove the same member, or give it the same role; each is the vote
of its author, and the one that completes the number takes effect. So nothing new has to be signed,
and a proposal is simply a record that does not count yet.

A vote is needed of one admin only while there are fewer than three. They are counted by all claims
to the role but those that build on the record, so that nobody gets around the others by building on
records from before they came; whom a record is about cannot hide behind admins that he made apart
from it. The number itself is part of the founding record: changing it would need no fewer votes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from piperfs.core.ids import ReplicaId
from piperfs.core.membership_records import (
    Genesis,
    Invite,
    Join,
    Record,
    RecordId,
    Remove,
    Role,
    SetRole,
)

ADMINS_MIN: Final = 3  # with fewer of them each acts alone


@dataclass(frozen=True, slots=True)
class Node:
    """A record in its graph. `seen` has one bit for every record that it builds on."""

    identity: RecordId
    record: Record
    raw: bytes
    depth: int
    bit: int
    seen: int

    @property
    def order(self) -> tuple[int, RecordId]:
        """A total order that all replicas share, in which parents come first."""
        return self.depth, self.identity


def are_apart(node: Node, other: Node) -> bool:
    """Whether neither of two records had seen the other."""
    return node is not other and not node.seen & other.bit and not other.seen & node.bit


class Claim(NamedTuple):
    """A record that makes somebody an admin, if it counts."""

    node: Node
    member: ReplicaId


class Proposal(NamedTuple):
    """What some admins have signed and others have not."""

    member: ReplicaId
    role: Role | None  # None: it is to go
    signed_by: tuple[ReplicaId, ...]


@dataclass(slots=True)
class Votes:
    """The votes that were cast so far, in the order of the records."""

    quorum: int = 1
    claims: list[Claim] = field(default_factory=list)
    removals: dict[ReplicaId, dict[ReplicaId, Node]] = field(default_factory=dict)
    roles: dict[ReplicaId, dict[ReplicaId, Node]] = field(default_factory=dict)

    def claimed_beside(self, node: Node, about: ReplicaId | None) -> set[ReplicaId]:
        """Who is an admin by claims that do not lie above a record, those by its subject aside."""
        return {
            claim.member
            for claim in self.claims
            if claim.node is not node
            and not claim.node.seen & node.bit
            and not (are_apart(claim.node, node) and claim.node.record.author == about)
        }

    def cast(self, node: Node, admins: Iterable[ReplicaId]) -> list[Node]:
        """Take a vote; returns all that say the same, of those who are admins now."""
        statement = node.record.statement
        assert isinstance(statement, Remove | SetRole)
        kind = self.removals if isinstance(statement, Remove) else self.roles
        box = kind.setdefault(statement.member, {})
        box[node.record.author] = node
        return [vote for who, vote in box.items() if who in admins and _are_same(vote, node)]

    def proposals(self, present: Mapping[ReplicaId, Role]) -> list[Proposal]:
        """What waits for more votes, given the roles of those who are members."""
        signed: dict[tuple[ReplicaId, Role | None], list[ReplicaId]] = {}
        for kind in (self.removals, self.roles):
            for member, box in kind.items():
                for who, vote in box.items():
                    role = None if kind is self.removals else _role_of(vote)
                    if present.get(who) == "admin" and present.get(member, role) != role:
                        signed.setdefault((member, role), []).append(who)
        return [Proposal(*what, tuple(sorted(admins))) for what, admins in signed.items()]


def _role_of(node: Node) -> Role:
    assert isinstance(node.record.statement, SetRole)
    return node.record.statement.role


def _are_same(vote: Node, other: Node) -> bool:
    statement = vote.record.statement
    return isinstance(statement, Remove) or _role_of(vote) == _role_of(other)


def claims_of(order: Iterable[Node]) -> list[Claim]:
    """All claims to the role of an admin among records, parents first, counting ones or not."""
    invited: set[RecordId] = set()
    found: list[Claim] = []
    for node in order:
        match node.record.statement:
            case Genesis(keys=keys):
                found.append(Claim(node, keys.replica))
            case Invite(role="admin"):
                invited.add(node.identity)
            case Join(invite=invite, keys=keys) if invite in invited:
                found.append(Claim(node, keys.replica))
            case SetRole(member=member, role="admin"):
                found.append(Claim(node, member))
            case _:
                pass
    return found
