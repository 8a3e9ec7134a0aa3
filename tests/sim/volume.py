"""A volume with its members, made once for a process: who they are depends on numbers alone."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from piperfs.core import epochs
from piperfs.core.identity import Identity, generate
from piperfs.core.ids import VolumeId
from piperfs.core.membership import MembershipGraph
from piperfs.core.membership_records import Role, record_id
from piperfs.core.ticket import make_invite

SECOND_NS = 1_000_000_000
BEGINNING_NS = 1_700_000_000 * SECOND_NS
FOREVER_NS = 1 << 62


@dataclass(frozen=True, slots=True)
class Founded:
    """The keys of all members, and the records that make them members."""

    volume: VolumeId
    members: tuple[Identity, ...]
    records: tuple[bytes, ...]


def admit_one(
    graph: MembershipGraph, admin: Identity, entropy: Callable[[int], bytes], label: str, role: Role
) -> Identity:
    """Let a new device in, as an invitation and its answer would."""
    identity = generate(entropy)
    invite, secret = make_invite(entropy, role, FOREVER_NS)
    record = record_id(graph.author(admin, BEGINNING_NS, invite))
    request = epochs.request_join(graph.volume, record, secret, identity, label)
    keys = epochs.epoch_keys(graph, admin)
    graph.author(admin, BEGINNING_NS, epochs.admit(graph, keys, request, BEGINNING_NS))
    return identity


@functools.cache
def found(members: int, *, real_signatures: bool) -> Founded:
    """A volume of so many members; the first two are admins."""
    del real_signatures  # the primitives in force differ; what they made must not be mixed
    entropy = Random(f"volume of {members}").randbytes
    founder = generate(entropy)
    raw, volume = epochs.found_volume(founder, entropy, BEGINNING_NS, "simulated", "m0")
    graph = MembershipGraph(volume)
    graph.add(raw)
    known = [founder]
    for number in range(1, members):
        role: Role = "admin" if number == 1 else "writer"
        known.append(admit_one(graph, founder, entropy, f"m{number}", role))
    return Founded(volume, tuple(known), tuple(graph.records().values()))
