"""Computers of a chaos run: a network namespace, a small disk, a clock and a real daemon each.

Everything that is made here is removed again: namespaces, mounts, daemons. Only processes that
this run started are ever signalled.
"""

import contextlib
import json
import mmap
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, Self

RIG: Final = Path(__file__).resolve().parent
ROOT: Final = RIG.parent.parent
PORT: Final = 7000
COMMAND_TIMEOUT_S: Final = 120
MIB: Final = 1 << 20


class FailedError(Exception):
    """A command of the product did not do what it should."""


class Network:
    """The namespaces and the switch between them."""

    def __init__(self, count: int) -> None:
        self.namespaces = [f"pfs{os.getpid()}n{number}" for number in range(count)]
        self._switch: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        for name in self.namespaces:
            subprocess.run(["ip", "netns", "add", name], check=True)
        self._switch = subprocess.Popen(
            [sys.executable, str(RIG / "switch.py"), *self.namespaces],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self._switch.stdout is not None
        if self._switch.stdout.readline() != "ready\n":
            raise FailedError("the network switch did not start")
        return self

    def __exit__(self, *_: object) -> None:
        if self._switch is not None:
            assert self._switch.stdin is not None
            assert self._switch.stdout is not None
            self._switch.stdin.close()
            self._switch.wait()
            self._switch.stdout.close()
        for name in self.namespaces:
            subprocess.run(["ip", "netns", "delete", name], check=False)

    def change(self, source: int, target: int, **how: float | bool) -> None:
        """Make one direction between two computers bad, or good with no arguments."""
        assert self._switch is not None
        assert self._switch.stdin is not None
        self._switch.stdin.write(json.dumps({"from": source, "to": target, **how}) + "\n")
        self._switch.stdin.flush()

    def heal(self) -> None:
        count = len(self.namespaces)
        for source in range(count):
            for target in range(count):
                if source != target:
                    self.change(source, target)


class Host:
    """One computer."""

    def __init__(self, base: Path, number: int, namespace: str, disk_mib: int) -> None:
        self.number = number
        self.name = f"n{number}"
        self.base = base / self.name
        self.disk = self.base / "disk"
        self.state = self.disk / "state"
        self.mountpoint = self.base / "mnt"
        self.namespace = namespace
        self.address = f"10.77.0.{number + 1}:{PORT}"
        self.options = ""
        self.pid = 0
        for path in (self.disk, self.mountpoint, self.base / "run"):
            path.mkdir(parents=True, mode=0o700)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={disk_mib}m", "tmpfs", str(self.disk)], check=True
        )
        self.generation = Counter(self.base / "generation")
        self.clock = Counter(self.base / "clock")
        self._environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(self.base / "run"),
            "XDG_DATA_HOME": str(self.base / "data"),
            "PIPERFS_CHAOS_CLOCK": str(self.base / "clock"),
            "PYTHONPATH": os.pathsep.join((str(RIG / "clock"), str(ROOT))),
        }

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [
            "nsenter", f"--net=/run/netns/{self.namespace}",
            sys.executable, "-P", "-m", "piperfs", *arguments,
        ]  # fmt: skip
        return subprocess.run(
            command, env=self._environment, input=stdin, text=True, capture_output=True,
            timeout=COMMAND_TIMEOUT_S, check=False,
        )  # fmt: skip

    def piperfs(self, *arguments: str, stdin: str | None = None) -> str:
        """Run a command that must succeed. Raises FailedError."""
        done = self.run(*arguments, stdin=stdin)
        if done.returncode != 0:
            raise FailedError(f"{self.name}: piperfs {arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    # The daemon

    def mount(self) -> None:
        words = f"listen=0.0.0.0:{PORT},{self.options}".rstrip(",")
        self.piperfs("mount", str(self.state), str(self.mountpoint), "-o", words)
        self.pid = int(self.status()["pid"])

    def umount(self) -> None:
        self.generation.add(1)
        self.piperfs("umount", str(self.mountpoint))
        self.pid = 0

    def kill(self) -> None:
        """End the daemon as a crash does, and wait until it is gone."""
        self.generation.add(1)
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                process = os.pidfd_open(self.pid)
                os.kill(self.pid, signal.SIGKILL)
                select.select([process], [], [], 30)
                os.close(process)
        self.pid = 0

    def signal(self, number: int) -> None:
        """Raises FailedError if the daemon ended by itself."""
        if not self.pid:
            return
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            self.pid = 0
            raise FailedError(f"{self.name}: its daemon ended: {self.log_text()[-1500:]}") from None

    @property
    def is_alive(self) -> bool:
        return bool(self.pid) and Path(f"/proc/{self.pid}").exists()

    def status(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.piperfs("status", str(self.state), "--json"))
        return facts

    def digest(self) -> str:
        return self.piperfs("digest", str(self.state)).strip()

    def resources(self) -> dict[str, int]:
        """Memory in MiB, descriptors, threads and tasks of the daemon."""
        process = Path(f"/proc/{self.pid}")
        words = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        return {
            "anonymous": int(words["RssAnon"].split()[0]) // 1024,
            "descriptors": len(os.listdir(process / "fd")),
            "threads": int(words["Threads"]),
            "tasks": int(float(self._metric("piperfs_tasks"))),
        }

    def _metric(self, name: str) -> str:
        text = self.piperfs("metrics", str(self.state))
        return next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} "))

    def log_text(self) -> str:
        path = self.state / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # The disk

    def fill_disk(self) -> None:
        """Leave no free byte on the disk of the store."""
        with contextlib.suppress(OSError), (self.disk / "ballast").open("ab", buffering=0) as file:
            while file.write(bytes(MIB)):
                pass

    def empty_disk(self) -> None:
        (self.disk / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(FailedError):
            self.signal(signal.SIGCONT)
        self.kill()
        for path in (self.mountpoint, self.disk):
            subprocess.run(["umount", "-l", str(path)], check=False, stderr=subprocess.DEVNULL)


class Counter:
    """A number in a file that other processes see change."""

    def __init__(self, path: Path, *, fresh: bool = True) -> None:
        if fresh:
            path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)

    @property
    def value(self) -> int:
        return int(struct.unpack("q", self._map[:8])[0])

    def set(self, value: int) -> None:
        self._map[:8] = struct.pack("q", value)

    def add(self, step: int) -> None:
        self.set(self.value + step)


class Cluster:
    """All computers of a run, members of one volume."""

    def __init__(self, base: Path, network: Network, disk_mib: int) -> None:
        self.base = base
        self.network = network
        self.hosts = [
            Host(base, number, namespace, disk_mib)
            for number, namespace in enumerate(network.namespaces)
        ]

    def start(self, options: str) -> None:
        """Make the volume, let everybody join, mount everywhere."""
        first, *others = self.hosts
        first.piperfs("init", str(first.state), "--name", "chaos", "--member", first.name)
        first.options = options
        first.mount()
        for host in others:
            ticket = first.piperfs("invite", str(first.state))
            host.piperfs("join", str(host.state), "-", "--member", host.name, stdin=ticket)
            given = f"peer={first.address}," if host.number % 2 else ""  # else from the ticket
            host.options = f"{given}{options}".rstrip(",")
            host.mount()

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        shutil.rmtree(self.base, ignore_errors=True)


def eventually(check: Any, within_s: float) -> bool:
    """Wait until something of other processes holds."""
    deadline = time.monotonic() + within_s
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
