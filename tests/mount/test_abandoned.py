"""Mounts that nobody serves any more, though the kernel does not know: nobody waits for them.

A daemon that is killed while it hangs in the kernel keeps its connection open. A second holder of
the connection, which this process makes itself, has the same effect.
"""

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from piperfs.control.places import Running
from tests.support.volumes import Replica, replicas

pytestmark = pytest.mark.mount
PIDFD_GETFD = 438
LOOK = "import os, sys\ntry:\n os.statvfs(sys.argv[1])\nexcept OSError as e:\n sys.exit(e.errno)"


@contextlib.contextmanager
def held_connection(pid: int) -> Iterator[None]:
    """Keep the kernel's device open that a daemon serves."""
    numbers = Path(f"/proc/{pid}/fd")
    number = next(int(n.name) for n in numbers.iterdir() if os.readlink(n) == "/dev/fuse")
    process = os.pidfd_open(pid)
    held = ctypes.CDLL(None).syscall(PIDFD_GETFD, process, number, 0)
    os.close(process)
    assert held >= 0
    try:
        yield
    finally:
        os.close(held)


@contextlib.contextmanager
def abandoned(base: Path) -> Iterator[tuple[Replica, subprocess.Popen[bytes]]]:
    """A mount whose daemon is gone, and a process that waits for an answer of it."""
    with replicas(base, "anna") as (anna,):
        anna.init().mount()
        (anna.mountpoint / "kept").write_bytes(b"text")
        anna.piperfs("sync", str(anna.state), "--copies", "0")
        with held_connection(anna.pid):
            anna.kill()
            with subprocess.Popen([sys.executable, "-c", LOOK, str(anna.mountpoint)]) as waiting:
                try:
                    yield anna, waiting
                finally:
                    waiting.kill()


def test_a_mount_that_nobody_answers_for_is_unmounted_and_its_users_go_on(tmp_path: Path) -> None:
    with abandoned(tmp_path) as (anna, waiting):
        anna.umount()
        assert not anna.is_mounted()
        assert waiting.wait(10) != 0
        subprocess.run(["sync"], check=True, timeout=30)


def test_mounting_again_needs_no_help(tmp_path: Path) -> None:
    with abandoned(tmp_path) as (anna, waiting):
        anna.mount()
        assert waiting.wait(10) != 0
        assert (anna.mountpoint / "kept").read_bytes() == b"text"


def test_who_cannot_be_seen_is_not_taken_for_dead() -> None:
    """In a process namespace whose /proc is that of another one, a live process looks gone."""
    look = (
        "import os, sys; from piperfs.control.places import Running; "
        "sys.exit(Running(os.getpid(), '', None).is_dead)"
    )
    spaces = ["unshare", "--pid", "--fork"]
    assert subprocess.run([*spaces, sys.executable, "-c", look], check=False).returncode == 0
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert Running(child.pid, "", None).is_dead, "a zombie"
    assert Running(child.pid, "", None).is_dead
    assert not Running(os.getpid(), "", None).is_dead
