"""Who belongs to a volume follows from the set of records, in whatever order they arrive."""

import itertools
import os
import random

import pytest

from piperfs.core import epochs, identity, membership
from piperfs.core.epochs import admit, epoch_keys, is_shared, request_join
from piperfs.core.errors import PeerError, UserError
from piperfs.core.limits import MEMBERSHIP_RECORD_BYTES_MAX
from piperfs.core.membership import MembershipGraph, graph_of
from piperfs.core.membership_records import (
    Remove,
    Renew,
    Rotate,
    SetRole,
    author_record,
    decode_record,
    make_wraps,
)
from piperfs.core.ticket import make_invite

HOUR = 3600 * 10**9
NOW = 1_700_000_000 * 10**9


class Device:
    """A member with its own copy of the graph."""

    def __init__(self, name, volume=None, records=(), quorum=1):
        self.name = name
        self.identity = identity.generate(os.urandom)
        if volume is None:
            raw, volume = epochs.found_volume(
                self.identity, os.urandom, NOW, "v", name, quorum=quorum
            )
            records = (raw,)
        self.graph = MembershipGraph(volume)
        self.learn(records)

    def learn(self, records):
        for raw in records:
            self.graph.add(raw)

    def author(self, statement, now=NOW):
        return self.graph.author(self.identity, now, statement)

    def is_shared(self) -> bool:
        return is_shared(self.graph, self.epochs().__contains__)

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
        self.author(epochs.rotation(self.graph, self.epochs(), os.urandom))

    def remove(self, other, cut=10):
        return self.author(Remove(other.identity.replica, cut))

    def renew(self, salt=b"s" * 32):
        """The same device under other keys."""
        other = self.fork()
        other.identity = identity.Identity(identity.successor(self.identity.secrets, salt))
        self.author(epochs.renewal(self.graph, self.identity, other.identity))
        other.learn(self.graph.records().values())
        return other

    def role_of(self, other):
        member = self.graph.state().member(other.identity.replica)
        return None if member is None or member.removed else member.role

    def fork(self):
        """The same device, to do something else at the same time."""
        other = Device.__new__(Device)
        other.name, other.identity, other.graph = self.name, self.identity, self.graph.copy()
        return other


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
    present = {m.replica for m in a.graph.state().present()}
    assert len(present.intersection(newcomers)) == 1
    (lost,) = set(newcomers) - present
    assert not a.graph.state().may_write(lost, 1)
    assert not a.graph.state().is_clean
    a.rotate()
    assert a.graph.state().is_clean


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


def test_a_copied_device_goes_on_under_other_keys():
    a = Device("a")
    b = a.admit("b")
    a.rotate()
    share(a, b)
    renewed = b.renew()
    again = renewed.renew(b"t" * 32)
    share(a, b, renewed, again)
    member = a.graph.state().member(again.identity.replica)
    assert (member.label, member.role) == ("b", "writer")
    assert member.succeeds == renewed.identity.replica
    assert again.epochs().keys() == renewed.epochs().keys() == a.epochs().keys()
    assert a.graph.state().is_clean
    assert a.graph.state().is_complete
    assert a.graph.introduction(again.identity.replica)[-1] == again.graph.raw(*again.graph.heads)
    assert len(a.graph.introduction(again.identity.replica)) == 2


def test_the_removed_copy_reads_nothing_more():
    a = Device("a")
    b = a.admit("b")
    renewed = b.renew()
    share(a, b, renewed)
    a.remove(b)
    a.rotate()
    share(a, b, renewed)
    assert a.role_of(renewed) == "writer"
    assert a.graph.state().current in renewed.epochs()
    assert a.graph.state().current not in b.epochs()


def test_whoever_is_removed_or_demoted_meanwhile_does_not_escape_by_other_keys():
    a = Device("a")
    b, c = a.admit("b", "admin"), a.admit("c")
    share(a, b, c)
    renewed, other = b.renew(), c.renew()
    a.remove(b)
    a.author(SetRole(c.identity.replica, "reader", 10))
    renewed.author(SetRole(c.identity.replica, "admin"))
    share(a, b, c, renewed, other)
    assert a.role_of(b) is None
    assert a.role_of(renewed) is None
    assert a.role_of(c) == a.role_of(other) == "reader"
    assert not a.graph.state().may_write(other.identity.replica, 1)
    with pytest.raises(PeerError):
        b.renew(b"t" * 32)


