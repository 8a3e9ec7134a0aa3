"""A whole system for tests: systemd as the first process of namespaces of its own.

What is installed there lands on overlays, units start nothing of this machine, and the end of the
one process ends all others. Only the kernel is shared, so mounts, cgroups, sandboxing and
notification are the real ones.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 600  # an installation on a busy machine
SYSTEMD = "/lib/systemd/systemd"
BOOT = f"""set -e
mount --make-rprivate /
mount --make-rshared /
for name in etc usr var; do
    mkdir -p "$BASE/$name.upper" "$BASE/$name.work"
    mount -t overlay -o "lowerdir=/$name,upperdir=$BASE/$name.upper,workdir=$BASE/$name.work" \
        overlay "/$name"
done
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
rm -rf /usr/lib/systemd/system/*.wants /etc/systemd/system/*.wants
rm -rf /var/lib/piperfs /etc/default/piperfs
: > /etc/fstab
printf '[Unit]\\nDescription=Test\\n' > /etc/systemd/system/test.target
ip link set lo up
export container=test
exec {SYSTEMD} --system --unit=test.target --log-target=null --show-status=0
"""


class System:
    """A booted system; commands run inside it."""

    def __init__(self, base: Path, pid: int) -> None:
        self.base = base
        self._pid = pid

    def run(
        self, *command: str, online: bool = False, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside; `online` lends it the network of this machine."""
        spaces = ["-m", "-p", "-u", "-i", "-C", *([] if online else ["-n"])]
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root" if online else str(self.base),
            "LANG": "C.UTF-8",
        }
        return subprocess.run(
            ["nsenter", "-t", str(self._pid), *spaces, "--", *command],
            env=environment, input=stdin, capture_output=True, text=True, check=False, cwd="/",
            timeout=TIMEOUT_S,
        )  # fmt: skip

    def must(self, *command: str, online: bool = False, stdin: str = "") -> str:
        """Run a command that must succeed; returns what it prints."""
        done = self.run(*command, online=online, stdin=stdin)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def tool(self, name: str, *arguments: str) -> str:
        """Run one of the tools of this checkout."""
        return self.must(sys.executable, str(ROOT / "tools" / name), *arguments, online=True)

    def show(self, unit: str, field: str) -> str:
        """One property of a unit."""
        return self.must("systemctl", "show", "--value", "-p", field, unit).strip()


@contextlib.contextmanager
def booted(base: Path) -> Iterator[System]:
    """Boot, and end everything at the end."""
    spaces = ["-m", "-p", "-f", "-u", "-i", "-n", "-C", "--kill-child"]
    with _own_cgroup() as group:
        parent = subprocess.Popen(
            ["sh", "-c", 'echo 0 > "$GROUP/cgroup.procs"; exec unshare "$@"', "sh",
             *spaces, "sh", "-c", BOOT],
            env={"BASE": str(base), "GROUP": str(group), "PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield _until_booted(base, parent)
        finally:
            parent.kill()
            parent.communicate()


def _until_booted(base: Path, parent: "subprocess.Popen[str]") -> System:
    deadline = time.monotonic() + TIMEOUT_S
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while parent.poll() is None:
        assert time.monotonic() < deadline, "systemd did not come up"
        pids = children.read_text().split()
        if pids and SYSTEMD in Path(f"/proc/{pids[0]}/cmdline").read_text():
            system = System(base, int(pids[0]))
            if system.run("systemctl", "is-active", "test.target").returncode == 0:
                return system
        threading.Event().wait(0.05)  # another process is at work; there is no event to await
    raise AssertionError(f"systemd ended: {parent.communicate()[1]}")


@contextlib.contextmanager
def _own_cgroup() -> Iterator[Path]:
    """A control group for all of it, removed when all of it is dead."""
    line = next(
        line for line in Path("/proc/self/cgroup").read_text().splitlines() if line[:3] == "0::"
    )
    root = Path("/sys/fs/cgroup/unified")
    root = root if root.is_dir() else Path("/sys/fs/cgroup")
    group = root / line[3:].lstrip("/") / f"piperfs-test-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        _wait_until_empty(group)
        for directory in sorted(group.rglob("*"), key=lambda path: -len(path.parts)):
            if directory.is_dir():
                directory.rmdir()
        group.rmdir()


def _wait_until_empty(group: Path) -> None:
    """The killed processes take a moment to be gone."""
    deadline = time.monotonic() + TIMEOUT_S
    while "populated 1" in (group / "cgroup.events").read_text():
        assert time.monotonic() < deadline, "processes are left over"
        threading.Event().wait(0.02)
