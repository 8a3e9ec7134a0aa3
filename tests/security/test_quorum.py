"""Volumes where several admins must agree, with real stores, real TLS and real daemons."""

import json
from pathlib import Path

import pytest

from piperfs.core.errors import UserError
from piperfs.daemon.clock import SYSTEM_CLOCK
from piperfs.daemon.node import create
from tests.support import peers
from tests.support.peers import running, until, write_file
from tests.support.volumes import eventually, replicas

pytestmark = pytest.mark.net


@pytest.mark.mount
@pytest.mark.slow
def test_two_of_three_admins_decide(tmp_path: Path) -> None:
    with replicas(tmp_path, "anna", "ben", "carl") as (anna, ben, carl):
        anna.piperfs("init", str(anna.state), "--quorum", "2", "--member", "anna")
        flags = ("--listen", "127.0.0.1:0", "--discovery", "off", "--detach")
        anna.piperfs("serve", str(anna.state), *flags)
        for guest in (ben, carl):
            ticket = anna.piperfs("invite", str(anna.state), "--role", "admin")
            guest.piperfs("join", str(guest.state), "-", "--member", guest.name, stdin=ticket)
            guest.piperfs("serve", str(guest.state), *flags, "--peer", anna.address)
        refused = anna.run("invite", str(anna.state), "--role", "admin")
        assert (refused.returncode, "it takes 2 admins" in refused.stderr) == (5, True)
        for _ in range(2):
            said = anna.piperfs("remove-member", str(anna.state), "carl")
            assert said == "Proposed to remove carl: signed by anna, of 2 admins that it takes\n"
        eventually(lambda: "Proposed to remove carl" in ben.piperfs("members", str(ben.state)))
        assert "signed by anna" in ben.status()["health"]["proposals"]
        assert carl.status()["role"] == "admin"
        said = ben.piperfs("set-role", str(ben.state), "carl", "reader")
        assert "Proposed to make reader carl: signed by ben" in said
        assert "Removed carl" in ben.piperfs("remove-member", str(ben.state), "carl")
        eventually(lambda: "was removed" in str(carl.status()["peers"]))
        facts = json.loads(anna.piperfs("members", str(anna.state), "--json"))
        assert [(f["name"], f["removed"], f["proposals"]) for f in facts][2] == ("carl", True, [])
        assert "proposals" not in anna.status()["health"]


async def test_votes_meet_after_a_partition(tmp_path: Path) -> None:
    """Anna and Ben sign apart from one another; Carl, whom it is about, goes on writing."""
    anna = create(tmp_path / "anna", "test", "anna", SYSTEM_CLOCK, quorum=2)
    async with running(anna):
        ben = await peers.join(tmp_path, "ben", peers.make_ticket(anna, "admin"))
        carl = await peers.join(tmp_path, "carl", peers.make_ticket(anna, "admin"))
        async with running(ben, peers.address_of(anna)), running(carl, peers.address_of(anna)):
            write_file(carl, b"before", b"text")
            await peers.converged(anna, ben, carl)
            with pytest.raises(UserError, match="it takes 2 admins"):
                anna.check_invite("admin")
    for node in (anna, ben, carl):
        peers.forget_addresses(node)
    anna.remove_member(anna.find_member("carl"))
    ben.remove_member(ben.find_member("carl"))
    carl.remove_member(carl.find_member("anna"))
    write_file(carl, b"after", b"text")
    for node in (anna, ben):
        assert not node.find_member("carl").removed
    async with (
        running(anna),
        running(ben, peers.address_of(anna)),
        running(carl, peers.address_of(anna)),
    ):
        await until(lambda: not anna.graph.state().may_connect(carl.store.replica))
        await peers.converged(anna, ben)
        assert peers.names(anna) == peers.names(ben) == {b"before"}
        assert ben.graph.state() == anna.graph.state()
        assert anna.role == "admin"
        await until(lambda: not peers.connected(carl))
        assert anna.renew_keys()
        assert anna.graph.state().is_clean
    for node in (anna, ben, carl):
        node.close()
