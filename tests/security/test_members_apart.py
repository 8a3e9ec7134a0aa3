"""Removal and invitation while replicas are cut off from one another; real stores, real TLS."""

import json
import os
from pathlib import Path

import pytest

from piperfs.core.errors import FsError
from piperfs.core.membership_records import SetRole
from tests.support import peers
from tests.support.peers import names, running, until, write_file
from tests.support.volumes import eventually, replicas

pytestmark = pytest.mark.net


async def test_removal_converges_under_partition(tmp_path: Path) -> None:
    """Anna removes Carl while Ben and Carl go on working together without her."""
    anna = peers.founder(tmp_path)
    async with running(anna):
        ben = await peers.join(tmp_path, "ben", peers.make_ticket(anna))
        carl = await peers.join(tmp_path, "carl", peers.make_ticket(anna))
        async with running(ben, peers.address_of(anna)):
            write_file(carl, b"before", b"text")
            carl.store.commit(carl.clock.now_ns())
            async with running(carl, peers.address_of(anna), peers.address_of(ben)):
                await peers.converged(anna, ben, carl)
    peers.forget_addresses(ben)
    peers.forget_addresses(carl)
    async with running(ben), running(carl, peers.address_of(ben)):
        write_file(ben, b"ben's", b"text")
        write_file(carl, b"after", b"carl's")
        await peers.converged(ben, carl)
        assert names(ben) == {b"before", b"ben's", b"after"}
    peers.forget_addresses(anna)
    async with running(anna):
        anna.remove_member(anna.find_member("carl"))
        await anna.committer.commit()
        async with running(ben, peers.address_of(anna)), running(carl, peers.address_of(ben)):
            await until(lambda: ben.graph.state() == anna.graph.state())
            await peers.converged(anna, ben)
            assert names(anna) == names(ben) == {b"before", b"ben's"}
            write_file(anna, b"secret", b"not for carl")
            await peers.converged(anna, ben)
            await until(lambda: not peers.connected(carl))
            chunk = peers.chunks_of(ben, b"secret")[0]
            sealed = ben.store.chunks.get(chunk)
            assert sealed is not None
            assert not carl.keyring.knows(sealed[1:17])
    for node in (anna, ben, carl):
        node.close()


async def test_what_was_refused_of_a_removed_one_does_not_hold_up_a_sync(tmp_path: Path) -> None:
    """Ben passes on what Carl wrote, before he hears that Anna has removed him."""
    anna = peers.founder(tmp_path)
    async with running(anna):
        ben = await peers.join(tmp_path, "ben", peers.make_ticket(anna))
        carl = await peers.join(tmp_path, "carl", peers.make_ticket(anna))
        async with running(ben, peers.address_of(anna)):
            await peers.converged(anna, ben)
    for node in (anna, ben, carl):
        peers.forget_addresses(node)
    async with running(ben), running(carl, peers.address_of(ben)):
        write_file(carl, b"after", b"carl's")
        await peers.converged(ben, carl)
        anna.remove_member(anna.find_member("carl"))
        anna.store.commit(anna.clock.now_ns())
        async with running(anna, peers.address_of(ben)):
            await until(lambda: ben.graph.state() == anna.graph.state())
            write_file(ben, b"secret", b"not for carl")
            await peers.converged(anna, ben)
            await until(lambda: peers.holders(ben) == [anna.store.replica])
    for node in (anna, ben, carl):
        node.close()


