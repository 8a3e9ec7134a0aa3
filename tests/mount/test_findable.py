"""Commands find the daemon after a logout, and from a session with another runtime directory."""

import json
import os
import select
import shutil
from pathlib import Path

import pytest

from tests.support.volumes import eventually, replicas

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
