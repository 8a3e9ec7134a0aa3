"""umount.piperfs: what umount(8) and systemd run to unmount a volume.

Without it they return when the kernel has let go of the directory, though the daemon may still
write. umount(8) finds it as umount.fuse.piperfs, the type that the kernel lists, or by its short
name (see `fuse/utab.py`). It is passed DIR and flags; exit codes are umount(8)'s.
"""

import getopt
import sys

from piperfs.cli import mounted, output
from piperfs.cli.mount_helper import MOUNT_FAILED, MOUNT_USAGE, enter_namespace
from piperfs.cli.unmount import How, Outcome, stop_mount
from piperfs.core.errors import UserError

USAGE = "usage: umount.piperfs DIR [-flnrv] [-N NAMESPACE] [-t TYPE]"


def main() -> None:
    """Run the helper with the arguments of this process."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Unmount as asked; returns the exit code."""
    try:
        flags, (directory,) = getopt.gnu_getopt(arguments, "filnrvN:t:")
    except (getopt.GetoptError, ValueError):
        output.error(USAGE)
        return MOUNT_USAGE
    given = {flag for flag, _ in flags}
    how = How(force="-f" in given, lazy="-l" in given, read_only="-r" in given)
    try:
        for namespace in (value for flag, value in flags if flag == "-N"):
            enter_namespace(namespace)
        done = stop_mount(mounted.given(directory), how)
    except UserError as error:
        output.error(str(error))
        return MOUNT_FAILED
    if "-v" in given and done is not Outcome.READ_ONLY:  # which is told in any case
        output.note(f"{directory}: {done.value}")
    return 0
