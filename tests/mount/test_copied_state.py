"""Real daemons over a copied state directory: recognised, and nobody's work is lost."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.volumes import Replica, eventually, replicas

pytestmark = pytest.mark.mount


def copy(source: Replica, target: Replica) -> None:
    subprocess.run(["cp", "-a", source.state, target.state], check=True)


def edit(replica: Replica, text: str) -> None:
    (replica.mountpoint / "shared").write_text(text)
    (replica.mountpoint / f"only {text}").write_text(text)


def texts(replica: Replica) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(replica.mountpoint.iterdir())}


def members(replica: Replica) -> list[tuple[str, str, str | None]]:
    facts = json.loads(replica.piperfs("members", str(replica.state), "--json"))
    return [(each["name"], each["replica"], each["succeeds"]) for each in facts]


def test_both_copies_of_a_computer_go_on_and_meet(tmp_path: Path) -> None:
    """`cp -a` of a state directory; both are mounted, both write, then they meet."""
    with replicas(tmp_path, "anna", "copy") as (anna, twin):
        anna.init().mount()
        (anna.mountpoint / "shared").write_text("before")
        anna.umount()
        copy(anna, twin)
        anna.mount()
        twin.mount()
        edit(anna, "by anna")
        edit(twin, "by the copy")
        own, other = anna.status(), twin.status()
        assert own["succeeds"] is None
        assert other["succeeds"] == own["replica"] != other["replica"]
        twin.umount()
        twin.mount(f"peer={anna.address}")
        eventually(lambda: anna.digest() == twin.digest())
        assert twin.status()["replica"] == other["replica"], "it is renewed once"
        assert texts(anna) == texts(twin)
        assert sorted(texts(anna).values()) == sorted(["by anna", "by the copy"] * 2)
        assert len(texts(anna)) == 4
        expected = [("anna", own["replica"], None), ("anna", other["replica"], own["replica"])]
        assert members(anna) == members(twin) == expected
        shown = twin.piperfs("status", str(twin.state))
        assert f"copied or restored from {own['replica'][:12]}" in shown
        assert f"copied or restored from {own['replica'][:12]}" in anna.piperfs(
            "members", str(anna.state)
        )


def test_the_first_command_on_a_copy_says_only_what_was_asked(tmp_path: Path) -> None:
    with replicas(tmp_path, "anna", "copy") as (anna, twin):
        copy(anna.init(), twin)
        done = twin.run("status", str(twin.state))
        assert (done.returncode, done.stderr) == (0, "")
        assert "goes on under this id" in done.stdout


def test_a_restored_backup_loses_nothing_of_what_others_hold(tmp_path: Path) -> None:
    """Anna's state is set back from a backup and edits a file that she had edited since."""
    with replicas(tmp_path, "anna", "ben") as (anna, ben):
        anna.init().mount()
        ben.join(anna).mount(f"peer={anna.address}")
        (anna.mountpoint / "shared").write_text("before")
        eventually(lambda: anna.digest() == ben.digest())
        anna.umount()
        backup = anna.base / "backup"
        subprocess.run(["cp", "-a", anna.state, backup], check=True)
        anna.mount(f"peer={ben.address}")
        edit(anna, "since the backup")
        eventually(lambda: anna.digest() == ben.digest() and "shared" in texts(ben))
        eventually(lambda: texts(ben).get("shared") == "since the backup")
        anna.umount()
        ben.umount()
        shutil.rmtree(anna.state)
        backup.rename(anna.state)
        anna.mount()
        assert texts(anna) == {"shared": "before"}
        edit(anna, "after the restore")
        ben.mount(f"peer={anna.address}")
        eventually(lambda: anna.digest() == ben.digest())
        assert anna.status()["succeeds"] is not None
        eventually(lambda: texts(anna) == texts(ben))
        both = ["after the restore", "since the backup"]
        assert sorted(texts(anna).values()) == sorted(both * 2)


def test_a_directory_that_is_moved_stays_who_it_was(tmp_path: Path) -> None:
    with replicas(tmp_path, "anna", "elsewhere") as (anna, elsewhere):
        anna.init().mount()
        replica = anna.status()["replica"]
        anna.umount()
        anna.state.rename(elsewhere.state)
        elsewhere.mount()
        facts = elsewhere.status()
        assert (facts["replica"], facts["succeeds"]) == (replica, None)
