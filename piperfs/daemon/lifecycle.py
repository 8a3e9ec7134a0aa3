"""Signals, watchdog and the process's own hardening: what surrounds the work of a daemon.

The first SIGTERM or SIGINT asks for an orderly stop, in which everything reaches the disk, as does
the SIGHUP of a terminal that goes away, unless `nohup` said to ignore it. A second one ends the
process at once; that is safe too, since a commit is atomic, but loses the seconds that were never
promised to be durable.
"""

import ctypes
import os
import resource
import signal

import trio

from piperfs.daemon.notify import Starter
from piperfs.obs.log import get_logger

PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38

log = get_logger("daemon")


def harden() -> None:
    """Keep keys out of core files and from other processes of the same user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.umask(0o077)


def gain_no_privileges() -> None:
    """From now on no program that this process starts can be more than it is itself."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def stopping_signals() -> list[signal.Signals]:
    """Those that ask for an orderly stop."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if is_ignored else [signal.SIGHUP])]


async def stop_on_signal(
    stop: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Set `stop` at the first signal; leave the process at the second."""
    with trio.open_signal_receiver(*stopping_signals()) as signals:
        task_status.started()
        async for number in signals:
            log.info("daemon.signal", name=signal.Signals(number).name)
            if stop.is_set():
                os._exit(128 + number)
            stop.set()


async def feed_watchdog(starter: Starter) -> None:
    """Report life at half the interval the service manager asked for, from this very loop.

    A loop that hangs stops reporting, which is the point.
    """
    while starter.watchdog_s > 0:
        starter.alive()
        await trio.sleep(starter.watchdog_s / 2)
