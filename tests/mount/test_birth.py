"""When files were made, as statx(2) tells it, on the computer that made them and on others."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.volumes import eventually, two_mounted

pytestmark = pytest.mark.mount


def born(path: Path) -> str:
    command = ["stat", "-c", "%w", str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_birth_stands_still_and_is_the_same_everywhere(tmp_path: Path) -> None:
    with two_mounted(tmp_path) as (a, b):
        day = time.strftime("%Y-")
        (a.mountpoint / "d").mkdir()
        (a.mountpoint / "d/f").write_bytes(b"x")
        os.symlink("f", a.mountpoint / "d/l")
        os.mkfifo(a.mountpoint / "d/p")
        first = {name: born(a.mountpoint / name) for name in (".", "d", "d/f", "d/l", "d/p")}
        assert all(text.startswith(day) for text in first.values()), first
        os.utime(a.mountpoint / "d/f", (0, 0))
        (a.mountpoint / "d/f").write_bytes(b"changed")
        (a.mountpoint / "d").chmod(0o700)
        eventually(lambda: (b.mountpoint / "d/f").read_bytes() == b"changed")
        eventually((b.mountpoint / "d/l").is_symlink)
        del first["d/p"]
        for computer in (a, b):
            assert {name: born(computer.mountpoint / name) for name in first} == first
        for name in (".", "d"):
            assert (a.mountpoint / name).stat().st_mtime_ns == (
                b.mountpoint / name
            ).stat().st_mtime_ns
