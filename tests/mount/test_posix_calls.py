"""Calls that the comparison with the local disk does not reach: other processes, huge sizes."""

import errno
import fcntl
import mmap
import os
import shutil
import subprocess
import sys

import pytest

from tests.support import syscalls
from tests.support.volumes import eventually, replicas

pytestmark = pytest.mark.mount
PIB = 1 << 50


@pytest.fixture(scope="module", params=["kernel", "pyfuse3"])
def mounted(request, tmp_path_factory):
    with replicas(tmp_path_factory.mktemp(request.param), "one") as (replica,):
        yield request.param, replica.init().mount(f"driver={request.param}").mountpoint


@pytest.fixture
def disk(mounted):
    return mounted[1]


def errno_of(call, *arguments):
    with pytest.raises(OSError) as raised:
        call(*arguments)
    return raised.value.errno


def in_child(source: str, *arguments: object) -> str:
    """What another process says; it is Python with `os`, `sys` and `fcntl` at hand."""
    command = [sys.executable, "-c", f"import fcntl, os, sys\n{source}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


TRY_FLOCK = """
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("free")
except BlockingIOError:
    print("taken")
"""
TRY_RECORD = TRY_FLOCK.replace("fcntl.flock", "fcntl.lockf")


@pytest.mark.parametrize(
    ("lock", "attempt"),
    [
        (lambda fd: fcntl.flock(fd, fcntl.LOCK_EX), TRY_FLOCK),
        (lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX), TRY_RECORD),
        (lambda fd: syscalls.lock_descriptor(fd, fcntl.F_WRLCK, 0, 0), TRY_RECORD),
    ],
)
def test_locks_hold_between_processes(disk, lock, attempt):
    path = disk / "locked"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    lock(fd)
    assert in_child(attempt, path) == "taken"
    os.close(fd)
    assert in_child(attempt, path) == "free"


def test_files_may_be_petabytes_of_nothing(disk, mounted):
    path = disk / "sparse"
    with path.open("w+b") as file:
        file.truncate(4 * PIB)
        os.pwrite(file.fileno(), b"middle", 2 * PIB)
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), 10, 2 * PIB - 2) == b"\0\0middle\0\0"
    with path.open("rb") as file:
        if mounted[0] == "kernel":
            data = os.lseek(file.fileno(), 0, os.SEEK_DATA)
            assert 2 * PIB - (1 << 20) <= data <= 2 * PIB
            hole = os.lseek(file.fileno(), data, os.SEEK_HOLE)
            assert 2 * PIB + 6 <= hole <= 2 * PIB + (1 << 20)
            assert errno_of(os.lseek, file.fileno(), 3 * PIB, os.SEEK_DATA) == errno.ENXIO
    assert path.stat().st_size == 4 * PIB
    assert path.stat().st_blocks * 512 <= 1 << 20
    path.unlink()


def test_what_was_stored_through_a_mapping_is_no_hole(disk):
    """In one process: the end of another that inherits the mapping would write it out."""
    path = disk / "mapped"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 1 << 20)
    with mmap.mmap(fd, 1 << 20) as window, path.open("rb") as reader:
        os.close(fd)
        window[1 << 19 : (1 << 19) + 5] = b"hello"
        begin = os.lseek(reader.fileno(), 0, os.SEEK_DATA)
        end = os.lseek(reader.fileno(), begin, os.SEEK_HOLE)
        assert begin <= 1 << 19 < end
        assert b"hello" in os.pread(reader.fileno(), end - begin, begin)


def test_a_time_stays_when_pages_of_a_mapping_are_written_later(disk, mounted):
    path = disk / "timed"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 4096)
    with mmap.mmap(fd, 4096) as window:
        window[:5] = b"hello"
        os.utime(fd, ns=(5, 6))
        window.flush()
    os.close(fd)
    if mounted[0] == "kernel":
        assert path.stat().st_mtime_ns == 6
    assert path.read_bytes()[:5] == b"hello"


def test_sizes_end_where_the_kernel_ends(disk):
    with (disk / "end").open("wb") as file:
        os.truncate(file.fileno(), (1 << 63) - 1)
        assert errno_of(os.pwrite, file.fileno(), b"x", (1 << 63) - 1) == errno.EINVAL
    assert (disk / "end").stat().st_size == (1 << 63) - 1


def test_a_running_program_is_not_overwritten(disk):
    program = disk / "program"
    shutil.copy(shutil.which("sleep"), program)
    with subprocess.Popen([program, "60"]) as child:
        try:
            assert errno_of(os.open, program, os.O_WRONLY) == errno.ETXTBSY
        finally:
            child.kill()


def test_symlinks_that_go_round_are_noticed(disk):
    os.symlink("round", disk / "round")
    assert errno_of(os.stat, disk / "round") == errno.ELOOP
    assert errno_of(os.open, disk / "round", os.O_RDONLY | os.O_NOFOLLOW) == errno.ELOOP


def test_statvfs_tells_the_truth(disk):
    facts = os.statvfs(disk)
    assert facts.f_namemax == 255
    assert 0 < facts.f_bavail <= facts.f_bfree <= facts.f_blocks
    below = os.statvfs(disk.parent)
    assert facts.f_blocks * facts.f_frsize == pytest.approx(
        below.f_blocks * below.f_frsize, rel=0.01
    )


def test_unnamed_files_get_a_name_once(mounted):
    driver, disk = mounted
    if driver == "pyfuse3":
        assert errno_of(os.open, disk, os.O_TMPFILE | os.O_RDWR) == errno.EOPNOTSUPP
        return
    fd = os.open(disk, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, b"at last")
    syscalls.link_descriptor(fd, str(disk / "named"))
    assert os.fstat(fd).st_nlink == 1
    os.close(fd)
    assert (disk / "named").read_bytes() == b"at last"


@pytest.mark.parametrize("exchanges", [False, True])
def test_a_listing_says_what_is_above_a_directory_that_moved(disk, exchanges):
    left, right = disk / f"left{exchanges}", disk / f"right{exchanges}"
    (left / "sub").mkdir(parents=True)
    right.mkdir()
    if exchanges:
        (right / "sub").mkdir()
    for _ in range(2):  # the first time the kernel asks, the second time it remembers
        assert syscalls.listed(left / "sub")[b".."] == left.stat().st_ino
    syscalls.renameat2(str(left / "sub"), str(right / "sub"), syscalls.EXCHANGE * exchanges)
    above = lambda path: syscalls.listed(path)[b".."] == path.parent.stat().st_ino
    eventually(above, right / "sub")
    if exchanges:
        eventually(above, left / "sub")


def test_a_listing_goes_on_while_entries_come_and_go(disk):
    folder = disk / "many"
    folder.mkdir()
    for number in range(3000):
        os.mknod(folder / f"file-{number:04}")
    seen = []
    for number, entry in enumerate(os.scandir(folder)):
        seen.append(entry.name)
        if number % 3 == 0:
            os.mknod(folder / f"new-{number}")
            os.unlink(folder / f"file-{number * 7 % 3000:04}") if number < 1000 else None
    kept = {name for name in os.listdir(folder) if name.startswith("file-")}
    assert kept <= set(seen)
    assert len(seen) == len(set(seen))
