"""What backup programs look at stays as it is: over remounts, crashes, and moving content."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support import syscalls
from tests.support.volumes import eventually, replicas, signal_wait, two_mounted

pytestmark = pytest.mark.mount


@pytest.fixture(params=["kernel", "pyfuse3"])
def mounted(request, tmp_path):
    with replicas(tmp_path, "one") as (replica,):
        yield replica.init().mount(f"driver={request.param}")


def plant(base: Path) -> None:
    """Objects of every kind, among them some that saved themselves by a rename."""
    for number in range(5):
        folder = base / f"folder{number}"
        folder.mkdir()
        for name in ("a", "b"):
            (folder / name).write_bytes(os.urandom(3000 * number))
    os.link(base / "folder1/a", base / "hard")
    os.symlink("folder1/a", base / "soft")
    os.mkfifo(base / "fifo")
    for number in (2, 3):
        sync(base)
        (base / "new").write_bytes(b"saved again")
        (base / "new").rename(base / f"folder{number}/a")
    os.utime(base / "folder1/b", ns=(5, -7))
    os.rename(base / "folder4", base / "renamed")
    sync(base)


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def stats(base: Path) -> dict[str, tuple[int, ...]]:
    found = {}
    for root, directories, files in os.walk(base):
        for name in (*directories, *files):
            path = os.path.join(root, name)
            facts = os.lstat(path)
            found[os.path.relpath(path, base)] = (
                facts.st_ino, facts.st_mode, facts.st_nlink, facts.st_size, facts.st_blocks,
                facts.st_atime_ns, facts.st_mtime_ns, facts.st_ctime_ns,
            )  # fmt: skip
    return found


def test_nothing_moves_over_a_remount_or_a_crash(mounted):
    replica, base = mounted, mounted.mountpoint
    plant(base)
    before = stats(base)
    numbers = {facts[0] for name, facts in before.items() if name != "hard"}
    assert len(numbers) == len(before) - 1, "different objects have different numbers"
    replica.umount()
    replica.mount()
    assert stats(base) == before
    replica.kill()
    replica.mount()
    assert stats(base) == before
    (base / "another").write_bytes(b"")
    assert (base / "another").stat().st_ino not in numbers


def crash(daemon: int, *left: int) -> None:
    """End a daemon before anything that it does by and by is done."""
    signal.pidfd_send_signal(daemon, signal.SIGKILL)
    signal_wait(daemon)
    for fd in (daemon, *left):
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
def test_copies_and_reservations_are_durable_at_once_where_a_file_is_opened_so(tmp_path, flag):
    with replicas(tmp_path, "one") as (replica,):
        base = replica.init().mount().mountpoint
        daemon = os.pidfd_open(replica.pid)
        (base / "from").write_bytes(b"bytes")
        source = os.open(base / "from", os.O_RDONLY)
        copy, sized = (os.open(base / n, os.O_RDWR | os.O_CREAT | flag) for n in ("to", "sized"))
        sync(base)
        os.copy_file_range(source, copy, 5)
        syscalls.fallocate(sized, 0, 0, 5000)
        crash(daemon, source, copy, sized)
        replica.mount()
        assert (base / "to").read_bytes() == b"bytes"
        assert (base / "sized").stat().st_size == 5000


@pytest.mark.parametrize("size", [5, 3 << 20])
def test_a_file_that_gets_its_name_when_it_is_whole_is_whole_after_a_crash(tmp_path, size):
    with replicas(tmp_path, "one") as (replica,):
        base, data = replica.init().mount().mountpoint, os.urandom(size)
        daemon = os.pidfd_open(replica.pid)
        fd = os.open(base, os.O_TMPFILE | os.O_RDWR, 0o644)
        os.write(fd, data)
        os.fsync(fd)
        syscalls.link_descriptor(fd, str(base / "named"))
        (base / "other").write_bytes(b"")
        sync(base / "other")
        crash(daemon, fd)
        replica.mount()
        assert (base / "named").read_bytes() == data


def test_backups_see_no_churn_after_a_remount(mounted, tmp_path):
    replica, base = mounted, mounted.mountpoint
    plant(base)
    copy, snapshot = tmp_path / "copy", tmp_path / "snapshot"
    (base / "fifo").unlink()
    tar = ["tar", "-C", base, "--no-check-device", "--listed-incremental", snapshot, "-cf"]
    subprocess.run([*tar, tmp_path / "0.tar", "."], check=True)
    subprocess.run(["rsync", "-aHX", f"{base}/", copy], check=True)
    (tmp_path / "stamp").touch()
    replica.umount()
    replica.mount()
    subprocess.run([*tar, tmp_path / "1.tar", "."], check=True)
    assert all(name.endswith("/") for name in lines("tar", "-tf", tmp_path / "1.tar"))
    assert lines("rsync", "-naiHX", "--delete", f"{base}/", copy) == []
    assert lines("find", base, "-newer", tmp_path / "stamp") == []
    assert lines("find", base, "-cnewer", tmp_path / "stamp") == []


def lines(*command: object) -> list[str]:
    done = subprocess.run([str(w) for w in command], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_moving_content_changes_blocks_and_no_time(tmp_path):
    with two_mounted(tmp_path, "cache=200M") as (a, b):
        data = os.urandom(3 << 20)
        (a.mountpoint / "f").write_bytes(data)
        path = b.mountpoint / "f"
        eventually(lambda: path.stat().st_size == len(data))
        before = path.stat()
        assert before.st_blocks * 512 < len(data), "most of it is elsewhere"
        assert path.read_bytes() == data
        after = path.stat()
        assert after.st_blocks * 512 >= len(data)
        assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
        assert (a.mountpoint / "f").stat().st_mtime_ns == after.st_mtime_ns


def test_blocks_of_a_file_grow_to_the_whole_as_its_content_arrives(tmp_path):
    with two_mounted(tmp_path) as (a, b):
        size = 64 << 20
        (a.mountpoint / "f").write_bytes(os.urandom(size))
        path = b.mountpoint / "f"
        eventually(lambda: path.stat().st_size == size)
        eventually(lambda: path.stat().st_blocks * 512 >= size)
