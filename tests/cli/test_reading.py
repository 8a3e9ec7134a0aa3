"""Commands that read, in each of the three states a volume can be in: offline, served, mounted.

An answer means the same in all of them; only what needs peers needs a daemon.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from piperfs.core.errors import ExitCode
from tests.support.volumes import Replica, eventually, replicas

pytestmark = [pytest.mark.net, pytest.mark.mount]
QUIET = "discovery=off,listen=127.0.0.1:0"
ALL_OF_ANNA = ("--author", "anna", "--since", "1h")
READING = ("status", "peers", "members", "conflicts", "digest", "fsck")


@pytest.fixture(scope="module")
def anna(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with replicas(tmp_path_factory.mktemp("reading"), "anna") as (replica,):
        yield replica.init()


@pytest.fixture(params=["offline", "served", "mounted"], scope="module")
def state(request: pytest.FixtureRequest, anna: Replica) -> Iterator[str]:
    """How the volume is when a command comes."""
    if request.param == "served":
        anna.piperfs("serve", str(anna.state), "-o", QUIET, "-d")
    if request.param == "mounted":
        anna.mount()
    yield str(request.param)
    if request.param == "served":
        anna.stop()
    if request.param == "mounted":
        anna.umount()


def test_whatever_can_be_read_can_be_read_as_json(state: str, anna: Replica):
    for command in READING:
        if state == "mounted":
            assert anna.piperfs(command, str(anna.state)).strip()
        json.loads(anna.piperfs(command, str(anna.state), "--json"))
    facts = anna.status()
    assert (facts["pid"] is None) == (state == "offline")
    assert facts["mountpoint"] == (str(anna.mountpoint) if state == "mounted" else None)
    assert "piperfs_commits_total" in anna.piperfs("metrics", str(anna.state))


def test_a_ticket_can_be_made_at_any_time(state: str, anna: Replica):
    made = json.loads(anna.piperfs("invite", str(anna.state), "--role", "reader", "--json"))
    assert made["ticket"].startswith("piper1:")
    assert made["addresses"] or state == "offline"


def test_waiting_for_copies_ends_in_time(state: str, anna: Replica):
    done = anna.run("sync", str(anna.state), "--copies", "2", "--timeout", "0.1")
    assert done.returncode == (1 if state == "offline" else 3)


def test_who_may_only_read_is_refused_a_change(tmp_path: Path):
    with replicas(tmp_path, "anna", "rita") as (anna, rita):
        anna.init().mount()
        (anna.mountpoint / "file").write_text("words")
        ticket = anna.piperfs("invite", str(anna.state), "--role", "reader")
        rita.piperfs("join", str(rita.state), "-", stdin=ticket)
        rita.mount(f"peer={anna.address}")
        eventually((rita.mountpoint / "file").exists)
        facts = json.loads(rita.piperfs("history", str(rita.state), "file", "--json"))
        restored = ("restore", str(rita.state), f"file@{facts[0]['version']}")
        changes = (restored, (*restored, "--to", "new"), ("revert", str(rita.state), *ALL_OF_ANNA))
        for is_mounted in (True, False):
            assert rita.is_mounted() == is_mounted
            for change in changes:
                done = rita.run(*change)
                assert done.returncode == ExitCode.REFUSED
                assert "may only read the volume" in done.stderr
            if is_mounted:
                rita.umount()
        assert rita.status()["store"]["not_yet_durable"] == 0
