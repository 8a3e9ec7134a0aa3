"""What commands replace can be had back; a reader changes nothing by them, mounted or not."""

import json

import pytest

from piperfs.core.errors import ExitCode
from tests.support.volumes import eventually, replicas, two_mounted

pytestmark = pytest.mark.mount


def versions(replica, name):
    found = replica.piperfs("history", str(replica.state), name, "--json")
    return {each["author"]: each["version"] for each in json.loads(found)}


def test_a_version_that_a_command_replaces_stays_however_young_it_is(tmp_path):
    with two_mounted(tmp_path) as (anna, ben):
        (anna.mountpoint / "f").write_text("one")
        eventually(lambda: (ben.mountpoint / "f").read_text() == "one")
        (ben.mountpoint / "f").write_text("two")
        ben.piperfs("sync", str(ben.state))
        before = versions(ben, "f")
        ben.piperfs("restore", str(ben.state), f"f@{before['anna']}")
        assert (ben.mountpoint / "f").read_text() == "one"
        ben.piperfs("restore", str(ben.state), f"f@{before['ben']}")
        assert (ben.mountpoint / "f").read_text() == "two"


def test_a_reader_changes_nothing_by_commands_without_a_mount(tmp_path):
    with replicas(tmp_path, "anna", "rita") as (anna, rita):
        anna.init().mount()
        (anna.mountpoint / "f").write_text("one")
        ticket = anna.piperfs("invite", str(anna.state), "--role", "reader")
        rita.piperfs("join", str(rita.state), "-", "--member", "rita", stdin=ticket)
        rita.mount(f"peer={anna.address}")
        eventually(lambda: (rita.mountpoint / "f").read_text() == "one")
        rita.umount()
        before = rita.piperfs("digest", str(rita.state))
        (version,) = versions(rita, "f").values()
        for words in (
            ("restore", f"f@{version}", "--to", "g"),
            ("revert", "--author", "anna", "--since", "1h"),
        ):
            done = rita.run(words[0], str(rita.state), *words[1:])
            assert done.returncode != ExitCode.DONE
        refused = rita.run("restore", str(rita.state), f"f@{version}", "--to", "g")
        assert "may only read" in refused.stderr
        assert rita.piperfs("digest", str(rita.state)) == before
