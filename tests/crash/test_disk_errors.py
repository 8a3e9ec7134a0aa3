"""Disks that are full, broken, gone or read-only: no false success, and reads go on."""

import contextlib
import errno
import os
import subprocess

import pytest

from piperfs.core.errors import ErrorKind, StoreError
from piperfs.store.engine import LmdbEngine
from tests.support.disks import errno_of, failing_calls, fsync, small_disk
from tests.support.volumes import eventually, replicas

pytestmark = pytest.mark.mount
KIB, MIB = 1 << 10, 1 << 20


def fill(directory, name="fill"):
    """Write incompressible bytes until a write fails; returns its errno and what was accepted."""
    accepted = 0
    try:
        with (directory / name).open("wb", buffering=0) as file:
            while True:
                accepted += file.write(os.urandom(MIB))
    except OSError as error:
        return error.errno, accepted


@pytest.fixture
def anna(tmp_path):
    with replicas(tmp_path, "anna") as (replica,):
        yield replica.init().mount()


def restart(replica):
    replica.kill()
    replica.mount()


def test_a_full_disk_refuses_writes_at_once_and_lets_people_delete(tmp_path):
    with replicas(tmp_path, "anna") as (a,), small_disk(tmp_path / "disk", 120) as disk:
        a.state = disk / "state"
        a.init().mount()
        root = a.mountpoint
        fsync(root / "kept", b"kept")
        assert fill(root)[0] == errno.ENOSPC
        assert (root / "kept").read_bytes() == b"kept"
        assert fill(root, "more")[0] == errno.ENOSPC
        accepted = (root / "fill").stat().st_size
        for n in range(50):
            if n % 10 == 0:
                eventually(a.piperfs, "digest", str(a.state))  # a commit may find no room yet
            os.rename(root / "kept", root / f"kept{n}")
            os.rename(root / f"kept{n}", root / "kept")
        descriptor = os.open(root, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        assert "full" in a.status()["health"]["space"]
        a.kill()
        a.mount()
        assert (root / "fill").stat().st_size == accepted
        assert len((root / "fill").read_bytes()) == accepted
        os.unlink(root / "fill")
        a.umount()
        assert a.piperfs("fsck", str(a.state)) == "No findings.\n"


def test_a_tree_of_many_files_can_be_removed_from_a_full_disk(tmp_path):
    with replicas(tmp_path, "anna") as (a,), small_disk(tmp_path / "disk", 120) as disk:
        a.state = disk / "state"
        a.init().mount()
        tree = a.mountpoint / "tree"
        tree.mkdir()
        for n in range(2000):
            (tree / f"{n}").write_bytes(b"%d" % n)
        assert fill(a.mountpoint)[0] == errno.ENOSPC
        subprocess.run(["rm", "-r", str(tree)], check=True)
        a.piperfs("digest", str(a.state))
        restart(a)
        assert os.listdir(a.mountpoint) == ["fill"]


@pytest.mark.parametrize("driver", ["kernel", "pyfuse3"])
@pytest.mark.parametrize("size", [30 * KIB, 3 * MIB])
def test_deleting_makes_room_on_a_full_disk(tmp_path, driver, size):
    """Earlier versions are not kept for long there, be they of large or of small files."""
    with replicas(tmp_path, "anna") as (a,), small_disk(tmp_path / "disk", 120) as disk:
        a.state = disk / "state"
        a.init().mount(f"driver={driver}")
        many = save_many(a.mountpoint, "old", size)
        for path in many:
            path.unlink()
        again = save_many(a.mountpoint, "new", size)
        assert len(again) > len(many) // 3
        a.piperfs("digest", str(a.state))
        a.kill()
        a.mount()
        assert all(path.stat().st_size == size for path in again[:-4])  # as many may be unsaved
        a.umount()
        assert a.piperfs("fsck", str(a.state)) == "No findings.\n"


def test_a_full_disk_keeps_deleted_files_that_may_come_back_from_elsewhere(tmp_path):
    with replicas(tmp_path, "anna", "ben") as (a, b), small_disk(tmp_path / "disk", 120) as disk:
        a.state = disk / "state"
        a.init().mount()
        b.join(a).mount(f"peer={a.address},cache=1M")  # who fetches only what is read
        content = os.urandom(3 * MIB)
        (a.mountpoint / "name").write_bytes(content)
        eventually(lambda: (b.mountpoint / "name").stat().st_size == len(content))
        b.umount()
        (a.mountpoint / "name").unlink()
        for path in save_many(a.mountpoint, "more", 3 * MIB):
            path.unlink()
        save_many(a.mountpoint, "again", 3 * MIB)
        assert "connect a member" in a.status()["health"]["space"]
        a.umount()
        b.mount()
        (b.mountpoint / "name").rename(b.mountpoint / "other")
        b.umount()
        a.mount()
        b.mount(f"peer={a.address},cache=1M")
        assert eventually((a.mountpoint / "other").read_bytes) == content
        assert (b.mountpoint / "other").read_bytes() == content


def test_deleting_makes_room_where_another_member_holds_what_is_deleted(tmp_path):
    with replicas(tmp_path, "anna", "ben") as (a, b), small_disk(tmp_path / "disk", 120) as disk:
        a.state = disk / "state"
        a.init().mount()
        b.join(a).mount(f"peer={a.address}")
        many = save_many(a.mountpoint, "old", 3 * MIB)
        for path in many:
            path.unlink()
        again = save_many(a.mountpoint, "new", 3 * MIB)
        assert len(again) > len(many) // 3


def save_many(folder, name, size):
    """Save files until there is no room for more."""
    saved = []
    with contextlib.suppress(OSError):
        while True:
            path = folder / f"{name}{len(saved)}"
            saved.append(path)
            path.write_bytes(os.urandom(size))
    saved.pop().unlink(missing_ok=True)
    return saved


def test_writing_goes_on_when_others_make_room(tmp_path):
    with replicas(tmp_path, "anna") as (a,), small_disk(tmp_path / "disk", 120) as disk:
        a.state = disk / "state"
        a.init().mount()
        fsync(a.mountpoint / "kept", b"kept")
        assert fill(disk, "foreign")[0] == errno.ENOSPC
        assert fill(a.mountpoint)[0] == errno.ENOSPC
        os.unlink(a.mountpoint / "kept")  # the reserve is for this
        a.piperfs("digest", str(a.state))
        os.unlink(disk / "foreign")
        eventually(lambda: errno_of(fsync, a.mountpoint / "x", b"x") == 0)
        assert not (a.mountpoint / "kept").exists()
        restart(a)
        assert (a.mountpoint / "x").read_bytes() == b"x"


def test_a_full_disk_that_only_the_commit_meets_is_reported_and_gets_over(anna):
    root = anna.mountpoint
    fsync(root / "kept", b"kept")
    with failing_calls(anna.pid, "pwrite64:error=ENOSPC:when=1..1", "fdatasync:error=ENOSPC"):
        assert errno_of(fsync, root / "x", b"x") == errno.ENOSPC
        assert (root / "kept").read_bytes() == b"kept"
    eventually(lambda: errno_of(fsync, root / "y", b"y") == 0)
    assert anna.status()["health"].get("store") is None
    restart(anna)
    assert (root / "x").read_bytes() == b"x"
    assert (root / "y").read_bytes() == b"y"


@pytest.mark.parametrize("fault", ["fdatasync:error=EIO", "pwrite64:error=EIO"])
def test_a_commit_that_fails_is_the_last_of_the_process(anna, fault):
    root = anna.mountpoint
    fsync(root / "kept", b"kept")
    with (root / "open").open("wb", buffering=0) as early:
        early.write(b"early")
        with failing_calls(anna.pid, fault):
            assert errno_of(fsync, root / "x", b"x") == errno.EIO
        assert errno_of(os.fsync, early.fileno()) == errno.EIO
        assert errno_of(os.fsync, early.fileno()) == errno.EIO
        assert errno_of(early.write, b"late") == errno.EROFS
        copy = os.dup(early.fileno())
        assert errno_of(os.close, copy) == errno.EIO
        assert errno_of(os.mkdir, root / "d") == errno.EROFS
        assert errno_of(os.unlink, root / "kept") == errno.EROFS
        assert (root / "kept").read_bytes() == b"kept"
        assert "failing" in anna.status()["health"]["store"]
    restart(anna)
    assert (root / "kept").read_bytes() == b"kept"
    fsync(root / "again", b"again")
    anna.umount()
    assert anna.piperfs("fsck", str(anna.state)) == "No findings.\n"


def test_a_store_that_is_moved_away_takes_no_more_writes(anna):
    root, store = anna.mountpoint, anna.state / "store"
    fsync(root / "kept", b"kept")
    store.rename(anna.state / "elsewhere")
    eventually(lambda: errno_of(os.utime, root) == errno.EROFS, within_s=5)
    assert (root / "kept").read_bytes() == b"kept"
    assert not store.exists()
    assert "gone" in anna.status()["health"]["store"]
    anna.kill()
    refused = anna.run("mount", str(anna.state), str(root))
    assert refused.returncode == 4
    assert not store.exists()
    (anna.state / "elsewhere").rename(store)
    anna.mount()
    assert (root / "kept").read_bytes() == b"kept"


def test_a_store_that_is_replaced_takes_no_more_writes(anna):
    data = anna.state / "store/data.mdb"
    data.rename(data.with_suffix(".old"))
    data.write_bytes(b"")
    eventually(lambda: errno_of(os.utime, anna.mountpoint) == errno.EROFS, within_s=5)
    anna.kill()
    assert anna.run("mount", str(anna.state), str(anna.mountpoint)).returncode == 4
    assert data.read_bytes() == b""


def test_a_disk_that_becomes_read_only_takes_no_more_writes(tmp_path):
    with replicas(tmp_path, "anna") as (a,), small_disk(tmp_path / "disk", 200) as disk:
        a.state = disk / "state"
        a.init().mount()
        subprocess.run(["mount", "-o", "bind", str(disk), str(disk)], check=True)
        try:
            fsync(a.mountpoint / "kept", b"kept")
            subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)
            eventually(lambda: errno_of(os.utime, a.mountpoint) == errno.EROFS, within_s=5)
            assert (a.mountpoint / "kept").read_bytes() == b"kept"
        finally:
            a.kill()
            subprocess.run(["umount", "-l", str(disk)], check=True)


