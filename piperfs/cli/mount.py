"""Commands that start and stop daemons: mount, umount, serve.

`mount` comes back when the files can be used, and `umount` when everything is on the disk and
the daemon has ended: the two moments that scripts and shutdowns depend on.
"""

import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from piperfs.cli import output, spawn
from piperfs.cli.volume import volume_argument
from piperfs.control import client, places
from piperfs.core.errors import ExitCode, UserError
from piperfs.fuse import mountpoint as points

HELD_ELSEWHERE_S = 2  # how long a daemon may take to see that its mount is gone
SYMLINKS_MAX = 40  # as in the kernel
FLAGS = (
    ("listen", "HOST:PORT", "Where other computers reach this one."),
    ("peer", "HOST:PORT", "A computer to connect to; may be repeated."),
    ("discovery", "on|off", "Find members on the local network [on]."),
    ("cache", "SIZE", "Keep at most this much content here [everything]."),
    ("metrics", "PORT", "Serve Prometheus metrics on this loopback port."),
    ("deadline", "SECONDS", "How long a read waits for absent content [30]."),
    ("idmap", "MAP", "Numbers of owners that others name: NAME=UID:@NAME=GID:… or a /FILE."),
    ("runas", "USER", "Mount as root, and run the daemon as USER."),
    ("driver", "NAME", "Kernel binding: kernel or pyfuse3."),
)


