"""A commit that fails in our own code is as final as one that the disk refused."""

import errno
import os
from pathlib import Path

import pytest

from tests.support import commit_faults
from tests.support.disks import errno_of, fsync
from tests.support.volumes import replicas

pytestmark = pytest.mark.mount


@pytest.fixture
def anna(tmp_path):
    with replicas(tmp_path, "anna") as (replica,):
        replica.environment["PYTHONPATH"] = str(Path(next(iter(commit_faults.__path__))))
        replica.environment["PIPERFS_COMMIT_FAULT"] = str(tmp_path / "fault")
        yield replica.init().mount()


@pytest.mark.parametrize("step", ["publish", "unreadable", "encode", "finish"])
def test_a_commit_that_raises_is_the_last_of_the_process(anna, tmp_path, step):
    root = anna.mountpoint
    fsync(root / "kept", b"kept")
    (tmp_path / "fault").write_text(step)
    assert errno_of(fsync, root / "x", b"x") == errno.EIO
    assert not (tmp_path / "fault").exists()
    assert errno_of(os.mkdir, root / "d") == errno.EROFS
    directory = os.open(root, os.O_RDONLY)
    assert errno_of(os.fsync, directory) == errno.EIO
    os.close(directory)
    assert (root / "kept").read_bytes() == b"kept"
    assert (root / "x").read_bytes() == b"x"  # this process still sees what it could not save
    reason = "damaged" if step == "unreadable" else "MemoryError"
    assert reason in anna.status()["health"]["store"]
    anna.kill()
    anna.mount()
    assert (root / "kept").read_bytes() == b"kept"
    fsync(root / "again", b"again")
    anna.umount()
    assert anna.piperfs("fsck", str(anna.state)) == "No findings.\n"
