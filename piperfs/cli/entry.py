"""Where the programs begin: an interrupt is no error, not even while the rest is still loaded."""

# ruff: noqa: PLC0415 - what takes a while is loaded where an interrupt is expected

import sys
from collections.abc import Callable
from typing import Final, NoReturn

INTERRUPTED: Final = 130  # as shells report a SIGINT


def main() -> NoReturn:
    """The program `piperfs`."""

    def run() -> int:
        from piperfs.cli.main import main as piperfs

        return piperfs()

    _run(run)


def mount() -> NoReturn:
    """The program `mount.piperfs`."""

    def run() -> int:
        from piperfs.cli import mount_helper

        return mount_helper.run(sys.argv[1:])

    _run(run)


def umount() -> NoReturn:
    """The program `umount.piperfs`."""

    def run() -> int:
        from piperfs.cli import umount_helper

        return umount_helper.run(sys.argv[1:])

    _run(run)


def _run(program: Callable[[], int]) -> NoReturn:
    try:
        code = program()
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)