def test_umount_says_what_cannot_be_saved(anna):
    fsync(anna.mountpoint / "kept", b"kept")
    with failing_calls(anna.pid, "fdatasync:error=EIO"):
        assert errno_of(fsync, anna.mountpoint / "x", b"x") == errno.EIO
    refused = anna.run("umount", str(anna.mountpoint))
    assert refused.returncode == 1
    assert "stays mounted" in refused.stderr
    subprocess.run(["umount", "-i", str(anna.mountpoint)], check=True)
    eventually(lambda: anna.run("fsck", str(anna.state)).returncode == 0)
    anna.mount()
    assert (anna.mountpoint / "kept").read_bytes() == b"kept"


@pytest.mark.parametrize("is_tight", [True, False])
def test_a_write_that_was_cut_short_is_told_from_a_broken_disk(tmp_path, is_tight):
    """LMDB calls both an I/O error, and there may be room again before anybody looks."""
    with small_disk(tmp_path / "disk", 8) as disk:
        engine = LmdbEngine(disk / "store", ("one",))
        engine.is_tight = lambda _count: is_tight
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        (disk / "filler").write_bytes(bytes(free - (100 << 10)))
        batch = {"one": {b"key": bytes(1 << 20)}}
        with pytest.raises(StoreError, match="Input/output error") as caught:
            engine.commit(batch)
        (disk / "filler").unlink()
        if is_tight:
            assert caught.value.kind is ErrorKind.NO_SPACE
            engine.commit(batch)
            engine.refresh()
            assert engine.get("one", b"key") == bytes(1 << 20)
        else:
            assert caught.value.kind is ErrorKind.IO
            assert engine.is_failed
        engine.close()
