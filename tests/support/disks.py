"""Disks that misbehave: small ones, and system calls of a running daemon that fail on demand."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path


def fsync(path: Path, data: bytes) -> None:
    """Write a file and return when it is on stable storage. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def errno_of(call: Callable[..., object], *arguments: object) -> int:
    """With which number a call fails; 0 if it does not."""
    try:
        call(*arguments)
    except OSError as error:
        return error.errno or -1
    return 0


@contextlib.contextmanager
def small_disk(directory: Path, mebibytes: int) -> Iterator[Path]:
    """A disk of a fixed size, mounted at a new directory."""
    directory.mkdir(parents=True)
    options = f"size={mebibytes}m,mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "small", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@contextlib.contextmanager
def failing_calls(pid: int, *faults: str) -> Iterator[None]:
    """While this lasts, system calls of a process fail as `faults` say, in strace's words."""
    injected = [word for fault in faults for word in ("-e", f"inject={fault}")]
    names = ",".join(fault.partition(":")[0] for fault in faults)
    tracer = subprocess.Popen(
        ["strace", "-f", "-p", str(pid), "-e", f"trace={names}", *injected],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert tracer.stderr is not None
        assert "attached" in tracer.stderr.readline()
        yield
    finally:
        tracer.terminate()
        tracer.communicate()
