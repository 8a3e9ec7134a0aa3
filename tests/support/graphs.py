"""All small membership graphs: three admins, two members, and what the admins may do to them."""

import itertools
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from piperfs.core import epochs, identity
from piperfs.core.epochs import admit, request_join
from piperfs.core.errors import PeerError
from piperfs.core.identity import Identity
from piperfs.core.membership import MembershipGraph
from piperfs.core.membership_records import (
    RecordId,
    Remove,
    Role,
    SetRole,
    Statement,
    author_record,
    decode_record,
)
from piperfs.core.ticket import make_invite

HOUR = 3600 * 10**9
NOW = 1_700_000_000 * 10**9
ADMINS = 3
ROLES: tuple[Role, ...] = ("admin", "admin", "writer", "writer")  # beside the founder


@dataclass(frozen=True)
class World:
    """A volume whose five members know one another, and all that may be said of them."""

    base: MembershipGraph
    people: tuple[Identity, ...]
    statements: tuple[Statement, ...]
    renewals: tuple[tuple[Identity, Statement], ...] = ()

    @property
    def admins(self) -> tuple[Identity, ...]:
        return self.people[:ADMINS]


def make_world(quorum: int = 1) -> World:
    founder = identity.generate(os.urandom)
    raw, volume = epochs.found_volume(founder, os.urandom, NOW, "v", "0", quorum=quorum)
    graph = MembershipGraph(volume)
    graph.add(raw)
    people = [founder]
    for number, role in enumerate(ROLES, 1):
        made, secret = make_invite(os.urandom, role, NOW + HOUR)
        invite = decode_record(graph.author(founder, NOW, made))[0]
        new = identity.generate(os.urandom)
        request = request_join(volume, invite, secret, new, str(number))
        keys = epochs.epoch_keys(graph, founder)
        graph.author(founder, NOW, admit(graph, keys, request, NOW))
        people.append(new)
    roles: tuple[tuple[int, Role], ...] = (
        (1, "reader"),
        (2, "writer"),
        (3, "admin"),
        (4, "admin"),
    )
    statements: list[Statement] = [Remove(who.replica, 5) for who in people]
    statements += [SetRole(people[index].replica, role, 3) for index, role in roles]
    renewals = []
    for who in people:
        renewed = Identity(identity.successor(who.secrets, b"s" * 32))
        renewals.append((who, epochs.renewal(graph, who, renewed)))
    return World(graph, tuple(people), tuple(statements), tuple(renewals))


def antichains(graph: MembershipGraph, fresh: Sequence[RecordId]) -> Iterator[tuple[RecordId, ...]]:
    """Every set of records that one more may build on: old heads, or new ones apart."""
    for size in range(1, len(fresh) + 1):
        for chosen in itertools.combinations(fresh, size):
            nodes = [graph._nodes[record] for record in chosen]
            if not any(a.seen & b.bit for a, b in itertools.permutations(nodes, 2)):
                yield chosen


def extend(
    world: World, graph: MembershipGraph, fresh: list[RecordId], deed: int
) -> Iterator[bytes]:
    """One more record by each choice of parents; `deed` picks author and statement."""
    if deed < 0:
        author, statement = world.renewals[-deed - 1]
    else:
        author, statement = world.admins[deed % 3], world.statements[deed // 3]
    for parents in (world.base.heads, *antichains(graph, fresh)):
        yield author_record(author, parents, NOW, statement)


def deeds(world: World) -> range:
    return range(3 * len(world.statements))


def all_graphs(
    world: World, size: int, graph: MembershipGraph | None = None, raws: tuple[bytes, ...] = ()
) -> Iterator[tuple[MembershipGraph, tuple[bytes, ...]]]:
    """Every graph of `size` records on top of the world; those that do not count are left out."""
    graph = graph or world.base
    if len(raws) == size:
        yield graph, raws
        return
    fresh = [decode_record(raw)[0] for raw in raws]
    for deed in deeds(world):
        for raw in extend(world, graph, fresh, deed):
            larger = graph.copy()
            try:
                if not larger.add(raw):
                    continue
            except PeerError:
                continue
            yield from all_graphs(world, size, larger, (*raws, raw))


def random_graph(
    world: World, rng: random.Random, size: int
) -> tuple[MembershipGraph, tuple[bytes, ...]]:
    """A graph of as many records as asked for, all of which count."""
    graph = world.base.copy()
    raws: list[bytes] = []
    choices = range(-len(world.renewals), deeds(world).stop)
    while len(raws) < size:
        fresh = [decode_record(raw)[0] for raw in raws]
        raw = rng.choice(list(extend(world, graph, fresh, rng.choice(choices))))
        try:
            if graph.add(raw):
                raws.append(raw)
        except PeerError:
            continue
    return graph, tuple(raws)


def check(world: World, graph: MembershipGraph, raws: Sequence[bytes]) -> int:
    """Every order of delivery gives the state of `graph`; returns how many there were."""
    expected = graph.state()
    count = 0
    for order in itertools.permutations(raws):
        other = world.base.copy()
        for raw in order:
            other.add(raw)
        assert other.state() == expected, "an order of delivery gives another state"
        count += 1
    present = expected.present()
    assert any(member.role == "admin" for member in present), "no admin is left"
    for member in expected.members.values():
        writes = member.role in ("admin", "writer") and not member.removed
        assert writes == (member.counts_until > 100), "a right to write without the role, or less"
    return count
