"""Signals during system calls: as on a local disk; whoever waits for content can be ended."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.volumes import eventually, replicas, two_mounted

pytestmark = pytest.mark.mount

# Calls libc by hand, since Python itself repeats what a signal interrupted.
PRELUDE = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(function, *arguments):
    if (result := function(*arguments)) < 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    return result
path = sys.argv[1].encode()
"""
STORM = """
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
"""
SYNC = """
fd = os.open(path, os.O_RDWR | os.O_CREAT)
for n in range(30):
    os.pwrite(fd, os.urandom(20000), n * 5000)
    call(libc.fsync, fd)
    if n % 10 == 0:
        os.close(fd)
        fd = os.open(path, os.O_RDWR)
"""
CALM = "signal.setitimer(signal.ITIMER_REAL, 0)"
READ = """
fd = os.open(path, os.O_RDONLY)
data = ctypes.create_string_buffer(2_000_000)
print("reading", flush=True)
call(libc.pread, fd, data, 2_000_000, 0)
print("done", flush=True)
"""


def child(code: str, path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PRELUDE + code, os.fspath(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_signals_do_not_interrupt_fsync(tmp_path):
    with replicas(tmp_path, "anna") as (a,):
        a.init().mount()
        process = child(STORM + SYNC + CALM, a.mountpoint / "f")
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0


def test_a_waiting_reader_ignores_timers_and_dies_when_told_to(tmp_path):
    with two_mounted(tmp_path, "cache=1M,deadline=40") as (a, b):
        for n in range(3):
            (a.mountpoint / f"f{n}").write_bytes(os.urandom(2_000_000))
        absent = b.mountpoint / "f0"
        eventually(lambda: (b.mountpoint / "f2").stat().st_size == 2_000_000)
        eventually(lambda: absent.stat().st_blocks * 512 < 2_000_000)
        a_pid = a.pid
        os.kill(a_pid, signal.SIGSTOP)
        try:
            doomed = child("signal.signal(signal.SIGINT, signal.SIG_DFL)\n" + READ, absent)
            patient = child(STORM + READ + CALM, absent)
            for process in (doomed, patient):
                assert process.stdout.readline() == "reading\n"
            eventually(has_alarm_pending, patient.pid)
            doomed.send_signal(signal.SIGINT)
            assert doomed.communicate(timeout=10)[0] == ""
            assert patient.poll() is None
        finally:
            os.kill(a_pid, signal.SIGCONT)
        assert patient.communicate(timeout=30) == ("done\n", "")


def has_alarm_pending(pid: int) -> bool:
    """A process in which a signal stays pending is inside a system call that goes on."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return bool(int(fields["ShdPnd"], 16) & 1 << (signal.SIGALRM - 1)) and "D" in fields["State"]
