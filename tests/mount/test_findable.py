"""Commands find the daemon after a logout, and from a session with another runtime directory."""

import json
import os
import resource
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from piperfs.daemon import footprint
from tests.support.volumes import PIPERFS, eventually, replicas

pytestmark = pytest.mark.mount


def test_commands_go_on_after_a_logout_and_umount_after_the_next_login(tmp_path: Path) -> None:
    with replicas(tmp_path, "anna") as (anna,):
        anna.init().mount()
        pid = anna.pid
        run = anna.base / "run"
        shutil.rmtree(run)
        assert anna.status()["pid"] == pid
        anna.environment["XDG_RUNTIME_DIR"] = str(anna.base / "another")
        assert anna.status()["pid"] == pid
        anna.environment["XDG_RUNTIME_DIR"] = str(run)
        run.mkdir(mode=0o700, exist_ok=True)
        eventually(lambda: list(run.glob("piperfs/*.json")) != [])
        assert json.loads(next(run.glob("piperfs/*.json")).read_bytes())["pid"] == pid
        process = os.pidfd_open(pid)
        anna.umount()
        assert select.select([process], [], [], 0)[0], "it waited for the end"
        os.close(process)
        assert list(run.glob("piperfs/*")) == []
        assert not (anna.state / "control.sock").exists()


def test_a_command_waits_for_a_free_descriptor_and_the_daemon_goes_on(tmp_path: Path) -> None:
    with replicas(tmp_path, "anna") as (anna,):
        anna.init().mount()
        pid = anna.pid
        taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
        least_free = min(set(range(len(taken) + 1)) - taken)
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (least_free, before[1]))
        command = subprocess.Popen(
            [*PIPERFS, "digest", str(anna.state)], env=anna.environment, stdout=subprocess.PIPE
        )
        eventually(lambda: "Too many open files" in (anna.state / "daemon.log").read_text())
        end = time.monotonic() + 2 * footprint.LOOK_S
        while time.monotonic() < end:  # what the daemon looks at now and then needs one too
            (anna.mountpoint / "file").write_bytes(b"text")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert command.communicate(timeout=30)[0]
        assert (command.returncode, anna.pid) == (0, pid)
