"""Every small membership graph, and every order in which its records can be delivered.

A volume of three admins and two writers is given. Each record removes one of the five or changes
a role, is signed by an admin, and builds on any records before it. Going through all orders of
all graphs would take years; five thoughts, each of them exact, make it minutes:

1. Whether a record is taken in is a function of the record and of what it builds on. So which
   records a graph holds in the end does not depend on their order.
2. An evaluation is `count` of the set of records, which sorts it first, or, if the last record
   builds on all others, `extend` of the evaluation before. By induction over the record that is
   delivered last, orders can differ only if `extend` differs from `count` for some graph and one
   more record on top of it: it is enough to compare the two for each such pair.
3. All records build on the founding ones, which no removal can undo: they are evaluated once.
4. Rules look at authors, statements and what builds on what, never at signatures. A record
   without one is as good here; `test_membership_graphs.py` holds these graphs against real ones.
5. The two writers sign nothing and are alike, so of two graphs that differ by their names one is
   tried.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final, TypeAlias
from unittest import mock

from blake3 import blake3

from piperfs.core import membership_rules as rules
from piperfs.core.membership_records import Record, Remove, SetRole, Statement
from piperfs.core.membership_rules import WRITING_ROLES, Counting, count
from piperfs.core.membership_votes import Node, claims_of
from tests.support.graphs import ADMINS, World

BASE_BIT: Final = 64  # where the bits of records beyond the founding ones begin
Set: TypeAlias = tuple[Node, ...]


@dataclass(frozen=True)
class Deed:
    """What somebody may sign; `key` is the same for deeds that differ by the writer only."""

    record: Record
    key: int
    writer: int  # 3 or 4, or 0 if it is about an admin


@dataclass(frozen=True)
class Counts:
    """How much was tried."""

    graphs: int = 0  # evaluated in full, one record smaller than those that are compared
    steps: int = 0  # a graph, and one more record on top of it

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.graphs + other.graphs, self.steps + other.steps)


class Enumeration:
    """All graphs over one world."""

    def __init__(self, world: World) -> None:
        nodes = list(world.base._nodes.values())
        self.founding = sum(node.bit for node in nodes)
        self.depth = max(node.depth for node in nodes)
        self.base = count(nodes)
        assert self.founding < 1 << BASE_BIT
        self.deeds = tuple(_deeds(world))

    @contextmanager
    def quickly(self) -> Iterator[None]:
        """Let each evaluation begin with that of the founding records."""
        with mock.patch.object(rules, "_count", self._count):
            yield

    def _count(self, order: Sequence[Node], standing: rules.Standing) -> Counting:
        counting = copy(self.base)
        counting.standing = {member: list(nodes) for member, nodes in standing.items()}
        if counting.votes.quorum > 1:
            counting.votes.claims += claims_of(order)
        for node in order:
            counting.add(node)
        return counting

    # Graphs

    def graphs(self, size: int, first: int | None = None) -> Iterator[tuple[Set, Counting]]:
        """Graphs of up to `size` records with their evaluations; `first` is a share of them."""
        yield from self._larger((), self.base, (), size, first)

    def _larger(
        self, graph: Set, counting: Counting, last: tuple[object, ...], size: int,
        first: int | None = None,
    ) -> Iterator[tuple[Set, Counting]]:  # fmt: skip
        """Records come by depth, deed and parents, so each set comes once."""
        if len(graph) == size:
            return
        writer_named = any(self._deed(node).writer for node in graph)
        for parents in _antichains(graph):
            past: Counting | None = None
            for index, deed in enumerate(self.deeds):
                if deed.writer == 4 and not writer_named:
                    continue
                node = self._node(graph, parents, index)
                key = (node.depth, index, tuple(parent.bit for parent in parents))
                if key <= last or first not in (None, index):
                    continue
                past = past or self._past(graph, counting, node)
                if past.why_not(node) is not None:
                    continue
                larger = (*graph, node)
                evaluated = count(larger)
                yield larger, evaluated
                yield from self._larger(larger, evaluated, key, size)

    def _deed(self, node: Node) -> Deed:
        return self.deeds[node.raw[0]]

    def _node(self, graph: Set, parents: Set, index: int) -> Node:
        seen, depth = self.founding, self.depth
        for parent in parents:
            seen |= parent.seen | parent.bit
            depth = max(depth, parent.depth)
        names = b"".join(parent.identity for parent in parents)
        raw = bytes((index,))
        identity = blake3(raw + names).digest()
        bit = 1 << (BASE_BIT + len(graph))
        return Node(identity, self.deeds[index].record, raw, depth + 1, bit, seen)

    def _past(self, graph: Set, counting: Counting, node: Node) -> Counting:
        past = tuple(other for other in graph if node.seen & other.bit)
        return counting if len(past) == len(graph) else count(past) if past else self.base

    # Checks

    def check(self, graph: Set, counting: Counting) -> int:
        """Raises AssertionError if an order of delivery matters; returns the number of steps."""
        check_sanity(counting)
        heads = tuple(n for n in graph if not any(other.seen & n.bit for other in graph))
        steps = 0
        for index in range(len(self.deeds)):
            top = self._node(graph, heads, index)
            if counting.why_not(top) is not None:
                continue
            extended = copy(counting)
            extended.extend(top)
            assert facts(extended) == facts(count((*graph, top))), "an order of delivery matters"
            steps += 1
        return steps

    def run(self, size: int, first: int | None = None) -> Counts:
        """Compare all orders of all graphs of up to `size` records, or of those of one share."""
        graphs = steps = 0
        with self.quickly():
            if first in (None, 0):
                steps += self.check((), self.base)
            for graph, counting in self.graphs(size - 1, first):
                steps += self.check(graph, counting)
                graphs += 1
        return Counts(graphs, steps)


def _deeds(world: World) -> Iterator[Deed]:
    whom = [person.replica for person in world.people]
    statements: list[tuple[Statement, int]] = [
        *((Remove(whom[index], 5), 0) for index in range(ADMINS)),
        (SetRole(whom[1], "reader", 3), 0),
        (SetRole(whom[2], "writer", 3), 0),
        *((Remove(whom[index], 5), index) for index in range(ADMINS, 5)),
        *((SetRole(whom[index], "admin", 3), index) for index in range(ADMINS, 5)),
    ]
    for admin in world.admins:
        for key, (statement, writer) in enumerate(statements):
            yield Deed(Record((), admin.replica, 0, statement), key, writer)


def _antichains(graph: Set) -> Iterator[Set]:
    """Every set of records that one more may build on."""
    yield ()
    for size in range(1, len(graph) + 1):
        for chosen in combinations(graph, size):
            if not any(a.seen & b.bit or b.seen & a.bit for a, b in combinations(chosen, 2)):
                yield chosen


def copy(counting: Counting) -> Counting:
    """An evaluation to go on with."""
    return replace(
        counting,
        standing={member: list(nodes) for member, nodes in counting.standing.items()},
        members=dict(counting.members),
        invitations=dict(counting.invitations),
        epochs=list(counting.epochs),
        joins=list(counting.joins),
        open=list(counting.open),
        votes=replace(
            counting.votes,
            claims=list(counting.votes.claims),
            removals={who: dict(box) for who, box in counting.votes.removals.items()},
            roles={who: dict(box) for who, box in counting.votes.roles.items()},
        ),
        _renewals=list(counting._renewals),
        _grants={member: list(grants) for member, grants in counting._grants.items()},
        _caps=dict(counting._caps),
    )


def facts(counting: Counting) -> tuple[object, ...]:
    """All that an evaluation says and that `extend` goes by.

    Which removals stand matters for records apart from them; one on top of all is apart from none.
    """
    votes = counting.votes
    claims = {claim.node.identity for claim in votes.claims}
    said = (votes.removals, votes.roles, claims)
    return counting.members, counting._grants, counting._caps, counting.open, said


def check_sanity(counting: Counting) -> None:
    present = [member for member in counting.members.values() if not member.removed]
    assert any(member.role == "admin" for member in present), "no admin is left"
    for member in counting.members.values():
        writes = member.role in WRITING_ROLES and not member.removed
        assert writes == (member.counts_until > 100), "a right to write without the role, or less"
