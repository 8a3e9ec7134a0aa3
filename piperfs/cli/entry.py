"""Where the programs begin: an interrupt is no error, not even while the rest is still loaded.

So this module loads nothing by itself, `typing` included.
"""

# ruff: noqa: PLC0415 - what takes a while is loaded where an interrupt is expected

import sys

INTERRUPTED = 130  # as shells report a SIGINT


def main() -> None:
    """The program `piperfs`."""
    _begin("piperfs")


def mount() -> None:
    """The program `mount.piperfs`."""
    _begin("mount.piperfs")


def umount() -> None:
    """The program `umount.piperfs`."""
    _begin("umount.piperfs")


def _begin(program: str) -> None:
    try:
        code = _run(program)
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def _run(program: str) -> int:
    if program == "mount.piperfs":
        from piperfs.cli import mount_helper

        return mount_helper.run(sys.argv[1:])
    if program == "umount.piperfs":
        from piperfs.cli import umount_helper

        return umount_helper.run(sys.argv[1:])
    from piperfs.cli.main import main as run

    return run()
