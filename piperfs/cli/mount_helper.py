"""mount.piperfs: what mount(8), fstab and systemd run for `-t piperfs`.

mount(8) finds it by its name and passes SPEC DIR and its own flags, most of which are of no
concern to a file system that registers no entry of its own. Exit codes are mount(8)'s: 1 for a
wrong call, 32 for a mount that failed.
"""

import ctypes
import getopt
import os
import sys

from piperfs.cli import mounted, output
from piperfs.cli.mount import check_mount, start_mount
from piperfs.control import places
from piperfs.core.errors import ExitCode, UserError

MOUNT_USAGE = 1
MOUNT_FAILED = 32
CLONE_NEWNS = 0x00020000
USAGE = "usage: mount.piperfs VOLUME DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]"


def main() -> None:
    """Run the helper with the arguments of this process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Mount as asked; returns the exit code."""
    try:
        flags, (spec, directory) = getopt.gnu_getopt(arguments, "sfnvwrN:o:t:")
    except (getopt.GetoptError, ValueError):
        output.error(USAGE)
        return MOUNT_USAGE
    given = {flag for flag, _ in flags}
    options = [value for flag, value in flags if flag == "-o"]
    options += ["ro"] if "-r" in given else []
    try:
        for namespace in (value for flag, value in flags if flag == "-N"):
            enter_namespace(namespace)
        volume, target, is_sloppy = _as_written(spec), mounted.given(directory), "-s" in given
        if "-f" in given:  # mount(8)'s "fake": everything but the mount itself
            check_mount(volume, ",".join(options), sloppy=is_sloppy)
        else:
            start_mount(volume, target, ",".join(options), sloppy=is_sloppy)
    except UserError as error:
        output.error(str(error))
        return MOUNT_USAGE if error.code is ExitCode.USAGE else MOUNT_FAILED
    return 0


def _as_written(spec: str) -> str:
    """The volume's name as fstab has it.

    mount(8) makes a path of a name that happens to exist where it runs: started in /, it turns the
    volume `home` into `/home`.
    """
    try:
        name = os.path.relpath(spec, os.path.realpath(".")) if spec.startswith("/") else spec
    except FileNotFoundError:
        return spec  # the directory where it runs is gone
    is_name = "/" not in name and name not in (".", "..")
    return name if is_name and not _is_volume(spec) and _is_volume(name) else spec


def _is_volume(spec: str) -> bool:
    return os.path.exists(places.resolve_volume(spec) / "volume.json")


def enter_namespace(namespace: str) -> None:
    """Enter another mount namespace, given as a path or a process id."""
    path = f"/proc/{namespace}/ns/mnt" if namespace.isdigit() else namespace
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", ExitCode.NOT_FOUND) from error
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, CLONE_NEWNS) != 0:
            raise UserError(f"{path}: {os.strerror(ctypes.get_errno())}", ExitCode.REFUSED)
    finally:
        os.close(descriptor)
