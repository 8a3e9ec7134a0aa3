"""The lines of the durability page that need a real mount and no broken disk."""

import os
import signal
import subprocess
import sys

import pytest

from tests.support.volumes import eventually, replicas, two_mounted

pytestmark = pytest.mark.mount


@pytest.fixture
def anna(tmp_path):
    with replicas(tmp_path, "anna") as (replica,):
        yield replica.init().mount()


def crash(replica):
    replica.kill()
    replica.mount()


def open_file(path, data, flags=0):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    os.write(descriptor, data)
    return descriptor


def test_fsync_of_one_file_covers_everything_done_before(anna):
    root = anna.mountpoint
    (root / "d").mkdir()
    (root / "d/closed").write_bytes(b"closed")
    (root / "gone").write_bytes(b"x")
    os.rename(root / "d/closed", root / "d/renamed")
    os.unlink(root / "gone")
    os.fsync(open_file(root / "other", b"other"))
    crash(anna)
    assert sorted(os.listdir(root)) == ["d", "other"]
    assert (root / "d/renamed").read_bytes() == b"closed"


@pytest.mark.parametrize("flags", [os.O_SYNC, os.O_DSYNC])
def test_synchronous_writes_need_no_fsync(anna, flags):
    open_file(anna.mountpoint / "x", b"written", flags)
    crash(anna)
    assert (anna.mountpoint / "x").read_bytes() == b"written"


def test_fsync_of_a_directory_saves_open_files_too(anna):
    descriptor = open_file(anna.mountpoint / "x", b"unsynced")
    directory = os.open(anna.mountpoint, os.O_RDONLY)
    os.fsync(directory)
    crash(anna)
    os.close(directory)
    with pytest.raises(OSError):
        os.write(descriptor, b"more")
    assert (anna.mountpoint / "x").read_bytes() == b"unsynced"


def test_sync_without_copies_is_about_this_disk_alone(anna):
    open_file(anna.mountpoint / "x", b"unsynced")
    assert anna.piperfs("sync", str(anna.state), "--copies", "0") == "Held by this computer\n"
    crash(anna)
    assert (anna.mountpoint / "x").read_bytes() == b"unsynced"


def test_umount_saves_everything(anna):
    (anna.mountpoint / "x").write_bytes(b"y" * 3_000_000)
    anna.umount()
    anna.mount()
    assert (anna.mountpoint / "x").stat().st_size == 3_000_000


def test_what_is_neither_closed_nor_synced_is_saved_by_itself(anna):
    before = anna.status()["digest"]
    open_file(anna.mountpoint / "x", b"left open")
    eventually(lambda: anna.status()["digest"] != before)
    eventually(lambda: anna.status()["store"]["not_yet_durable"] == 0)
    second = anna.status()["digest"]
    open_file(anna.mountpoint / "y", b"left open too")
    eventually(lambda: anna.status()["digest"] != second)
    crash(anna)
    assert (anna.mountpoint / "x").read_bytes() == b"left open"


def test_a_file_is_renamed_with_the_bytes_it_had(anna):
    root = anna.mountpoint
    (root / "target").write_bytes(b"old")
    for size in (5, 5_000_000):
        descriptor = open_file(root / "new", b"n" * size)
        os.rename(root / "new", root / "target")
        directory = os.open(root, os.O_RDONLY)
        os.fsync(directory)
        crash(anna)
        os.close(directory)
        with pytest.raises(OSError):
            os.fsync(descriptor)
        assert (root / "target").stat().st_size == size


def test_nothing_a_peer_has_seen_is_unknown_after_a_crash(tmp_path):
    with two_mounted(tmp_path) as (a, b):
        for n in range(20):
            (a.mountpoint / f"{n}").write_bytes(b"%d" % n)
        eventually((b.mountpoint / "19").exists)
        seen = set(os.listdir(b.mountpoint))
        a.kill()
        a.mount(f"peer={b.address}")
        assert seen <= set(os.listdir(a.mountpoint))
        (a.mountpoint / "after").write_bytes(b"after")
        eventually((b.mountpoint / "after").exists)
        eventually(lambda: a.digest() == b.digest())


def test_a_process_with_its_folder_in_a_dead_mount_is_no_obstacle(anna):
    (anna.mountpoint / "d").mkdir()
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.pause()"], cwd=anna.mountpoint / "d"
    )
    try:
        os.fsync(open_file(anna.mountpoint / "d/x", b"x"))
        crash(anna)
        assert (anna.mountpoint / "d/x").read_bytes() == b"x"
    finally:
        sleeper.send_signal(signal.SIGKILL)
        sleeper.wait()