def test_the_keys_of_whoever_was_let_in_are_known_for_ever():
    """What somebody signed can be shown to others, whatever became of him, and of his keys."""
    a = Device("a")
    b = a.admit("b")
    renewed = b.renew()
    share(a, b, renewed)
    a.remove(b)
    for device in (a, b, renewed):
        assert a.graph.keys_of(device.identity.replica) == device.identity.public


def test_other_keys_are_proved_and_new():
    a = Device("a")
    b = a.admit("b")
    good = epochs.renewal(b.graph, b.identity, identity.generate(os.urandom))
    stolen = Renew(a.identity.public, good.proof, good.wraps)
    unproved = Renew(identity.generate(os.urandom).public, good.proof, good.wraps)
    for statement in (stolen, unproved):
        with pytest.raises(PeerError):
            b.author(statement)
    b.author(good)
    with pytest.raises(PeerError):
        b.author(good)


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


def test_of_admins_who_resign_in_turn_the_last_stays_whatever_comes_late():
    """A record from elsewhere makes all be evaluated anew, with the senior's first."""
    anna = Device("anna")
    ben, carl = anna.admit("ben", "admin"), anna.admit("carl", "admin")
    share(anna, ben, carl)
    elsewhere = anna.fork()
    for who in (ben, carl, anna):
        who.remove(who)
        share(anna, ben, carl)
    assert anna.role_of(anna) == "admin"
    elsewhere.invite()
    share(anna, elsewhere)
    assert [anna.role_of(who) for who in (anna, ben, carl)] == ["admin", None, None]


def test_a_removal_that_was_overruled_does_not_silence_for_ever():
    """Anna resigns and, apart from that, removes Ben, in vain; then he lets Dora in."""
    anna = Device("anna")
    ben, carl = anna.admit("ben"), anna.admit("carl", "admin")
    share(anna, ben, carl)
    elsewhere = anna.fork()
    anna.remove(anna)
    elsewhere.remove(ben)
    invite, secret = carl.invite()
    share(anna, elsewhere, carl, ben)
    assert (ben.role_of(anna), ben.role_of(ben)) == (None, "writer")
    dora = Device("dora", ben.graph.volume)
    request = request_join(ben.graph.volume, invite, secret, dora.identity, "dora")
    ben.author(admit(ben.graph, ben.epochs(), request, NOW))
    late = MembershipGraph(ben.graph.volume)
    for raw in membership.parents_first(ben.graph.records().values()):
        late.add(raw)
    assert ben.role_of(dora) == "writer"
    assert late.state() == ben.graph.state()


def admins_of_three(quorum=2):
    """Three admins, and a writer, of a volume where two must agree."""
    anna = Device("anna", quorum=quorum)
    ben, carl, dora = anna.admit("ben", "admin"), anna.admit("carl", "admin"), anna.admit("dora")
    share(anna, ben, carl, dora)
    return anna, ben, carl, dora


def set_role(who, whom, role, cut=10):
    who.author(SetRole(whom.identity.replica, role, cut))


def test_a_removal_waits_until_enough_admins_have_signed():
    anna, ben, _, dora = admins_of_three()
    anna.remove(dora, cut=5)
    anna.remove(dora, cut=4)
    (proposal,) = anna.graph.state().proposals
    assert proposal == (dora.identity.replica, None, (anna.identity.replica,))
    assert anna.role_of(dora) == "writer"
    share(anna, ben)
    ben.remove(dora, cut=3)
    assert ben.role_of(dora) is None
    assert ben.graph.state().members[dora.identity.replica].counts_until == 4
    assert ben.graph.state().proposals == ()


def test_two_admins_remove_the_third_who_cannot_remove_one_alone():
    anna, ben, carl, dora = admins_of_three()
    carl.remove(anna)
    anna.remove(carl)
    ben.remove(carl)
    share(anna, ben, carl)
    assert [anna.role_of(who) for who in (anna, ben, carl)] == ["admin", "admin", None]
    ben.remove(dora)  # two are left, and each acts alone
    assert ben.role_of(dora) is None


def test_votes_for_different_roles_are_different_and_a_decision_clears_them():
    anna, ben, carl, dora = admins_of_three()
    set_role(anna, dora, "reader")
    share(anna, ben, carl)
    set_role(ben, dora, "admin")
    share(anna, ben, carl)
    assert ben.role_of(dora) == "writer"
    assert len(ben.graph.state().proposals) == 2
    set_role(carl, dora, "admin")
    share(anna, ben, carl)
    assert carl.role_of(dora) == "admin"
    assert carl.graph.state().proposals == ()
    set_role(ben, dora, "reader")
    assert ben.role_of(dora) == "admin"


