"""The installed system as administrators use it: mount(8), fstab, systemd, and removal.

A real systemd runs in namespaces of its own and a real `tools/up --system` installs into them, so
these tests show what an administrator will see, and change nothing on this machine.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.booted import System, booted
from tests.support.volumes import eventually

pytestmark = [pytest.mark.mount, pytest.mark.slow]
QUIET = "discovery=off,listen=127.0.0.1:0"
FSTAB = f"home {{}} piperfs noauto,x-systemd.automount,_netdev,{QUIET} 0 0\n"
SERVICE = "piperfs@.service"
LOG = "/var/log/piperfs-test.log"
PLACES = ("/usr/local", "/usr/sbin", "/etc/updatedb.conf")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with booted(tmp_path_factory.mktemp("system")) as system:
        system.must("sh", "-c", """echo 'PRUNEFS="NFS proc"' > /etc/updatedb.conf""")
        yield system


@pytest.fixture(scope="module")
def before(fresh: System) -> str:
    return listing(fresh)


@pytest.fixture(scope="module")
def system(fresh: System, before: str) -> System:
    fresh.tool("up", "--system")
    fresh.must("piperfs", "init", "home", "--member", "server")
    return fresh


def listing(system: System) -> str:
    found = system.must("find", *PLACES, "-not", "-name", "__pycache__")
    return "\n".join(sorted(found.splitlines()))


def status(system: System) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(system.must("piperfs", "status", "home", "--json"))
    return facts


def test_everything_is_where_the_system_looks(system: System):
    for program in ("piperfs", "mount.piperfs", "umount.piperfs", "umount.fuse.piperfs"):
        system.must("sh", "-c", f"command -v {program}")
    for page in (["1", "piperfs"], ["8", "mount.piperfs"], ["8", "umount.piperfs"]):
        assert "/usr/local/" in system.must("man", "-w", *page)
    assert system.must("cat", "/etc/updatedb.conf") == 'PRUNEFS="NFS proc piperfs fuse.piperfs"\n'
    assert "complete" in system.must("cat", "/usr/local/share/bash-completion/completions/piperfs")


def test_the_units_are_flawless(system: System):
    examples = "/usr/local/share/doc/piperfs/examples"
    units = [f"{examples}/home-shared.{kind}" for kind in ("mount", "automount")]
    checked = system.run("systemd-analyze", "verify", "piperfs@home.service", *units)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_service_is_hardened(system: System):
    unit = f"/usr/local/lib/systemd/system/{SERVICE}"
    told = system.must("systemd-analyze", "security", "--offline=true", "--threshold=15", unit)
    assert "Overall exposure level" in told


def test_mount_8_mounts_through_the_helper(system: System):
    system.must("mkdir", "-p", "/var/m")
    mount = ("mount", "-v", "-t", "piperfs", "home", "/var/m", "-o", f"{QUIET},noexec")
    system.must(*mount)
    system.must(*mount)
    (line,) = system.must("findmnt", "-n", "-o", "FSTYPE,SOURCE,OPTIONS", "/var/m").splitlines()
    kind, source, options = line.split()
    assert (kind, source) == ("fuse.piperfs", "piperfs:home")
    assert {"rw", "nosuid", "nodev", "noexec"} <= set(options.split(","))
    system.must("sh", "-c", "echo kept > /var/m/file")
    system.must("umount", "/var/m")
    assert status(system)["pid"] is None
    system.must("mount", "-t", "piperfs", "-o", f"ro,{QUIET}", "home", "/var/m")
    assert system.must("cat", "/var/m/file") == "kept\n"
    assert "Read-only" in system.run("touch", "/var/m/file").stderr
    system.must("piperfs", "umount", "/var/m")
    unknown = system.run("mount", "-t", "piperfs", "-o", "frob", "home", "/var/m")
    assert (unknown.returncode, "unknown option 'frob'" in unknown.stderr) == (1, True)
    system.must("mount", "-s", "-t", "piperfs", "-o", f"frob,{QUIET}", "home", "/var/m")
    system.must("piperfs", "umount", "/var/m")


def test_a_line_in_fstab_mounts_on_demand(system: System):
    system.must("mkdir", "-p", "/var/shared")
    system.must("sh", "-c", "cat > /etc/fstab", stdin=FSTAB.format("/var/shared"))
    system.must("systemctl", "daemon-reload")
    system.must("systemctl", "start", "var-shared.automount")
    assert system.show("var-shared.mount", "ActiveState") == "inactive"
    system.must("sh", "-c", "echo on demand > /var/shared/new")
    assert system.show("var-shared.mount", "ActiveState") == "active"
    assert status(system)["mountpoint"] == "/var/shared"
    system.must("mount", "-a")
    system.must("kill", "-KILL", str(status(system)["pid"]))  # the next look mounts it again
    eventually(lambda: system.run("cat", "/var/shared/new").stdout == "on demand\n")
    assert status(system)["mountpoint"] == "/var/shared"
    system.must("systemctl", "stop", "var-shared.mount")  # and nobody looks
    eventually(lambda: system.run("pgrep", "piperfs-guard").returncode == 1)
    assert system.show("var-shared.mount", "ActiveState") == "inactive"
    system.must("systemctl", "stop", "var-shared.automount")
    assert status(system)["pid"] is None
    assert "No findings" in system.must("piperfs", "fsck", "home")
    system.must("mount", "-t", "piperfs", "-o", QUIET, "home", "/var/shared")
    assert system.must("cat", "/var/shared/new") == "on demand\n"
    system.must("piperfs", "umount", "/var/shared")


def test_the_service_is_ready_watched_and_stopped_cleanly(system: System):
    drop_in = "/etc/systemd/system/piperfs@home.service.d"
    text = "[Service]\nWatchdogSec=2\nRestartSec=100ms\n"
    system.must("mkdir", "-p", drop_in)
    system.must("sh", "-c", f"cat > {drop_in}/test.conf", stdin=text)
    options = 'PIPERFS_OPTIONS="--listen 127.0.0.1:0 --discovery off"\n'
    system.must("sh", "-c", "echo 'root made it' > /var/lib/piperfs/home/by-root")
    system.must("sh", "-c", "cat > /etc/default/piperfs", stdin=options)
    system.must("systemctl", "daemon-reload")

    system.must("systemctl", "start", "piperfs@home")
    facts = status(system)
    assert system.show("piperfs@home", "ActiveState") == "active"
    assert system.show("piperfs@home", "StatusText").startswith("home is served at 127.0.0.1:")
    assert facts["pid"] == int(system.show("piperfs@home", "MainPID"))

    assert_without_privileges(system, facts["pid"])
    assert system.must("find", "/var/lib/piperfs/home", "-not", "-user", "piperfs") == ""

    system.must("kill", "-STOP", str(facts["pid"]))  # it hangs: the watchdog must notice
    eventually(lambda: int(system.show("piperfs@home", "NRestarts")) >= 1)
    eventually(lambda: system.run("piperfs", "digest", "home").returncode == 0)

    system.must("systemctl", "stop", "piperfs@home")
    assert system.show("piperfs@home", "Result") == "success"
    assert system.must("piperfs", "fsck", "home") == "No findings.\n"


def test_the_service_serves_what_mount_8_mounts(system: System):
    drop_in = f"[Service]\nRestartSec=100ms\nStandardError=append:{LOG}\n"
    path = "/etc/systemd/system/piperfs@home.service.d/test.conf"  # a busy machine, no watchdog
    system.must("sh", "-c", f"cat > {path}", stdin=drop_in)
    system.must("systemctl", "daemon-reload")
    system.must("systemctl", "start", "piperfs@home")  # without a mount; it is taken over
    system.must("mount", "-t", "piperfs", "-o", f"service,noexec,{QUIET}", "home", "/var/m")
    facts = status(system)
    assert facts["mountpoint"] == "/var/m"
    assert facts["pid"] == int(system.show("piperfs@home", "MainPID"))
    assert_without_privileges(system, facts["pid"])
    words = system.must("findmnt", "-n", "-o", "OPTIONS", "/var/m").strip().split(",")
    assert {"nosuid", "nodev", "noexec", "allow_other"} <= set(words)
    system.must("sh", "-c", "echo served > /var/m/file; sync /var/m/file")
    system.must("setpriv", "--reuid=65534", "--clear-groups", "ls", "/var/m")

    system.must("kill", "-KILL", str(facts["pid"]))  # it comes back with its mount
    eventually(lambda: system.run("cat", "/var/m/file").stdout == "served\n")
    assert status(system)["pid"] not in (None, facts["pid"])

    system.must("systemctl", "restart", "piperfs@home")
    assert system.must("cat", "/var/m/file") == "served\n"
    system.must("umount", "/var/m")
    eventually(lambda: system.show("piperfs@home", "ActiveState") == "inactive")
    assert system.show("piperfs@home", "Result") == "success"
    assert "daemon.ready" in system.must("cat", LOG)
    system.must("systemctl", "start", "piperfs@home")  # what was unmounted stays so
    assert status(system)["mountpoint"] is None
    system.must("systemctl", "stop", "piperfs@home")
    assert system.must("piperfs", "fsck", "home") == "No findings.\n"
    assert system.must("find", "/var/lib/piperfs/home", "-not", "-user", "piperfs") == ""


def test_the_service_serves_a_line_in_fstab(system: System):
    line = f"home /var/shared piperfs nofail,_netdev,service,{QUIET} 0 0\n"
    system.must("sh", "-c", "cat > /etc/fstab", stdin=line)
    system.must("systemctl", "daemon-reload")
    system.must("systemctl", "start", "var-shared.mount")
    system.must("sh", "-c", "echo again > /var/shared/new")
    assert status(system)["pid"] == int(system.show("piperfs@home", "MainPID"))
    system.must("systemctl", "stop", "var-shared.mount")
    eventually(lambda: system.show("piperfs@home", "ActiveState") == "inactive")
    assert "again" not in system.must("ls", "/var/shared")


def test_the_service_gets_its_passphrase_as_a_credential_or_from_the_kernel(system: System):
    system.must("mkdir", "-p", "/var/m")
    system.must("piperfs", "protect", "home", stdin="correct horse\n")
    refused = system.run("mount", "-t", "piperfs", "-o", f"service,{QUIET}", "home", "/var/m")
    assert (refused.returncode, "needs its passphrase" in refused.stderr) == (32, True)
    assert system.run("findmnt", "/var/m").returncode == 1
    system.must("piperfs", "unlock", "home", stdin="correct horse\n")
    system.must("systemctl", "start", "piperfs@home")
    assert status(system)["key_protection"] == "keyring"
    system.must("systemctl", "stop", "piperfs@home")
    system.must("piperfs", "lock", "home")
    system.must("mkdir", "-p", "/etc/credstore.encrypted")
    seal = ("systemd-creds", "encrypt", "--with-key=host", "--name=piperfs.passphrase", "-")
    system.must(*seal, "/etc/credstore.encrypted/piperfs.home", stdin="correct horse")
    system.must("systemctl", "start", "piperfs@home")
    assert status(system)["key_protection"] == "credential"
    system.must("systemctl", "stop", "piperfs@home")
    system.must("rm", "/etc/credstore.encrypted/piperfs.home")


def assert_without_privileges(system: System, pid: int) -> None:
    lines = system.must("cat", f"/proc/{pid}/status").splitlines()
    daemon = {name: value.strip() for name, _, value in (each.partition(":") for each in lines)}
    uid = system.must("id", "-u", "piperfs").strip()
    assert daemon["Uid"].split() == [uid] * 4
    assert (daemon["NoNewPrivs"], daemon["Seccomp"]) == ("1", "2")
    assert {int(daemon[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}


def test_removal_leaves_nothing_but_volumes(system: System, before: str):
    system.tool("down", "--system")
    assert listing(system) == before
    assert system.must("cat", "/etc/updatedb.conf") == 'PRUNEFS="NFS proc"\n'
    assert "volume.json" in system.must("ls", "/var/lib/piperfs/home")
