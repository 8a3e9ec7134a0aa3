"""How long daemons live: as long as their mount, whoever else still holds on to it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from piperfs.core.errors import ExitCode
from tests.support.disks import failing_calls, fsync
from tests.support.volumes import PIPERFS, Replica, eventually, replicas

pytestmark = pytest.mark.mount

MOUNT = (*PIPERFS, "mount", "-f")

# A daemon one part of which fails when it is told to.
FAILING = """
import signal, sys, trio
from piperfs.daemon import __main__ as daemon, upkeep

async def fail(_):
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        async for _ in signals:
            raise RuntimeError("a fault")

upkeep.watch = fail
sys.exit(daemon.main())
"""


@pytest.mark.parametrize("driver", ["kernel", "pyfuse3"])
def test_umount_ends_the_daemon_though_another_namespace_holds_the_mount(
    tmp_path: Path, driver: str
) -> None:
    with replicas(tmp_path, "anna") as (anna,):
        anna.init().mount(f"driver={driver}")
        (anna.mountpoint / "kept").write_bytes(b"text")
        with subprocess.Popen(["unshare", "-m", "cat"], stdin=subprocess.PIPE) as holder:
            try:
                holder_sees_its_own_mounts(holder.pid)
                anna.umount()
                assert anna.status()["pid"] is None
            finally:
                holder.kill()
        anna.mount()
        assert (anna.mountpoint / "kept").read_bytes() == b"text"


def holder_sees_its_own_mounts(pid: int) -> None:
    """Wait until the process has left our namespace."""
    ours = Path("/proc/self/ns/mnt").readlink()
    while Path(f"/proc/{pid}/ns/mnt").readlink() == ours:
        pass


@pytest.mark.parametrize("driver", ["kernel", "pyfuse3"])
def test_a_daemon_that_fails_saves_all_and_leaves_no_bare_directory(
    tmp_path: Path, driver: str
) -> None:
    with replicas(tmp_path, "anna") as (anna,):
        anna.init()
        command = (sys.executable, "-c", FAILING, "mount")
        with in_front(anna, *command, options=f"driver={driver}") as daemon:
            opened = os.open(anna.mountpoint / "open", os.O_CREAT | os.O_WRONLY)
            os.write(opened, b"never closed")
            daemon.send_signal(signal.SIGUSR1)
            assert daemon.wait(60) == ExitCode.CRASHED
        with pytest.raises(OSError, match="not connected"):
            (anna.mountpoint / "below").touch()
        with pytest.raises(OSError, match="not connected"):
            os.close(opened)
        anna.mount(f"driver={driver}")
        assert os.listdir(anna.mountpoint) == ["open"]
        assert (anna.mountpoint / "open").read_bytes() == b"never closed"


def test_a_computer_with_little_address_space_will_do(tmp_path: Path) -> None:
    with replicas(tmp_path, "anna") as (anna,):
        anna.program = ("prlimit", f"--as={4 << 30}", *PIPERFS)
        anna.init().mount()
        (anna.mountpoint / "file").write_bytes(b"text")
        anna.umount()
        anna.program = ("prlimit", f"--as={1 << 30}", *PIPERFS)
        refused = anna.run("mount", str(anna.state), str(anna.mountpoint))
        assert (refused.returncode, len(refused.stderr.splitlines())) == (ExitCode.FAILED, 1)
        assert "ulimit -v" in refused.stderr


def test_a_daemon_that_gets_no_more_threads_goes_on(tmp_path: Path) -> None:
    with replicas(tmp_path, "anna") as (anna,):
        anna.init().mount()
        pid = anna.pid
        content = os.urandom(3 << 20)
        names = [f"f{n}" for n in range(8)]
        faults = (f"{call}:error=EAGAIN" for call in ("clone", "clone3"))
        with failing_calls(pid, *faults), ThreadPoolExecutor(len(names)) as programs:
            list(programs.map(lambda name: fsync(anna.mountpoint / name, content), names))
        assert all((anna.mountpoint / name).read_bytes() == content for name in names)
        assert anna.pid == pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_daemon_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with replicas(tmp_path, "anna") as (anna,):
        anna.init()
        with in_front(anna, *MOUNT) as daemon:
            (anna.mountpoint / "file").write_bytes(b"text")
            daemon.send_signal(number)
            assert daemon.wait(60) == ExitCode.DONE
            assert not anna.is_mounted()
        anna.mount()
        assert (anna.mountpoint / "file").read_bytes() == b"text"


def test_nohup_keeps_a_daemon(tmp_path: Path) -> None:
    with replicas(tmp_path, "anna") as (anna,):
        anna.init()
        with in_front(anna, "nohup", *MOUNT) as daemon:
            daemon.send_signal(signal.SIGHUP)
            (anna.mountpoint / "file").write_bytes(b"text")
            anna.umount()
            assert daemon.wait(60) == ExitCode.DONE


@contextmanager
def in_front(
    replica: Replica, *command: str, options: str = "driver=kernel"
) -> Iterator["subprocess.Popen[bytes]"]:
    """A daemon of a terminal."""
    words = f"discovery=off,listen=127.0.0.1:0,{options}"
    whole = [*command, str(replica.state), str(replica.mountpoint), "-o", words]
    with subprocess.Popen(whole, env=replica.environment, stdin=subprocess.DEVNULL) as daemon:
        eventually(replica.is_mounted)
        eventually(lambda: replica.status()["pid"] == daemon.pid)
        yield daemon