def test_a_device_under_other_keys_has_one_vote_and_counts_as_one_admin():
    anna, ben, carl, dora = admins_of_three()
    twin = anna.renew()
    share(anna, twin, ben)
    anna.remove(carl)
    share(anna, twin)
    twin.remove(carl)
    assert twin.role_of(carl) == "admin"
    share(twin, ben)
    ben.remove(carl)
    share(ben, anna, twin)
    assert ben.role_of(carl) is None
    assert ben.graph.state().votes_needed == 1
    set_role(twin, dora, "reader")
    assert twin.role_of(dora) == "reader"


def test_an_admin_may_always_leave():
    _, ben, carl, _ = admins_of_three()
    ben.remove(ben)
    set_role(carl, carl, "reader")
    assert (ben.role_of(ben), carl.role_of(carl)) == (None, "reader")


def test_one_admin_lets_no_further_admin_in():
    anna, _, _, _ = admins_of_three()
    eric = anna.admit("eric", "admin")
    assert anna.role_of(eric) == "writer"


def test_nobody_gets_around_the_others_by_forgetting_them():
    """A removal that is signed as if it were before the others came needs their votes too."""
    anna = Device("anna", quorum=2)
    ben = anna.admit("ben", "admin")
    before = anna.fork()
    carl = anna.admit("carl", "admin")
    share(anna, ben, carl)
    before.remove(ben)
    share(before, anna, ben, carl)
    assert anna.role_of(ben) == "admin"
    assert len(anna.graph.state().proposals) == 1


def test_whom_a_removal_is_about_cannot_hide_behind_admins_of_his_own():
    """Two admins act alone; one of them makes more while the other removes him."""
    anna = Device("anna", quorum=2)
    ben = anna.admit("ben", "admin")
    share(anna, ben)
    for puppet in ("x", "y"):
        ben.admit(puppet, "admin")
    anna.remove(ben)
    share(anna, ben)
    assert anna.role_of(ben) is None


def test_a_quorum_is_a_small_number():
    for quorum in (0, 17):
        with pytest.raises(PeerError, match="quorum"):
            Device("anna", quorum=quorum)


def test_whoever_is_removed_meanwhile_cannot_strike_back_through_others():
    a = Device("a")
    b = a.admit("b", "admin")
    c = a.admit("c")
    share(a, b, c)
    a.remove(b)
    b.author(SetRole(c.identity.replica, "admin"))
    c.learn(b.graph.records().values())
    c.remove(a)
    puppet = b.admit("puppet", "admin")
    puppet.remove(a)
    share(a, b, c, puppet)
    states = [device.graph.state() for device in (a, b, c, puppet)]
    assert all(state == states[0] for state in states)
    assert a.role_of(a) == "admin"
    assert a.role_of(b) is None
    assert a.role_of(c) == "writer"
    assert a.role_of(puppet) is None


def test_an_invite_of_no_admin_lets_nobody_in():
    a = Device("a")
    b = a.admit("b")
    made, _ = make_invite(os.urandom, "admin", NOW + HOUR)
    with pytest.raises(PeerError, match="no right"):
        b.author(made)
    forged = author_record(b.identity, b.graph.heads, NOW, made)
    with pytest.raises(PeerError, match="no right"):
        a.graph.add(forged)


def test_a_reader_lets_others_in_and_a_store_does_not():
    a = Device("a")
    reader, store = a.admit("r", "reader"), a.admit("s", "store")
    invite, secret = a.invite()
    share(a, reader, store)
    for host, right in ((store, False), (reader, True)):
        new = identity.generate(os.urandom)
        request = request_join(a.graph.volume, invite, secret, new, "x")
        record = admit(a.graph, a.epochs(), request, NOW)
        if right:
            host.author(record)
            assert host.graph.state().may_connect(new.replica)
        else:
            with pytest.raises(PeerError, match="lets nobody in"):
                host.author(record)


def test_what_a_writer_wrote_counts_after_it_becomes_a_reader():
    a = Device("a")
    b = a.admit("b")
    a.author(SetRole(b.identity.replica, "reader", 7))
    state = a.graph.state()
    assert [state.may_write(b.identity.replica, seq) for seq in (7, 8)] == [True, False]
    a.author(SetRole(b.identity.replica, "writer"))
    assert a.graph.state().may_write(b.identity.replica, 8)


def test_nobody_becomes_a_store_or_stops_being_one():
    a = Device("a")
    b, store = a.admit("b"), a.admit("s", "store")
    a.author(SetRole(b.identity.replica, "store"))
    a.author(SetRole(store.identity.replica, "reader"))
    assert (a.role_of(b), a.role_of(store)) == ("writer", "store")


