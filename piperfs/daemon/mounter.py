"""The part of a mount that needs root: mount, start the daemon as somebody else, unmount.

A file system can only be mounted by root or by a setuid program, and a daemon that talks to
strangers should be neither. So this small process opens the kernel's device, mounts, and hands
the descriptor to a daemon that runs as an ordinary user and can never gain privileges. It then
does nothing but wait, and detaches the directory when the daemon is gone. Only if the daemon failed
the mount stays, so that programs get an error instead of writing into the directory below it; at
an automount point they cannot, and the next look mounts again.
"""

import argparse
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from piperfs.core.errors import ExitCode, PiperError, UserError
from piperfs.daemon.lifecycle import stopping_signals
from piperfs.daemon.notify import Starter
from piperfs.daemon.options import Options, parse_options
from piperfs.daemon.owner import environment_of, find_owner
from piperfs.daemon.statedir import read_volume_file
from piperfs.fuse import mountpoint as points
from piperfs.fuse.mountpoint import MountOptions


def main() -> int:
    """Mount as asked; returns the daemon's exit code."""
    parser = argparse.ArgumentParser(prog="piperfs.daemon.mounter")
    parser.add_argument("state", type=Path)
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("-o", dest="options", default="")
    parser.add_argument("--sloppy", action="store_true")
    parser.add_argument("--ready-fd", type=int)
    arguments = parser.parse_args()
    try:
        options = parse_options(arguments.options, sloppy=arguments.sloppy)
        user = find_user(options.run_as, arguments.state)
        label = check_state(arguments.state, user)
        environment = environment_of(user)
        descriptor = attach(arguments.mountpoint, label, options, user)
    except PiperError as error:
        if arguments.ready_fd is None:
            sys.stderr.write(f"piperfs: {error}\n")
        Starter(arguments.ready_fd).failed(error)
        return error.code if isinstance(error, UserError) else ExitCode.FAILED
    code = run_daemon(sys.argv[1:], arguments.ready_fd, descriptor, user, environment)
    if points.find_mount(arguments.mountpoint) is not None:
        has_failed = code < 0 or code == ExitCode.CRASHED
        if not has_failed or points.covers_automount(arguments.mountpoint):
            points.detach(arguments.mountpoint)
    return code


def find_user(name: str | None, state: Path) -> pwd.struct_passwd:
    """The user that the daemon shall run as: the one named, or the owner. Raises UserError."""
    if os.geteuid() != 0:
        raise UserError("runas= needs root, which it gives up", ExitCode.REFUSED)
    owner = find_owner(state) if name is None else None
    if owner is not None:
        return owner
    name = name or "root"
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise UserError(f"runas={name}: there is no such user", ExitCode.NOT_FOUND) from None
    if user.pw_uid == 0:
        raise UserError("runas=root gives nothing up; leave it out", ExitCode.USAGE)
    return user


def check_state(state: Path, user: pwd.struct_passwd) -> str:
    """The volume's label. Raises UserError if the user could not work on it."""
    label = read_volume_file(state).label
    if state.stat().st_uid != user.pw_uid:
        raise UserError(
            f"{state} must belong to {user.pw_name}: chown -R {user.pw_name} {state}",
            ExitCode.REFUSED,
        )
    return label


def attach(directory: Path, label: str, options: Options, user: pwd.struct_passwd) -> int:
    """Mount for another user; returns the descriptor to serve."""
    owner = (user.pw_uid, user.pw_gid)
    # Root mounts for everybody, as far as permissions let them, unless it names the user itself.
    for_all = options.allow_other or options.run_as is None
    how = MountOptions(label, options.read_only, for_all, options.kernel, owner)
    descriptor = points.attach(directory, how)
    points.raise_readahead(directory, points.READAHEAD_KIB)
    return descriptor


def run_daemon(
    arguments: list[str],
    ready_fd: int | None,
    descriptor: int,
    user: pwd.struct_passwd,
    environment: dict[str, str],
) -> int:
    """Run the daemon as the user and wait for its end; passes signals on."""
    kept = [descriptor] if ready_fd is None else [descriptor, ready_fd]
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "piperfs.daemon", "mount", *arguments, "--fuse-fd",
         str(descriptor)],
        pass_fds=kept,
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        umask=0o077,
        env=environment,
    )  # fmt: skip
    for number in kept:
        os.close(number)
    for number in stopping_signals():
        signal.signal(number, _stopper(child, Path(arguments[1])))
    return child.wait()


def _stopper(
    child: subprocess.Popen[bytes], mountpoint: Path
) -> Callable[[int, FrameType | None], None]:
    """Unmounting ends the daemon in order; where the mount is in use, a signal does."""

    def handle(number: int, _frame: FrameType | None) -> None:
        try:
            points.detach(mountpoint, lazily=False)
        except UserError:
            child.send_signal(number)

    return handle


if __name__ == "__main__":
    sys.exit(main())
