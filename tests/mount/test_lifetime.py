"""How long daemons live: as long as their mount, whoever else still holds on to it."""

import subprocess
from pathlib import Path

import pytest

from tests.support.volumes import replicas

pytestmark = pytest.mark.mount


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