@pytest.mark.mount
@pytest.mark.slow
def test_removal_apart_by_real_daemons(tmp_path: Path) -> None:
    """The same as people do it: Anna is offline, and her command signs without a daemon."""
    with replicas(tmp_path, "anna", "ben", "carl") as (anna, ben, carl):
        anna.init().mount()
        ben.join(anna)
        ben.mount(f"peer={anna.address}")
        carl.join(anna)
        carl.mount(f"peer={anna.address},peer={ben.address}")
        (carl.mountpoint / "before").write_text("carl's")
        carl.piperfs("sync", str(carl.state), "--copies", "2", "--timeout", "30")
        anna.umount()
        (carl.mountpoint / "meanwhile").write_text("carl's")
        eventually((ben.mountpoint / "meanwhile").exists)
        said = anna.piperfs("remove-member", str(anna.state), "carl")
        assert said.startswith("Removed carl (")
        (carl.mountpoint / "late").write_text("carl's")
        eventually((ben.mountpoint / "late").exists)
        (ben.mountpoint / "ben's").write_text("ben's")
        anna.mount(f"peer={ben.address}")
        eventually(lambda: anna.digest() == ben.digest())
        for replica in (anna, ben):
            assert sorted(os.listdir(replica.mountpoint)) == ["before", "ben's"]
        assert "operations.withdrawn" in (ben.state / "daemon.log").read_text()
        eventually(lambda: "was removed" in str(carl.status()["peers"]))
        (ben.mountpoint / "secret").write_text("not for carl")
        (carl.mountpoint / "lonely").write_text("carl's")
        ben.piperfs("sync", str(ben.state), "--timeout", "30")
        assert anna.digest() == ben.digest()
        assert "lonely" not in os.listdir(ben.mountpoint)
        assert "secret" not in os.listdir(carl.mountpoint)
        facts = json.loads(ben.piperfs("members", str(ben.state), "--json"))
        assert [fact["removed"] for fact in facts] == [False, False, True]


async def test_a_reader_s_operations_are_refused_everywhere(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna:
        rita = await peers.join(tmp_path, "rita", peers.make_ticket(anna, "reader"))
        write_file(anna, b"shared", b"text")
        async with running(rita, peers.address_of(anna)):
            await until(lambda: peers.read_file(rita, b"shared") == b"text")
            with pytest.raises(FsError):
                write_file(rita, b"forbidden", b"text")
            rita.store.may_write = lambda: True
            write_file(rita, b"forbidden", b"text")
            await rita.committer.commit()
            await until(lambda: "no right" in str(anna.replicator.status()[0].waits_for))
            assert names(anna) == {b"shared"}
        rita.close()
    anna.close()


async def test_a_writer_made_a_reader_keeps_what_it_wrote(tmp_path: Path) -> None:
    async with peers.pair(tmp_path) as (anna, ben):
        write_file(ben, b"before", b"text")
        await peers.converged(anna, ben)
        anna.set_role(anna.find_member("ben"), "reader")
        await until(lambda: ben.role == "reader")
        assert not ben.may_write
        ben.store.may_write = lambda: True
        write_file(ben, b"after", b"text")
        await ben.committer.commit()
        carl = await peers.join(tmp_path, "carl", peers.make_ticket(anna))
        async with running(carl, peers.address_of(anna)):
            await peers.converged(anna, carl)
            assert names(carl) == names(anna) == {b"before"}
        carl.close()


async def test_an_invite_spent_twice_apart_lets_one_in(tmp_path: Path) -> None:
    anna = peers.founder(tmp_path)
    async with running(anna):
        ben = await peers.join(tmp_path, "ben", peers.make_ticket(anna, "admin"))
        async with running(ben, peers.address_of(anna)):
            ticket = peers.make_ticket(anna)
            await until(lambda: ben.graph.state() == anna.graph.state())
    peers.forget_addresses(anna)
    peers.forget_addresses(ben)
    guests = []
    for host in (anna, ben):
        async with running(host):
            cable = peers.at_address(ticket, peers.address_of(host))
            guests.append(await peers.join(tmp_path, f"guest of {host.label}{len(guests)}", cable))
    async with running(anna), running(ben, peers.address_of(anna)):
        await until(lambda: anna.graph.state() == ben.graph.state())
        present = {member.replica for member in anna.graph.state().present()}
        assert len(present & {guest.store.replica for guest in guests}) == 1
        assert not anna.graph.state().is_clean
        assert anna.renew_keys()
        assert anna.graph.state().is_clean
    for node in (anna, ben, *guests):
        node.close()


async def test_both_ends_of_a_join_show_the_same_words(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna:
        ben = await peers.join(tmp_path, "ben", peers.make_ticket(anna))
        words = ben.check_words(ben.store.replica)
        assert words == anna.check_words(ben.store.replica)
        assert words is not None
        assert len(words.split()) == 6
        ben.close()
    anna.close()


async def test_roles_cross_no_border_to_and_from_storing(tmp_path: Path) -> None:
    async with peers.pair(tmp_path) as (anna, ben):
        before = anna.graph.state()
        anna.sign_record(SetRole(ben.store.replica, "store"))
        assert anna.graph.state().members == before.members
