"""Power cuts: the store lies on a loop device, by turns ext4 and XFS, that loses power under load.

The file system is told to shut down without flushing its log, which loses everything that was not
forced to the disk. Before that, random ranges of the store's file are written back, as a kernel
does when it likes to: without this, stores that forget to sync look good. Then the disk is mounted
again (its log is replayed), PiperFS is mounted, and the checks are those of `kill`.
"""

import argparse
import contextlib
import ctypes
import fcntl
import itertools
import math
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from crashing.rounds import pid_of, run_round
from tests.support.volumes import Replica, replicas

DISK_BYTES = 768 << 20
FILE_SYSTEMS = {"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-f")}
SHUTDOWN = 0x8004587D  # XFS_IOC_GOINGDOWN, which ext4 took over
NO_LOG_FLUSH = 2
LOG_FLUSH = 1
SYNC_FILE_RANGE_WRITE_AND_WAIT = 7
FRESH_DISK_EVERY = 10  # deleted files stay in a store, so it grows


def run(options: argparse.Namespace) -> str:
    """Run rounds. Raises BrokenPromiseError."""
    share = math.ceil(options.rounds / len(FILE_SYSTEMS))
    begins = range(0, options.rounds, min(FRESH_DISK_EVERY, share))
    for begin, kind in zip(begins, itertools.cycle(FILE_SYSTEMS), strict=False):
        _on_a_fresh_disk(options, kind, range(begin, min(begin + begins.step, options.rounds)))
    return f"{options.rounds} power cuts, no promise broken"


def _on_a_fresh_disk(options: argparse.Namespace, kind: str, numbers: range) -> None:
    base = Path(tempfile.mkdtemp(prefix="piperfs-power-"))
    try:
        with Disk(base, kind) as disk, replicas(base / "r", "anna") as (anna,):
            anna.state = disk.mountpoint / "state"
            anna.init().mount()
            for number in numbers:
                seed = options.seed + number
                text = run_round(anna, number, seed, cut(anna, disk, random.Random(seed)))
                if not options.quiet:
                    print(f"{number}, {kind}: {text}", flush=True)
            anna.umount()
    finally:
        shutil.rmtree(base, ignore_errors=True)


class Disk:
    """A file system on a loop device."""

    def __init__(self, base: Path, kind: str) -> None:
        self._kind = kind
        self.mountpoint = base / "disk"
        self._image = base / "image"
        self._device = ""

    def __enter__(self) -> Self:
        self.mountpoint.mkdir()
        with self._image.open("wb") as image:
            image.truncate(DISK_BYTES)
        _run(*FILE_SYSTEMS[self._kind], str(self._image))
        self._device = _run("losetup", "-f", "--show", str(self._image))
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.umount()
        _run("losetup", "-d", self._device)

    def mount(self) -> None:
        _run("mount", self._device, str(self.mountpoint))

    def umount(self) -> None:
        _run("umount", str(self.mountpoint))

    def cut(self, how: int) -> None:
        """Take the power away."""
        descriptor = os.open(self.mountpoint, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", how))
        finally:
            os.close(descriptor)


def cut(replica: Replica, disk: Disk, rng: random.Random) -> Callable[[], None]:
    """Cut the power after a random time, and come back."""
    pid, pause = pid_of(replica), rng.uniform(0.2, 2.5)

    def crash() -> None:
        process = os.pidfd_open(pid)
        with writing_back(replica.state / "store/data.mdb", rng):
            threading.Event().wait(pause)
            disk.cut(NO_LOG_FLUSH if rng.random() < 0.9 else LOG_FLUSH)
        os.kill(pid, signal.SIGKILL)
        select.select([process], [], [])
        os.close(process)
        disk.umount()
        disk.mount()

    return crash


@contextlib.contextmanager
def writing_back(data: Path, rng: random.Random) -> Iterator[None]:
    """Meanwhile random ranges of a file reach the disk unasked."""
    stop = threading.Event()
    libc = ctypes.CDLL(None)
    descriptor = os.open(data, os.O_RDWR)

    def work() -> None:
        with contextlib.suppress(OSError):  # XFS says so when the power is gone
            while not stop.wait(rng.uniform(0, 0.02)):
                size = os.fstat(descriptor).st_size
                offset, length = rng.randrange(size) & ~4095, 4096 << rng.randrange(8)
                flags = SYNC_FILE_RANGE_WRITE_AND_WAIT
                arguments = (ctypes.c_int64(offset), ctypes.c_int64(length), flags)
                libc.sync_file_range(descriptor, *arguments)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        os.close(descriptor)


def _run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()
