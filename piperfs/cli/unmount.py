"""Unmounting. It comes back when everything is on the disk and the daemon has ended.

That is the moment that scripts and shutdowns depend on: what comes next may be the unmounting of
the disk below, or the loss of power.
"""

import enum
import os
import select
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import click

from piperfs.cli import mounted, output
from piperfs.control import client, places
from piperfs.core.errors import ExitCode, UserError
from piperfs.fuse import mountpoint as points

NOT_YOURS = "not found in"  # fusermount3 looks for what its caller mounted
HELD_ELSEWHERE_S = 2  # how long a daemon may take to see that its mount is gone


@dataclass(frozen=True, slots=True)
class How:
    """What umount(8) is asked for beside the plain thing."""

    force: bool = False  # do not ask the daemon, and give up what it has not saved
    lazy: bool = False  # those who use the mount keep it until they are done
    read_only: bool = False  # if the mount is in use, at least nobody writes to it any more


class Outcome(enum.Enum):
    """What became of a mount."""

    SAVED = "unmounted, and everything is on the disk"
    LAZY = "unmounted; those who use it go on, and what was written so far is on the disk"
    FORCED = "unmounted by force; what was not saved yet may be lost"
    ABANDONED = "unmounted; no daemon answered that could have saved anything"
    READ_ONLY = "in use, and read-only from now on"


@click.command()
@click.argument("mountpoint", type=mounted.given)
def umount(mountpoint: Path) -> None:
    """Unmount; returns when everything is on the disk."""
    stop_mount(mountpoint, How())


def stop_mount(mountpoint: Path, how: How) -> Outcome:
    """Unmount as asked; returns what was done. Raises UserError if the mount stays."""
    target = mounted.canonical(mountpoint)
    if free_abandoned(target):
        return Outcome.ABANDONED
    running = places.find_mounted(target)
    if str(target) not in mounted.directories():
        raise UserError(f"{target}: no volume is mounted here", ExitCode.NOT_FOUND)
    connection = places.connect(Path(running.state)) if running else None
    process = None
    if running is not None and connection is not None:  # else it is dead, its number anybody's
        process = _watch(running)
        if how.force:
            connection.close()
        else:
            _save(connection, target)
    is_detached = _detach(target, how)
    if is_detached and process is not None and not how.lazy:
        _await_end(process, HELD_ELSEWHERE_S if how.force else None)
    if process is not None:
        os.close(process)
    if not is_detached:
        return Outcome.READ_ONLY
    return Outcome.ABANDONED if process is None else _outcome_of(how)


def _outcome_of(how: How) -> Outcome:
    return Outcome.FORCED if how.force else Outcome.LAZY if how.lazy else Outcome.SAVED


def free_abandoned(target: Path) -> bool:
    """Detach what a killed daemon left behind; tells whether it did.

    Where nobody answers, a look at the directory would wait for ever, and so would the daemon that
    was killed and whoever wants its lock, if it hangs in the kernel.
    """
    running, found = places.find_mounted(target), points.find_mount(target)
    if running is None or not running.is_dead or found is None:
        return False
    if found.device != running.device:
        return False  # another one came after it, of a daemon that we do not know
    process = _watch(running)
    points.free(target)
    if process is not None:
        select.select([process], [], [], HELD_ELSEWHERE_S)
        os.close(process)
    return True


def _save(connection: socket.socket, target: Path) -> None:
    """Have everything written. What cannot be saved is given up by a person, not by us."""
    try:
        with output.progress() as show:
            client.call(connection, "flush", {}, show)
    except UserError as error:
        raise UserError(
            f"{target} stays mounted, since not everything can be saved ({error}); "
            f"'umount -i {target}' unmounts it all the same, and loses the rest"
        ) from error


def _await_end(process: int, patience_s: float | None) -> None:
    """Wait for the daemon's end, which a mount in another namespace may keep it from seeing."""
    if not select.select([process], [], [], HELD_ELSEWHERE_S)[0]:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        select.select([process], [], [], patience_s)


def _watch(running: places.Running) -> int | None:
    try:
        return os.pidfd_open(running.pid)
    except ProcessLookupError:
        return None


def _detach(target: Path, how: How) -> bool:
    """Have the kernel unmount; False if the mount only became read-only, as was asked for."""
    root = os.geteuid() == 0
    command = ["umount", "-i", "-c"] if root else ["fusermount3", "-u"]
    command += ["-f"] if how.force and root else []
    command += [("-l" if root else "-z")] if how.lazy else []
    reason = _run(*command, str(target))
    if reason and how.read_only and root and not _run("mount", "-i", "-o", "remount,ro", target):
        output.note(f"{target}: {Outcome.READ_ONLY.value}")
        return False
    if NOT_YOURS in reason:
        raise UserError(
            f"{target} was mounted by somebody else: let them unmount it, or root", ExitCode.REFUSED
        )
    if reason:
        raise UserError(f"{target}: {reason}; close what uses it and try again", ExitCode.REFUSED)
    return True


def _run(*command: str | Path) -> str:
    """Run a program; returns why it failed, in a few words."""
    done = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace")
    if done.returncode == 0:
        return ""
    return done.stderr.strip().rstrip(".").rpartition(": ")[2] or "cannot unmount it"
