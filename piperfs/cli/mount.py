"""Commands that start daemons: mount and serve. `mount` comes back when the files can be used."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from piperfs.cli import mounted, output, spawn, unmount
from piperfs.cli.volume import volume_argument
from piperfs.control import places, units
from piperfs.fuse import mountpoint as points

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
@click.argument("mountpoint", type=mounted.given)
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
    state, target = places.resolve_volume(volume), mounted.canonical(mountpoint)
    if _is_mounted_there(state, target):
        output.note(f"{target}: already mounted")
        return
    unmount.free_abandoned(target)
    words = options.split(",")
    if "service" in words:
        spawn.run_helper(spawn.UNIT_MOUNT, "offer", str(state), str(target), options)
        return
    helped = any(word.startswith("runas=") for word in words) or _is_of_another(state)
    way = (spawn.MOUNTER,) if helped else ("mount",)
    arguments = [*way, str(state), str(target), f"-o={options}"]
    arguments += ["--sloppy"] if sloppy else []
    if foreground:
        spawn.run_in_front(*arguments)
    spawn.start_detached(*arguments, session=not points.is_automount(target))


def check_mount(volume: str, options: str, *, sloppy: bool = False) -> None:
    """See whether there is such a volume, and whether the options make sense. Raises UserError."""
    words = (f"-o={options}", *(["--sloppy"] if sloppy else []))
    spawn.run_helper("check", str(places.resolve_volume(volume)), *words)


def _is_of_another(state: Path) -> bool:
    """Whether this is root, and the volume somebody else's: his daemon runs as himself."""
    return os.geteuid() == 0 and os.path.isdir(state) and state.stat().st_uid != 0


def _is_mounted_there(state: Path, target: Path) -> bool:
    running = places.find_running(state)
    if running is None or running.mountpoint != str(target):
        return False
    connection = places.connect(state)
    if connection is None:
        return False
    connection.close()
    return str(target) in mounted.directories()


@click.command()
@volume_argument
@daemon_options
@click.option("-d", "--detach", is_flag=True, help="Return when it serves, and go on behind.")
def serve(volume: str, words: tuple[str, ...], detach: bool, **flags: Any) -> None:
    """Run a replica without a mount."""
    state, options = places.resolve_volume(volume), _joined(words, flags)
    descriptor = units.take_descriptor()
    wanted = units.find_wanted(state.name)
    if descriptor is not None and wanted is not None:
        where = (str(state), wanted.mountpoint, f"-o={options},{wanted.options}")
        spawn.run_in_front("mount", *where, "--fuse-fd", str(descriptor))
    arguments = ("serve", str(state), f"-o={options}")
    if not detach:
        spawn.run_in_front(*arguments)
    spawn.start_detached(*arguments)
