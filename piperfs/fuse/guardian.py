"""Frees those who use a mount when its daemon is killed in the one moment that the kernel hangs in.

A notification waits in the kernel for a lock that a caller of ours holds until it is answered. If
the process is killed then, it cannot end before that lock is free, and the lock is not free before
the process has ended: the caller, the mount and the lock on the state directory hang for ever. So
a child that does nothing else watches; if the daemon is dead and yet does not end, the child ends
the connection between the kernel and the daemon, and all of them are free.

What a dead daemon leaves at an automount point the child detaches: the next look mounts again.
"""

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from piperfs.core.errors import UserError
from piperfs.fuse.mountpoint import abort, covers_automount, free, is_stale

PR_SET_PDEATHSIG: Final = 1
PR_SET_NAME: Final = 15
ENDS_WITHIN_S: Final = 0.3  # a process that does not hang
GIVE_UP_S: Final = 30
POLL_S: Final = 0.02
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def start(mountpoint: Path) -> None:
    """Start the watching child; the main thread calls this before anything else is open."""
    daemon = os.getpid()
    if os.fork() == 0:
        try:
            _watch(daemon, mountpoint.absolute())
        finally:
            os._exit(0)


def _watch(daemon: int, mountpoint: Path) -> NoReturn:
    """Wait for the death of the daemon's main thread, of which the kernel tells by a signal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    libc.prctl(PR_SET_NAME, b"piperfs-guard", 0, 0, 0)
    _let_go_of_everything()
    while _is_running(daemon):  # other signals are the daemon's own business
        signal.sigwait(SIGNALS)
        time.sleep(POLL_S)  # the signal comes just before the death
    _free(daemon, mountpoint)
    if covers_automount(mountpoint) and is_stale(mountpoint):
        with suppress(UserError):  # who mounted for us detaches it
            free(mountpoint)
    os._exit(0)


def _let_go_of_everything() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir("/")


def _is_running(process: int) -> bool:
    """Whether a process exists and its main thread is alive."""
    return _state(process) not in ("Z", "X", "")


def _state(process: int) -> str:
    try:
        facts = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return ""
    return facts.rpartition(")")[2].split()[0]


def _hangs(process: int) -> bool:
    """Whether a dead process still has threads."""
    try:
        return len(os.listdir(f"/proc/{process}/task")) > 1
    except OSError:
        return False


def _free(daemon: int, mountpoint: Path) -> None:
    """End the connection if, and only if, the dead daemon cannot end by itself."""
    begun = time.monotonic()
    while _hangs(daemon) and time.monotonic() - begun < GIVE_UP_S:
        time.sleep(POLL_S)
        if time.monotonic() - begun > ENDS_WITHIN_S:
            abort(mountpoint)
