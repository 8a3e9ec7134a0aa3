"""What a volume may do to the computer that mounts it, and who may do what to the daemon."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from piperfs.core.errors import UserError
from piperfs.daemon.options import parse_idmap, parse_options
from piperfs.fuse.mountpoint import MountOptions
from tests.support.volumes import (
    Replica,
    eventually,
    replicas,
    signal_wait,
    two_mounted,
    use_readable_python,
)

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
CONNECT = 'import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); \
s.sendall(b\'{"do":"status"}\\n\'); print(len(s.recv(100)))'

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def as_nobody(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*AS_NOBODY, *command], capture_output=True, text=True, check=False)


def mount_words(directory: Path) -> set[str]:
    """All options of a mount, the kernel's and the file system's."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == str(directory):
            return {*fields[5].split(","), *fields[-1].split(",")}
    raise AssertionError(f"nothing is mounted at {directory}")


# Options


def test_set_id_programs_and_devices_need_roots_word(monkeypatch: pytest.MonkeyPatch) -> None:
    options = parse_options("suid,dev")
    assert {"nosuid", "nodev"} <= set(parse_options("").kernel)
    assert not {"nosuid", "nodev"} & set(options.kernel)
    asked = MountOptions("v", words=options.kernel)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert {"nosuid", "nodev"} <= set(asked.kernel_words)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert not {"nosuid", "nodev"} & set(asked.kernel_words)


def test_an_idmap_is_read_from_words_and_from_a_file(tmp_path: Path) -> None:
    words = parse_options("idmap=alice=1000:@staff=50:#1005=7").idmap
    assert words.users == {"alice": 1000, "#1005": 7}
    assert words.groups == {"staff": 50}
    file = tmp_path / "map"
    file.write_text("# who is who\nalice=1000 # at home\n\n@staff = 50\n#1005=7\n")
    assert parse_options(f"idmap={file}").idmap == words


@pytest.mark.parametrize(
    "text", ["alice", "alice=", "=5", "alice=x", "alice=-1", "a=4294967295", "a=1\nb=1", "a=1\na=2"]
)
def test_a_wrong_idmap_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|too large"):
        parse_idmap(text)
    with pytest.raises(UserError, match="idmap"):
        parse_options(f"idmap={text}".replace("\n", ":"))


# Mounts


@pytest.mark.mount
@root_only
def test_what_peers_say_of_owners_rights_and_kinds_is_inert(tmp_path: Path) -> None:
    with two_mounted(tmp_path / "r", "allow_other") as (anna, ben):
        here, there = anna.mountpoint / "f", ben.mountpoint / "f"
        here.write_text("#!/bin/sh\n")
        os.setxattr(here, "user.note", b"1")
        os.setxattr(here, "trusted.overlay.opaque", b"y")
        os.chown(here, 4321, 4322)
        here.chmod(0o6755)
        os.setxattr(here, "security.capability", bytes.fromhex("01000002" + "ff" * 16))
        os.mknod(anna.mountpoint / "device", 0o666 | 0o020000, os.makedev(1, 3))
        (anna.mountpoint / "link").symlink_to("/etc/shadow")
        eventually(lambda: there.exists() and "user.note" in os.listxattr(there))
        eventually(lambda: there.stat().st_mode & 0o777 == 0o755)
        facts = there.stat()
        assert (facts.st_uid, facts.st_gid) == (os.getuid(), os.getgid())
        assert not facts.st_mode & 0o6000
        assert os.listxattr(there) == ["user.note"]
        assert here.stat().st_mode & 0o6000
        assert set(os.listxattr(here)) >= {"security.capability", "trusted.overlay.opaque"}
        assert not (ben.mountpoint / "device").exists()
        assert os.readlink(ben.mountpoint / "link") == "/etc/shadow"
        words = mount_words(ben.mountpoint)
        assert {"nosuid", "nodev", "default_permissions", "allow_other"} <= words
        remount(ben, anna, "idmap=#4321=1234:@#4322=1235,nosymfollow,allow_other")
        facts = there.stat()
        assert (facts.st_uid, facts.st_gid) == (1234, 1235)
        assert not facts.st_mode & 0o6000
        with pytest.raises(OSError, match="symbolic links"):
            (ben.mountpoint / "link").read_bytes()
        os.chown(there, 1234, 1235)  # goes back under the names that it came with
        eventually(lambda: anna.mountpoint.joinpath("f").exists())
        mine = ben.mountpoint / "mine"
        mine.write_text("x")
        os.chown(mine, 1234, 1235)
        remount(anna, ben, "idmap=#4321=77")
        eventually(lambda: (anna.mountpoint / "mine").stat().st_uid == 77)


def remount(replica: Replica, other: Replica, options: str) -> None:
    replica.umount()
    replica.mount(f"peer={other.address},{options}")


