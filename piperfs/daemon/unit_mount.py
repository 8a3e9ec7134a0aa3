"""The moments in which a mount served by `piperfs@NAME.service` needs root.

The unit's daemon has no privilege at all, and lives behind a wall of namespaces and filters. Only
short helpers are root:

- `offer`, run by mount(8), mounts and starts the unit.
- `take`, before the daemon, hands the descriptor to the service manager, which passes it on. After
  a crash there is no offer, so it mounts anew.
- `leave`, where the unit is told to stop, unmounts, and the daemon ends in order.
- `release`, after the daemon, detaches what it left behind. What a failed one left stays until it
  is back: programs get an error meanwhile, instead of writing into the directory below the mount.

A mount that a person unmounted is forgotten; one whose daemon died, or was stopped, comes back
with it.
"""

import contextlib
import os
import pwd
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from piperfs.control import places, units
from piperfs.control.units import Wanted
from piperfs.core.errors import ExitCode, UserError
from piperfs.daemon.mounter import attach
from piperfs.daemon.options import parse_options
from piperfs.daemon.statedir import read_volume_file
from piperfs.fuse import mountpoint as points

USER: Final = "piperfs"  # as the unit says
PASSABLE: Final = 0o011  # the unit's user must get through to its volume; none can be listed
BARRIER_S: Final = 5
REASON_S: Final = 10


def main() -> int:
    """Do one step; returns the exit code."""
    step, name, *rest = sys.argv[1:]
    try:
        if step == "offer":
            offer(Path(name), *rest)
        else:
            {"take": take, "leave": leave, "release": release}[step](name)
    except UserError as error:
        sys.stderr.write(f"piperfs: {error}\n")
        return error.code
    return 0


def offer(state: Path, mountpoint: str, options: str) -> None:
    """Mount, and have the unit serve it. Raises UserError."""
    name = state.name
    if os.geteuid() != 0 or state.parent != places.state_root():
        raise UserError(
            f"-o service is for root and volumes in {places.state_root()}", ExitCode.REFUSED
        )
    if points.is_automount(Path(mountpoint)):
        raise UserError(
            f"{mountpoint} is an automount point, for which a unit cannot start a daemon: leave "
            "'service' out; the daemon runs as the volume's owner then",
            ExitCode.REFUSED,
        )
    before = units.find_wanted(name)
    if before is not None and points.find_mount(Path(before.mountpoint)) is not None:
        raise UserError(f"{name} is mounted at {before.mountpoint}; umount that first")
    unit = f"piperfs@{name}.service"
    _systemctl("stop", unit)  # it may serve without a mount
    wanted = Wanted(mountpoint, options)
    descriptor = _mount(state, wanted)
    try:
        units.write_wanted(name, wanted)
        with _offered(name, descriptor):
            started = _systemctl("start", unit)
    finally:
        os.close(descriptor)
    if started.returncode != 0:
        said = _reason(unit)
        _forget(name)
        _systemctl("stop", unit)
        if points.find_mount(Path(mountpoint)) is not None:
            points.detach(Path(mountpoint))
        raise UserError(said or f"{unit} did not start: see systemctl status {unit}")


def _reason(unit: str) -> str:
    """What the daemon said. The manager forgets it with each new try, which ends like the last."""
    deadline = time.monotonic() + REASON_S
    said = ""
    while not said and time.monotonic() < deadline:
        said = _systemctl("show", "--value", "--property=StatusText", unit).stdout.strip()
    return said


def _systemctl(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["systemctl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _mount(state: Path, wanted: Wanted) -> int:
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        raise UserError(
            f"there is no user {USER}; 'tools/up --system' makes it", ExitCode.NOT_FOUND
        ) from None
    label = read_volume_file(state).label
    return attach(Path(wanted.mountpoint), label, parse_options(wanted.options), user)


@contextlib.contextmanager
def _offered(name: str, descriptor: int) -> Iterator[None]:
    """Give the descriptor to whoever comes for it, which only root can."""
    path = units.path_of(name, "sock")
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(1)

        def give() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as taker:
                socket.send_fds(taker, [b"\0"], [descriptor])

        threading.Thread(target=give, daemon=True).start()
        try:
            yield
        finally:
            path.unlink()


def take(name: str) -> None:
    """Leave the descriptor with the service manager. Raises UserError."""
    root = places.state_root()
    root.chmod(root.stat().st_mode | PASSABLE)
    wanted = units.find_wanted(name)
    if wanted is None:
        return
    descriptor = _find_offered(name)
    if descriptor is None:
        descriptor = _mount(places.state_root() / name, wanted)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.connect(os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))
        text = f"FDSTORE=1\nFDNAME={units.DESCRIPTOR_NAME}"
        socket.send_fds(manager, [text.encode()], [descriptor])
        ours, theirs = os.pipe()
        socket.send_fds(manager, [b"BARRIER=1"], [theirs])
        os.close(theirs)
        select.select([ours], [], [], BARRIER_S)  # closed there: it has seen both


def _find_offered(name: str) -> int | None:
    path = units.path_of(name, "sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as giver:
        try:
            giver.connect(str(path))
        except OSError:
            return None
        descriptors = socket.recv_fds(giver, 1, 1)[1]
    return descriptors[0] if descriptors else None


def leave(name: str) -> None:
    """The unit shall stop: unmount, and the daemon ends in order, unless the mount is in use."""
    wanted = units.find_wanted(name)
    if wanted is None:
        return
    units.path_of(name, "stopped").touch()
    with contextlib.suppress(UserError):
        points.detach(Path(wanted.mountpoint), lazily=False)


def release(name: str) -> None:
    """The daemon is gone: nobody must wait for it."""
    wanted = units.find_wanted(name)
    if wanted is None:
        return
    mountpoint = Path(wanted.mountpoint)
    stopped = units.path_of(name, "stopped")
    was_stopped, has_failed = stopped.exists(), os.environ.get("SERVICE_RESULT") != "success"
    stopped.unlink(missing_ok=True)
    if points.find_mount(mountpoint) is not None:
        points.abort(mountpoint)
        if was_stopped or not has_failed:
            points.detach(mountpoint)
    if not was_stopped and not has_failed:
        _forget(name)


def _forget(name: str) -> None:
    units.path_of(name).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
