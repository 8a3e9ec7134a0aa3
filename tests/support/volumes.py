"""Real daemons for tests: volumes made, mounted, joined, killed and removed by the command line."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import piperfs

PIPERFS = (sys.executable, "-P", "-m", "piperfs")
TIMEOUT_S = 60
NOBODY = 65534


class Replica:
    """One computer's replica, with a home of its own for everything the daemon writes."""

    def __init__(self, base: Path, name: str) -> None:
        self.base = base / name
        self.name = name
        self.state = self.base / "state"
        self.mountpoint = self.base / "mnt"
        self.mountpoint.mkdir(parents=True)
        self.environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self.base / "run"),
            "XDG_DATA_HOME": str(self.base / "data"),
        }
        self.program: tuple[str, ...] = PIPERFS
        (self.base / "run").mkdir(mode=0o700)

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.program, *arguments], env=self.environment, input=stdin, text=True,
            capture_output=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip

    def piperfs(self, *arguments: str, stdin: str | None = None) -> str:
        """Run a command that must succeed; returns what it prints."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"{arguments}: {done.stderr}{done.stdout}"
        return done.stdout

    def init(self) -> "Replica":
        self.piperfs("init", str(self.state), "--name", "test", "--member", self.name)
        return self

    def join(self, other: "Replica") -> "Replica":
        ticket = other.piperfs("invite", str(other.state))
        self.piperfs("join", str(self.state), "-", "--member", self.name, stdin=ticket)
        return self

    def mount(self, options: str = "") -> "Replica":
        words = ",".join(filter(None, ("listen=127.0.0.1:0", "discovery=off", options)))
        self.piperfs("mount", str(self.state), str(self.mountpoint), "-o", words)
        return self

    def umount(self) -> None:
        self.piperfs("umount", str(self.mountpoint))

    def status(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.piperfs("status", str(self.state), "--json"))
        return facts

    @property
    def pid(self) -> int:
        return int(self.status()["pid"])

    @property
    def address(self) -> str:
        return str(self.status()["listening"][0])

    def digest(self) -> str:
        return self.piperfs("digest", str(self.state)).strip()

    def kill(self) -> None:
        """End the daemon as a crash does, and wait until it is gone."""
        pid = self.pid
        process = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            signal_wait(process)
        finally:
            os.close(process)

    def stop(self) -> None:
        """Stop the daemon as a service manager does, and wait for its end."""
        process = os.pidfd_open(self.pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            signal_wait(process)
        finally:
            os.close(process)

    def is_mounted(self) -> bool:
        return os.fsencode(self.mountpoint) in Path("/proc/self/mountinfo").read_bytes()

    def close(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self.is_mounted():
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                self.umount()
        for path in (self.base / "run").glob("piperfs*/*.json"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(json.loads(path.read_bytes())["pid"], signal.SIGKILL)
        if self.is_mounted():
            subprocess.run(["umount", "-l", str(self.mountpoint)], check=False)


def use_readable_python(replica: Replica) -> None:
    """An interpreter that anybody may run, wherever the one of the tests lies."""
    try:
        subprocess.run([sys.executable, "-c", "import trio"], user=NOBODY, check=True)
    except (PermissionError, subprocess.CalledProcessError):
        replica.program = ("/usr/bin/python3", *replica.program[1:])
        places = (str(Path(piperfs.__path__[0]).parent), sysconfig.get_path("purelib"))
        replica.environment["PYTHONPATH"] = os.pathsep.join(places)


def signal_wait(process: int) -> None:
    select.select([process], [], [], TIMEOUT_S)


@contextlib.contextmanager
def replicas(base: Path, *names: str, kind: type[Replica] = Replica) -> Iterator[list[Replica]]:
    """Fresh replicas that are cleaned up at the end."""
    made = [kind(base, name) for name in names]
    try:
        yield made
    finally:
        for replica in made:
            replica.close()
        shutil.rmtree(base, ignore_errors=True)


@contextlib.contextmanager
def two_mounted(base: Path, options: str = "") -> Iterator[tuple[Replica, Replica]]:
    """Two replicas of one volume, mounted and connected."""
    with replicas(base, "anna", "ben") as (a, b):
        a.init().mount(options)
        b.join(a)
        b.mount(",".join(filter(None, (f"peer={a.address}", options))))
        yield a, b


def eventually(check: Any, *arguments: Any, within_s: float = 30) -> Any:
    """Wait until a check of another process holds; the last failure is raised after a while."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            answer = check(*arguments)
            if answer is not False:
                return answer
        except (AssertionError, OSError):
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, f"{check} did not hold within {within_s} s"
        os.sched_yield()
        _pause()


def _pause() -> None:
    threading.Event().wait(0.02)  # another process is at work; there is no event to await


def same_tree(left: Path, right: Path) -> bool:
    """Bytes, modes, times and extended attributes, as rsync sees them."""
    command = ["rsync", "-naciHAX", "--delete", f"{left}/", f"{right}/"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "", done.stdout[:2000]
    return True
