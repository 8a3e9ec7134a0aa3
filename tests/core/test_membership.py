"""Who belongs to a volume follows from the set of records, in whatever order they arrive."""

import itertools
import os
import random

import pytest

from piperfs.core import identity, membership
from piperfs.core.errors import PeerError, UserError
from piperfs.core.membership import MembershipGraph, admit, epoch_keys, request_join
from piperfs.core.membership_records import Remove, SetRole, decode_record
from piperfs.core.ticket import make_invite

HOUR = 3600 * 10**9
NOW = 1_700_000_000 * 10**9


class Device:
    """A member with its own copy of the graph."""

    def __init__(self, name, volume=None, records=()):
        self.name = name
        self.identity = identity.generate(os.urandom)
        if volume is None:
            raw, volume = membership.found_volume(self.identity, os.urandom, NOW, "v", name)
            records = (raw,)
        self.graph = MembershipGraph(volume)
        self.learn(records)

    def learn(self, records):
        for raw in records:
            self.graph.add(raw)

    def author(self, statement, now=NOW):
        return self.graph.author(self.identity, now, statement)

    def epochs(self):
        return epoch_keys(self.graph, self.identity)

    def invite(self, role="writer"):
        made, secret = make_invite(os.urandom, role, NOW + HOUR)
        raw = self.author(made)
        return decode_record(raw)[0], secret

    def admit(self, name, role="writer"):
        invite, secret = self.invite(role)
        device = Device(name, self.graph.volume, self.graph.records().values())
        request = request_join(self.graph.volume, invite, secret, device.identity, name)
        self.author(admit(self.graph, self.epochs(), request, NOW))
        device.learn(self.graph.records().values())
        return device

    def rotate(self):
        self.author(membership.rotation(self.graph, self.epochs(), os.urandom))

    def remove(self, other, cut=10):
        return self.author(Remove(other.identity.replica, cut))

    def role_of(self, other):
        member = self.graph.state().member(other.identity.replica)
        return None if member is None or member.removed else member.role


def share(*devices):
    for a, b in itertools.permutations(devices, 2):
        b.learn(a.graph.records().values())


def test_founder_is_admin_and_has_the_key():
    a = Device("a")
    assert a.role_of(a) == "admin"
    assert set(a.epochs()) == {a.graph.state().current}


def test_joined_member_has_role_and_key():
    a = Device("a")
    b = a.admit("b")
    assert b.role_of(b) == "writer"
    assert b.epochs() == a.epochs()


def test_store_gets_no_key():
    a = Device("a")
    assert a.admit("s", "store").epochs() == {}


def test_ticket_admits_one_device():
    a = Device("a")
    invite, secret = a.invite()
    for attempt in range(2):
        device = identity.generate(os.urandom)
        request = request_join(a.graph.volume, invite, secret, device, "x")
        if attempt:
            with pytest.raises(UserError, match="spent"):
                admit(a.graph, a.epochs(), request, NOW)
        else:
            a.author(admit(a.graph, a.epochs(), request, NOW))


def test_wrong_secret_and_late_ticket_are_refused():
    a = Device("a")
    invite, secret = a.invite()
    device = identity.generate(os.urandom)
    request = request_join(a.graph.volume, invite, os.urandom(32), device, "x")
    with pytest.raises(PeerError):
        admit(a.graph, a.epochs(), request, NOW)
    request = request_join(a.graph.volume, invite, secret, device, "x")
    with pytest.raises(UserError, match="expired"):
        admit(a.graph, a.epochs(), request, NOW + 2 * HOUR)


def test_one_invite_used_twice_apart_lets_one_in():
    a = Device("a")
    b = a.admit("b", "admin")
    invite, secret = a.invite()
    share(a, b)
    newcomers = []
    for device in (a, b):
        new = identity.generate(os.urandom)
        request = request_join(a.graph.volume, invite, secret, new, "x")
        device.author(admit(device.graph, device.epochs(), request, NOW))
        newcomers.append(new.replica)
    share(a, b)
    assert a.graph.state() == b.graph.state()
    present = [r for r in newcomers if a.graph.state().member(r)]
    assert len(present) == 1


