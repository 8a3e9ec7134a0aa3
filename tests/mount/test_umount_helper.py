"""umount(8) and the helper that it runs, which waits for the daemon.

The helper is put where umount(8) looks, in a mount namespace of its own.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from piperfs.cli import unmount
from piperfs.core.errors import ExitCode, UserError
from tests.support.volumes import PIPERFS, Replica, eventually, replicas

pytestmark = pytest.mark.mount
HELPER = "from piperfs.cli.umount_helper import main; main()"
PREPARE = """set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay -o "lowerdir=/usr/sbin,upperdir=$1/upper,workdir=$1/work" overlay /usr/sbin
mkdir -p /run/mount
mount -t tmpfs -o mode=755 tmpfs /run/mount
printf '#!/bin/sh\\nexec %s -P -c "%s" "$@"\\n' "$2" "$3" > /usr/sbin/umount.piperfs
chmod 755 /usr/sbin/umount.piperfs
ln -s umount.piperfs /usr/sbin/umount.fuse.piperfs
echo ready
exec cat
"""


class Installed(Replica):
    """A replica where the helper is installed; `inside` runs a program there."""

    def begin(self, pid: int) -> None:
        self.inside = ("nsenter", "-t", str(pid), "-m", "--")
        self.program = (*self.inside, *PIPERFS)

    def umount8(self, *flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.inside, "umount", *flags, str(self.mountpoint)],
            env=self.environment, text=True, capture_output=True, timeout=60, check=False,
        )  # fmt: skip

    def shell(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.inside, "sh", "-c", text, "sh", str(self.mountpoint)],
            text=True, capture_output=True, timeout=60, check=False,
        )  # fmt: skip

    def mounts(self) -> str:
        return self.shell('grep " $1 " /proc/self/mounts').stdout


@pytest.fixture
def anna(tmp_path: Path) -> Iterator[Installed]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with replicas(tmp_path / "home"):
        anna = Installed(tmp_path / "home", "anna")
        words = ("unshare", "-m", "sh", "-c", PREPARE, "sh", str(scratch), sys.executable, HELPER)
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            try:
                assert holder.stdout is not None
                assert holder.stdout.readline() == b"ready\n"
                anna.begin(holder.pid)
                yield anna.init().mount()
            finally:
                anna.umount8("-i", "-l")
                anna.close()
                holder.kill()


@contextlib.contextmanager
def watched(pid: int) -> Iterator[int]:
    process = os.pidfd_open(pid)
    yield process
    os.close(process)


def has_ended(process: int) -> bool:
    return bool(select.select([process], [], [], 0)[0])


@contextlib.contextmanager
def in_use(anna: Installed, how: str) -> Iterator[None]:
    """A program in the namespace has a file of the mount open."""
    program = f'exec 3{how}"$1/file"; echo ready; exec cat'
    words = [*anna.inside, "sh", "-c", program, "sh", str(anna.mountpoint)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            user.kill()


def test_it_returns_when_the_daemon_has_ended(anna: Installed) -> None:
    anna.shell('echo kept > "$1/file"')
    with watched(anna.pid) as process:
        done = anna.umount8("-v", "-n", "-t", "fuse.piperfs")
        assert done.returncode == 0, done.stderr
        assert has_ended(process)
    assert "everything is on the disk" in done.stderr
    anna.mount()
    assert anna.shell('cat "$1/file"').stdout == "kept\n"


def test_a_mount_in_use_stays_and_may_become_read_only(anna: Installed) -> None:
    with in_use(anna, ">>"):
        for flags in ([], ["-r"]):
            done = anna.umount8(*flags)
            assert (done.returncode, len(done.stderr.splitlines())) == (32, 1)
            assert "close what uses it" in done.stderr
            assert " rw," in anna.mounts()
    with in_use(anna, "<"):
        done = anna.umount8("-r", "-v")
        assert (done.returncode, " ro," in anna.mounts()) == (0, True), done.stderr
        assert "read-only from now on" in done.stderr
        assert "on the disk" not in done.stderr
    assert anna.umount8().returncode == 0
    assert anna.mounts() == ""


def test_lazily_those_who_use_it_go_on_and_the_daemon_ends_after_them(anna: Installed) -> None:
    with watched(anna.pid) as process:
        with in_use(anna, ">>"):
            done = anna.umount8("-l", "-v")
            assert (done.returncode, "those who use it go on" in done.stderr) == (0, True)
            assert anna.mounts() == ""
            assert not has_ended(process)
        eventually(has_ended, process)


def test_by_force_a_daemon_that_hangs_is_not_asked(anna: Installed) -> None:
    pid = anna.pid
    with watched(pid) as process:
        os.kill(pid, signal.SIGSTOP)
        done = anna.umount8("-f", "-v")
        assert done.returncode == 0
        assert "may be lost" in done.stderr
        assert "on the disk" not in done.stderr
        assert anna.mounts() == ""
        os.kill(pid, signal.SIGCONT)
        eventually(has_ended, process)


def test_without_the_helper_it_returns_at_once(anna: Installed) -> None:
    with watched(anna.pid) as process:
        assert anna.umount8("-i").returncode == 0
        eventually(has_ended, process)


def test_who_did_not_mount_it_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = "entry for /m not found in /etc/mtab"
    monkeypatch.setattr(unmount, "_run", lambda *_: refusal)
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    with pytest.raises(UserError, match="mounted by somebody else") as caught:
        unmount._detach(Path("/m"), unmount.How())
    assert caught.value.code is ExitCode.REFUSED