def daemon_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags that `mount` and `serve` share; they arrive as words of `-o`."""
    for name, metavar, text in reversed(FLAGS):
        command = click.option(f"--{name}", metavar=metavar, multiple=True, help=text)(command)
    return click.option("-o", "words", multiple=True, metavar="OPTS", help="Mount options.")(
        command
    )


def _joined(words: tuple[str, ...], flags: dict[str, tuple[str, ...]]) -> str:
    given = (f"{name}={value}" for name, values in flags.items() for value in values)
    return ",".join((*words, *given))


@click.command()
@volume_argument
@click.argument("mountpoint", type=Path)  # click.Path would look at it, and may wait for ever
@daemon_options
@click.option("-f", "--foreground", is_flag=True, help="Stay in front and log to the terminal.")
def mount(
    volume: str, mountpoint: Path, words: tuple[str, ...], foreground: bool, **flags: Any
) -> None:
    """Mount a volume at a directory; returns when it is usable."""
    start_mount(volume, mountpoint, _joined(words, flags), foreground=foreground)


def start_mount(
    volume: str, mountpoint: Path, options: str, *, foreground: bool = False, sloppy: bool = False
) -> None:
    """Start a daemon that mounts a volume, unless it is mounted there already.

    Raises:
        UserError: it could not be mounted.
    """
    state, target = places.resolve_volume(volume), _canonical(mountpoint)
    if _is_mounted_there(state, target):
        output.note(f"{target}: already mounted")
        return
    _free_abandoned(target)
    helped = any(word.startswith("runas=") for word in options.split(","))
    way = (spawn.MOUNTER,) if helped else ("mount",)
    arguments = [*way, str(state), str(target), "-o", options]
    arguments += ["--sloppy"] if sloppy else []
    if foreground:
        spawn.run_in_front(*arguments)
    spawn.start_detached(*arguments, session=not _is_automount(target))


def _is_mounted_there(state: Path, target: Path) -> bool:
    running = places.find_running(state)
    if running is None or running.mountpoint != str(target):
        return False
    connection = places.connect(state)
    if connection is None:
        return False
    connection.close()
    return str(target) in mounted_directories()


def _free_abandoned(target: Path) -> bool:
    """Detach what a killed daemon left behind; tells whether it did.

    Where nobody answers, a look at the directory would wait for ever, and so would the daemon that
    was killed and whoever wants its lock, if it hangs in the kernel.
    """
    running, mounted = places.find_mounted(target), points.find_mount(target)
    if running is None or not running.is_dead or mounted is None:
        return False
    if mounted.device != running.device:
        return False  # another one came after it, of a daemon that we do not know
    process = _watch(running)
    points.free(target)
    if process is not None:
        select.select([process], [], [], HELD_ELSEWHERE_S)
        os.close(process)
    return True


def _canonical(directory: Path) -> Path:
    """An absolute path without symlinks, found without asking a mount that may be dead or hang.

    Reading a link is answered by the kernel for every directory, a look at it by its daemon.
    """
    path = os.path.join(os.getcwd(), directory)
    for _ in range(SYMLINKS_MAX):
        parent, name = os.path.split(path.rstrip("/") or "/")
        parent = os.path.realpath(parent)
        path = os.path.join(parent, name)
        if name in ("", ".", ".."):
            return Path(os.path.realpath(path))
        try:
            path = os.path.join(parent, os.readlink(path))
        except OSError:
            return Path(path)
    raise UserError(f"{directory}: too many symbolic links lead there", ExitCode.NOT_FOUND)


def mounted_directories() -> set[str]:
    """Where file systems of PiperFS are mounted, dead ones included."""
    return {point for point, kind, source in _mounts() if _is_ours(kind, source)}


def _is_ours(kind: bytes, source: bytes) -> bool:
    return kind.startswith(b"fuse") and (b"piperfs" in kind or source.startswith(b"piperfs"))


def _is_automount(target: Path) -> bool:
    """Whether the kernel waits here for somebody to mount something."""
    return [kind for point, kind, _ in _mounts() if point == str(target)][-1:] == [b"autofs"]


def _mounts() -> Iterator[tuple[str, bytes, bytes]]:
    """Mount point, type and source of every mount, in the order of mounting."""
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields, _, tail = line.partition(b" - ")
        kind, source = tail.split(b" ")[:2]
        raw = fields.split(b" ")[4]
        yield os.fsdecode(raw.decode("unicode_escape").encode("latin-1")), kind, source


@click.command()
@click.argument("mountpoint", type=Path)  # click.Path would look at it, and may wait for ever
def umount(mountpoint: Path) -> None:
    """Unmount; returns when everything is on the disk."""
    target = _canonical(mountpoint)
    if _free_abandoned(target):
        return
    running = places.find_mounted(target)
    if str(target) not in mounted_directories():
        raise UserError(f"{target}: no volume is mounted here", ExitCode.NOT_FOUND)
    connection = places.connect(Path(running.state)) if running else None
    process = None
    if running is not None and connection is not None:  # else it is dead, its number anybody's
        process = _watch(running)
        _save(connection, target)
    _detach(target)
    if process is not None:
        _await_end(process)
        os.close(process)


def _save(connection: socket.socket, target: Path) -> None:
    """Have everything written. What cannot be saved is given up by a person, not by us."""
    try:
        with output.progress() as show:
            client.call(connection, "flush", {}, show)
    except UserError as error:
        raise UserError(
            f"{target} stays mounted, since not everything can be saved ({error}); "
            f"'umount {target}' unmounts it all the same, and loses the rest"
        ) from error


def _await_end(process: int) -> None:
    """Wait for the daemon's end, which a mount in another namespace may keep it from seeing."""
    if not select.select([process], [], [], HELD_ELSEWHERE_S)[0]:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        select.select([process], [], [])


def _watch(running: places.Running) -> int | None:
    try:
        return os.pidfd_open(running.pid)
    except ProcessLookupError:
        return None


def _detach(target: Path) -> None:
    root = os.geteuid() == 0
    command = ["umount", "-i", "-c"] if root else ["fusermount3", "-u"]
    done = subprocess.run([*command, str(target)], capture_output=True, check=False, text=True)
    if done.returncode != 0:
        reason = done.stderr.strip().rstrip(".").rpartition(": ")[2] or "cannot unmount it"
        raise UserError(f"{target}: {reason}; close what uses it and try again")


@click.command()
@volume_argument
@daemon_options
@click.option("-d", "--detach", is_flag=True, help="Return when it serves, and go on behind.")
def serve(volume: str, words: tuple[str, ...], detach: bool, **flags: Any) -> None:
    """Run a replica without a mount."""
    arguments = ("serve", str(places.resolve_volume(volume)), "-o", _joined(words, flags))
    if not detach:
        spawn.run_in_front(*arguments)
    spawn.start_detached(*arguments)