def test_removed_member_gets_no_new_epoch():
    a = Device("a")
    b, c = a.admit("b"), a.admit("c")
    a.remove(b)
    assert not a.graph.state().is_clean
    a.rotate()
    share(a, b, c)
    assert a.graph.state().is_clean
    assert a.graph.state().current in c.epochs()
    assert a.graph.state().current not in b.epochs()
    assert len(c.epochs()) == 2
    assert not a.graph.state().may_write(b.identity.replica, 11)
    assert a.graph.state().may_write(b.identity.replica, 10)


def test_removal_beats_what_the_removed_did_meanwhile():
    a = Device("a")
    b = a.admit("b", "admin")
    c = b.admit("c")
    share(a, b, c)
    a.remove(b)
    b.author(SetRole(c.identity.replica, "admin"))
    share(a, b, c)
    assert a.role_of(c) == b.role_of(c) == "writer"


def test_senior_of_two_admins_stands():
    a = Device("a")
    b = a.admit("b", "admin")
    share(a, b)
    a.remove(b)
    b.remove(a)
    share(a, b)
    assert a.role_of(a) == b.role_of(a) == "admin"
    assert a.role_of(b) is None


def test_last_admin_stays():
    a = Device("a")
    a.admit("b")
    a.author(SetRole(a.identity.replica, "reader"))
    a.remove(a)
    assert a.role_of(a) == "admin"


def test_writers_cannot_administrate():
    a = Device("a")
    b = a.admit("b")
    b.author(SetRole(b.identity.replica, "admin"))
    b.remove(a)
    assert b.role_of(b) == "writer"
    assert b.role_of(a) == "admin"


def test_largest_cut_of_several_removals_counts():
    a = Device("a")
    b, c = a.admit("b", "admin"), a.admit("c")
    share(a, b, c)
    a.remove(c, 5)
    b.remove(c, 9)
    share(a, b)
    assert a.graph.state().may_write(c.identity.replica, 9)


def test_forged_records_are_refused():
    a, stranger = Device("a"), Device("x")
    raw = bytearray(a.remove(a))
    raw[-1] ^= 1
    with pytest.raises(PeerError):
        Device("b", a.graph.volume, list(a.graph.records().values())[:1]).graph.add(bytes(raw))
    with pytest.raises(PeerError):
        a.graph.add(next(iter(stranger.graph.records().values())))


def small_graphs():
    """Graphs of up to five statements after three admins and two members came in."""
    a = Device("a")
    b, c = a.admit("b", "admin"), a.admit("c", "admin")
    d, e = a.admit("d"), a.admit("e")
    everybody = (a, b, c, d, e)
    share(*everybody)
    admins = (a, b, c)
    deeds = [
        *(lambda who, whom=whom: who.remove(whom) for whom in everybody),
        *(
            lambda who, whom=whom, role=role: who.author(SetRole(whom.identity.replica, role))
            for whom in (b, d)
            for role in ("admin", "reader")
        ),
        lambda who: who.rotate(),
    ]
    return everybody, admins, deeds


def test_every_delivery_order_gives_one_state():
    everybody, admins, deeds = small_graphs()
    base = list(everybody[0].graph.records().values())
    volume = everybody[0].graph.volume
    rng = random.Random(1)
    choices = list(itertools.product(admins, deeds))
    for _ in range(150):
        devices = {who: _fork(who, volume, base) for who in admins}
        raws = []
        for who, deed in rng.sample(choices, 4):
            fork = devices[who]
            before = set(fork.graph.records())
            deed(fork)
            raws += [raw for i, raw in fork.graph.records().items() if i not in before]
            if rng.random() < 0.4:
                other = devices[rng.choice(admins)]
                other.learn(fork.graph.records().values())
        states = []
        for order in itertools.islice(itertools.permutations(raws), 0, 120, 7):
            graph = MembershipGraph(volume)
            for raw in (*base, *order):
                graph.add(raw)
            states.append(graph.state())
        assert all(state == states[0] for state in states)


def _fork(who, volume, base):
    fork = Device.__new__(Device)
    fork.name, fork.identity = who.name, who.identity
    fork.graph = MembershipGraph(volume)
    fork.learn(base)
    return fork