def test_a_store_never_learns_a_key():
    a = Device("a")
    store = a.admit("s", "store")
    a.rotate()
    a.admit("b")
    store.learn(a.graph.records().values())
    assert store.epochs() == {}
    assert a.graph.state().has_store


def rotated_apart():
    """Two admins that both made a new key, and a newcomer whom one of them let in."""
    a = Device("a")
    b = a.admit("b", "admin")
    share(a, b)
    a.rotate()
    b.rotate()
    return a, b, b.admit("c")


def test_epochs_made_apart_are_all_opened_by_the_next():
    a, b, c = rotated_apart()
    share(a, b, c)
    assert a.graph.state() == b.graph.state() == c.graph.state()
    assert len(a.epochs()) == 3
    assert len(c.epochs()) == 2
    a.rotate()
    share(a, c)
    assert c.epochs() == a.epochs()
    assert c.graph.state().is_complete


def test_a_key_that_a_newcomer_lacks_is_noticed_by_who_has_it():
    a, b, c = rotated_apart()
    assert a.is_shared()
    assert b.is_shared()
    share(a, b, c)
    assert not a.is_shared()  # that of a was never given to c
    a.rotate()
    share(a, b, c)
    assert a.is_shared()
    assert c.epochs() == a.epochs()


def test_a_key_made_without_a_member_whose_removal_was_undone_is_shared_anew():
    a = Device("a")
    b, c, d = a.admit("b", "admin"), a.admit("c"), a.admit("d")
    share(a, b, c, d)
    b.remove(c)
    b.rotate()
    share(b, d)
    undone = d.graph.state().current  # d writes with it
    a.remove(b)
    a.rotate()
    share(a, b, c, d)
    state = a.graph.state()
    assert c.identity.replica in {m.replica for m in state.present()}
    assert state.is_clean
    assert state.is_complete
    assert undone in a.epochs()
    assert undone not in c.epochs()
    assert not a.is_shared()
    a.rotate()
    share(a, c)
    assert undone in c.epochs()
    assert a.is_shared()


def test_a_member_admitted_elsewhere_gets_the_key_with_the_next_epoch():
    a = Device("a")
    b = a.admit("b", "admin")
    share(a, b)
    a.rotate()
    c = b.admit("c")
    share(a, b, c)
    state = a.graph.state()
    assert state.current in c.epochs()  # writers use the key that all readers hold
    assert state.is_clean


def test_a_new_key_for_two_thousand_members_is_one_record():
    keys = [identity.generate(os.urandom).public for _ in range(20)] * 100
    anna = Device("anna")
    rotation = epochs.rotation(anna.graph, anna.epochs(), os.urandom)
    wraps = make_wraps(os.urandom(32), keys)
    raw = author_record(anna.identity, anna.graph.heads, NOW, Rotate(wraps, rotation.previous))
    assert len(wraps) == 2000
    assert MEMBERSHIP_RECORD_BYTES_MAX * 0.6 < len(raw) < MEMBERSHIP_RECORD_BYTES_MAX
    anna.graph.add(raw)


def test_records_without_their_parents_wait_within_bounds(monkeypatch):
    a = Device("a")
    for _ in range(6):
        a.rotate()
    raws = list(a.graph.records().values())
    late = MembershipGraph(a.graph.volume)
    for raw in reversed(raws):
        late.add(raw)
    assert late.state() == a.graph.state()
    monkeypatch.setattr(membership, "MEMBERSHIP_PENDING_MAX", 3)
    late = MembershipGraph(a.graph.volume)
    for raw in reversed(raws):
        late.add(raw)
    assert len(late.records()) == 1  # the last three wait, and what came between is dropped
    for raw in raws:
        late.add(raw)
    assert late.state() == a.graph.state()
    assert graph_of(a.graph.volume, reversed(raws)).state() == a.graph.state()


def test_a_long_history_is_read_in_any_order():
    a = Device("a")
    for number in range(500):
        a.author(SetRole(a.identity.replica, "admin", number))
    raws = list(a.graph.records().values())
    random.Random(1).shuffle(raws)
    assert graph_of(a.graph.volume, raws).state() == a.graph.state()


def test_writers_cannot_administrate():
    a = Device("a")
    b = a.admit("b")
    for deed in (SetRole(b.identity.replica, "admin"), Remove(a.identity.replica, 0)):
        with pytest.raises(PeerError, match="no right"):
            b.author(deed)
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