@pytest.mark.mount
@root_only
def test_other_users_get_nothing_of_a_mount_and_its_daemon(tmp_path: Path) -> None:
    with replicas(tmp_path / "r", "anna") as (anna,):
        anna.init().mount()
        tmp_path.chmod(0o755)
        for folder in (tmp_path.parent, tmp_path.parent.parent, tmp_path / "r", anna.base):
            folder.chmod(0o755)
        assert "Permission denied" in as_nobody("ls", str(anna.mountpoint)).stderr
        (socket,) = (anna.base / "run/piperfs").glob("*.sock")
        assert socket.stat().st_mode & 0o777 == 0o600
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        python = ("/usr/bin/python3", "-c", CONNECT, str(socket))
        assert "PermissionError" in as_nobody(*python).stderr
        (anna.base / "run").chmod(0o755)
        socket.parent.chmod(0o755)
        socket.chmod(0o666)
        try:  # even then the kernel tells the daemon who asks
            assert as_nobody(*python).stdout.strip() in ("0", "")
        finally:
            socket.parent.chmod(0o700)
        pid = str(anna.pid)
        for name in ("environ", "maps", "mem", "fd"):
            assert as_nobody("ls", f"/proc/{pid}/{name}/").returncode
            assert "ermission" in as_nobody("cat", f"/proc/{pid}/{name}").stderr
        assert anna.state.stat().st_mode & 0o777 == 0o700


def facts_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.fixture
def unprivileged(tmp_path: Path):
    """A volume that belongs to nobody, for mounts made by root."""
    with replicas(tmp_path / "r", "anna") as (anna,):
        anna.init()
        for folder in (tmp_path.parent.parent, tmp_path.parent, tmp_path, tmp_path / "r",
                       anna.base, anna.base / "run"):  # fmt: skip
            folder.chmod(0o755)
        subprocess.run(["chown", "-R", "nobody", str(anna.state)], check=True)
        use_readable_python(anna)
        yield anna
        for path in (anna.base / "run").glob("piperfs-*/*.json"):
            path.unlink()


@pytest.mark.mount
@root_only
def test_root_mounts_and_the_daemon_runs_without_privileges(unprivileged: Replica) -> None:
    anna = unprivileged
    anna.mount("runas=nobody,allow_other")
    (anna.mountpoint / "file").write_text("text")
    assert (anna.mountpoint / "file").read_text() == "text"
    daemon = facts_of(anna.pid)
    assert daemon["Uid"].split() == [str(NOBODY)] * 4
    assert daemon["NoNewPrivs"] == "1"
    assert int(daemon["CapEff"], 16) == int(daemon["CapPrm"], 16) == 0
    assert as_nobody("cat", f"/proc/{anna.pid}/environ").returncode  # not even its own user
    assert {"nosuid", "nodev", f"user_id={NOBODY}"} <= mount_words(anna.mountpoint)
    helper = int(daemon["PPid"])
    process = os.pidfd_open(helper)
    anna.umount()
    assert not anna.is_mounted()
    signal_wait(process)
    os.close(process)
    anna.mount("runas=nobody,allow_other")
    assert (anna.mountpoint / "file").read_text() == "text"


def helper_of(replica: Replica) -> int:
    return int(facts_of(replica.pid)["PPid"])


def end_helper(helper: int, whom: int, number: signal.Signals) -> None:
    """Send a signal to it, or to its daemon, and wait until it has ended."""
    process = os.pidfd_open(helper)
    os.kill(whom, number)
    signal_wait(process)
    os.close(process)


@pytest.mark.mount
@root_only
def test_the_helper_unmounts_when_the_daemon_ends(unprivileged: Replica) -> None:
    anna = unprivileged
    anna.mount("runas=nobody,allow_other")
    helper = helper_of(anna)
    end_helper(helper, helper, signal.SIGTERM)
    assert not anna.is_mounted()


@pytest.mark.mount
@root_only
def test_a_killed_daemon_leaves_no_bare_directory(unprivileged: Replica) -> None:
    anna = unprivileged
    anna.mount("runas=nobody,allow_other")
    end_helper(helper_of(anna), anna.pid, signal.SIGKILL)
    with pytest.raises(OSError, match="not connected"):
        (anna.mountpoint / "file").touch()
    anna.mount("runas=nobody,allow_other")
    assert os.listdir(anna.mountpoint) == []


@pytest.mark.mount
@root_only
def test_a_helper_that_cannot_help_says_why(unprivileged: Replica) -> None:
    anna = unprivileged
    where = (str(anna.state), str(anna.mountpoint))
    for words, code, text in (
        ("runas=no-such-user", 4, "no such user"),
        ("runas=root", 2, "gives nothing up"),
        ("runas=daemon", 5, "must belong to daemon"),
    ):
        refused = anna.run("mount", *where, "-o", words)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (code, 1)
        assert text in refused.stderr
    assert not anna.is_mounted()
