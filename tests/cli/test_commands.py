"""Mounting and unmounting as a terminal, a cron job and a service manager do it.

What a command says is the business of the files beside this one; here it is about what stays
behind, and that nothing is lost.
"""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from piperfs.core.errors import ExitCode
from piperfs.core.pairing_code import make_code
from tests.support.volumes import PIPERFS, Replica, eventually, replicas

pytestmark = [pytest.mark.net, pytest.mark.mount]
CODE = make_code(bytes)  # well formed, and nobody's
QUIET = "discovery=off,listen=127.0.0.1:0"


@pytest.fixture(scope="module")
def anna(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with replicas(tmp_path_factory.mktemp("commands"), "anna") as (replica,):
        yield replica.init()


def test_a_bare_name_lies_below_the_data_home(anna: Replica):
    anna.piperfs("init", "photos")
    assert (Path(anna.environment["XDG_DATA_HOME"]) / "piperfs/photos/volume.json").exists()
    assert anna.piperfs("digest", "photos") == anna.piperfs("digest", "piperfs:photos")


def test_a_place_in_its_mount_stands_for_a_volume(anna: Replica):
    anna.mount()
    try:
        below = anna.mountpoint / "some/where"
        below.mkdir(parents=True)
        known = anna.piperfs("digest", str(anna.state))
        for place in (anna.mountpoint, below, below / "else", Path(os.path.relpath(below))):
            assert anna.piperfs("digest", str(place)) == known
    finally:
        anna.umount()
    refused = anna.run("digest", str(anna.mountpoint))
    assert refused.returncode == ExitCode.NOT_FOUND


def test_a_daemon_leaves_the_terminal_and_the_directory_alone(anna: Replica):
    elsewhere = anna.base / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    arguments = ["mount", str(anna.state), str(anna.mountpoint), "-o", QUIET]
    done = subprocess.run(
        [*closed, *PIPERFS, *arguments], cwd=elsewhere, check=False, timeout=60,
        env=anna.environment | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    try:
        assert done.returncode == 0
        process = Path(f"/proc/{anna.pid}")
        assert os.readlink(process / "cwd") == "/"
        session, terminal = (process / "stat").read_text().rpartition(")")[2].split()[3:5]
        assert (int(session), int(terminal)) == (anna.pid, 0)
        assert os.readlink(process / "fd/0") == os.devnull
        assert os.readlink(process / "fd/2") == str(anna.state / "daemon.log")
    finally:
        anna.umount()


def test_a_plain_umount_loses_nothing(anna: Replica):
    anna.mount()
    process = os.pidfd_open(anna.pid)
    (anna.mountpoint / "last").write_text("words")
    subprocess.run(["umount", str(anna.mountpoint)], check=True)
    assert select.select([process], [], [], 60)[0]
    os.close(process)
    anna.mount()
    assert (anna.mountpoint / "last").read_text() == "words"
    anna.umount()


def test_a_mount_point_may_be_a_link(anna: Replica):
    link = anna.base / "link"
    link.symlink_to("mnt")
    for _ in range(2):
        anna.piperfs("mount", str(anna.state), str(link), "-o", QUIET)
    assert anna.status()["mountpoint"] == str(anna.mountpoint)
    anna.piperfs("umount", f"{link}/")
    assert not anna.is_mounted()


def test_a_place_may_have_a_name_that_is_no_utf_8(anna: Replica, monkeypatch: pytest.MonkeyPatch):
    place = anna.base / os.fsdecode(b"m\xff")
    place.mkdir()
    volume = str(anna.base / os.fsdecode(b"bad\xff"))
    monkeypatch.setitem(anna.environment, "PYTHONIOENCODING", "utf-8:strict")
    anna.piperfs("init", volume, "--name", "good")
    anna.piperfs("mount", volume, str(place), "-o", QUIET)
    try:
        (place / "open").write_text("x")
        assert anna.piperfs("status", str(place)).startswith("volume     good")
        with (place / "open").open():
            busy = anna.run("umount", str(place))
        assert "close what uses it" in busy.stderr
        assert len(busy.stderr.splitlines()) == 1
    finally:
        anna.piperfs("umount", str(place))
    assert not place.is_mount()


def test_a_busy_mount_is_told_and_stays(anna: Replica):
    anna.mount()
    (anna.mountpoint / "open").write_text("x")
    with (anna.mountpoint / "open").open():
        done = anna.run("umount", str(anna.mountpoint))
        assert (done.returncode, len(done.stderr.splitlines())) == (5, 1)
        assert "close what uses it" in done.stderr
        assert anna.is_mounted()
    anna.umount()


def test_an_interrupt_of_a_command_without_a_daemon_is_quiet_and_undoes_it(tmp_path: Path):
    """The peer accepts and says nothing, so the child is at work when the terminal interrupts."""
    with replicas(tmp_path, "ben") as (ben,), socket.create_server(("127.0.0.1", 0)) as peer:
        words = ("join", str(ben.state), "--pair", "--peer", f"127.0.0.1:{peer.getsockname()[1]}")
        with subprocess.Popen(
            [*PIPERFS, *words], env=ben.environment, text=True, process_group=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as command:  # fmt: skip
            assert command.stdin is not None
            command.stdin.write(f"{CODE}\n")
            command.stdin.close()
            peer.settimeout(60)
            with peer.accept()[0]:
                os.killpg(command.pid, signal.SIGINT)
                assert command.wait(60) == 130
            assert command.stdout is not None
            assert command.stderr is not None
            assert (command.stdout.read() + command.stderr.read()).strip() == ""
        assert not ben.state.exists()


@pytest.mark.parametrize("module", ["click", "piperfs.cli.main"])
def test_an_interrupt_while_the_program_loads_is_quiet(anna: Replica, module: str):
    """A finder in front of all others plays the terminal, at the import of the module."""
    program = (
        "import os, signal, sys\n"
        "class Terminal:\n"
        "    def find_spec(name, *_):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Terminal)\n"
        "from piperfs.cli.entry import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, "status", "x"], env=anna.environment,
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (130, b"")


def test_in_front_it_ends_with_an_interrupt(anna: Replica):
    command = [*PIPERFS, "mount", "-f", str(anna.state), str(anna.mountpoint), "-o", QUIET]
    with subprocess.Popen(
        command, env=anna.environment, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        assert any("daemon.ready" in line for line in child.stderr)
        assert anna.pid == child.pid
        (anna.mountpoint / "front").write_text("kept")
        child.send_signal(signal.SIGINT)
        assert "Traceback" not in child.stderr.read()
        assert child.wait(60) == 0
    assert not anna.is_mounted()
    assert anna.piperfs("fsck", str(anna.state)) == "No findings.\n"


def test_the_helper_mounts_in_another_namespace(anna: Replica):
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", "echo in && exec cat"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"in\n"
        helper = [PIPERFS[0], "-P", "-c", "from piperfs.cli.mount_helper import main; main()"]
        words = [str(anna.state), str(anna.mountpoint), "-N", str(other.pid), "-o", QUIET]
        subprocess.run([*helper, *words], env=anna.environment, check=True, timeout=60)
        assert not anna.is_mounted()
        mounts = Path(f"/proc/{other.pid}/mountinfo").read_text()
        assert f" {anna.mountpoint} " in mounts
        anna.stop()
        other.stdin.close()
    eventually(lambda: anna.status()["pid"] is None)


def test_a_passphrase_that_is_no_utf_8_is_refused_in_words(anna: Replica):
    done = subprocess.run(
        [*PIPERFS, "protect", str(anna.state)], env=anna.environment, input=b"a\xff\n",
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == ExitCode.USAGE
    assert done.stderr == b"piperfs: the passphrase is not valid UTF-8; give another one\n"
