"""Random system calls by several users on a mount and on the local disk have the same effects.

Short and seeded; `tools/torture` runs the same for as long as one likes.
"""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support import differential
from tests.support.volumes import replicas

pytestmark = pytest.mark.mount
STEPS = 150


if os.geteuid() != 0:
    pytest.skip("acts as several users, so it needs root", allow_module_level=True)


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """A directory of the local disk that keeps access times as the mount does."""
    path = tmp_path_factory.mktemp("right")
    open_up(path)
    subprocess.run(["mount", "--bind", path, path], check=True)
    subprocess.run(["mount", "-o", "remount,bind,noatime", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def open_up(path):
    """Let other users walk through pytest's private directories."""
    for above in (path, *path.parents):
        if above == Path(tempfile.gettempdir()):
            break
        above.chmod(0o755)


@pytest.fixture(scope="module", params=["kernel", "pyfuse3"])
def mounted(request, tmp_path_factory):
    with replicas(tmp_path_factory.mktemp(request.param), "one") as (replica,):
        open_up(replica.base)
        replica.init().mount(f"allow_other,suid,dev,driver={request.param}")
        yield request.param, replica


@pytest.mark.parametrize("seed", range(1, 4))
def test_random_calls_do_what_they_do_on_the_local_disk(mounted, right, seed):
    driver, replica = mounted
    differential.compare(right / "calls", replica.mountpoint / "calls", seed, STEPS, driver)
    log = replica.state / "daemon.log"
    assert "Traceback" not in log.read_text()
