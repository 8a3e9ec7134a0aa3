"""The daemon's own command: what the command line starts as a process.

Three ways to run: behind a mount, without a mount, or for one request on a volume that nobody has
open; and one only to see whether it could. Errors before the volume is usable go back to whoever
waits, word for word.
"""

import argparse
import os
import socket
import sys
from pathlib import Path

import trio

from piperfs.core.errors import ExitCode, PiperError, UserError
from piperfs.daemon import lifecycle, offline, run
from piperfs.daemon.clock import SYSTEM_CLOCK
from piperfs.daemon.notify import Starter
from piperfs.daemon.options import Options, parse_options
from piperfs.daemon.owner import become_owner
from piperfs.daemon.statedir import read_volume_file
from piperfs.fuse import guardian
from piperfs.obs import log


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="piperfs.daemon")
    ways = parser.add_subparsers(dest="way", required=True)
    for way in ("mount", "serve", "check", "offline"):
        command = ways.add_parser(way)
        command.add_argument("state", type=Path)
        if way == "mount":
            command.add_argument("mountpoint", type=Path)
            command.add_argument("--fuse-fd", type=int)
        if way == "offline":
            command.add_argument("--control-fd", type=int, required=True)
            continue
        command.add_argument("-o", dest="options", default="")
        command.add_argument("--sloppy", action="store_true")
        command.add_argument("--ready-fd", type=int)
    return parser.parse_args(arguments)


def main() -> int:
    """Run the daemon; returns its exit code."""
    arguments = _parse(sys.argv[1:])
    lifecycle.harden()
    if arguments.way == "offline":
        _answer_one(arguments.state, socket.socket(fileno=arguments.control_fd))
        return ExitCode.DONE
    if arguments.way == "mount":
        guardian.start(arguments.mountpoint)
    starter = Starter(arguments.ready_fd)
    in_front = arguments.ready_fd is None
    log.configure(as_json=not in_front)
    error: PiperError | None = None
    try:
        options = parse_options(arguments.options, sloppy=arguments.sloppy)
        if arguments.way == "check":
            read_volume_file(arguments.state)
        else:
            _run(arguments, options, starter)
    except* PiperError as group:
        first = _innermost(group)
        assert isinstance(first, PiperError)
        error = first
    except* Exception as group:  # noqa: BLE001 - told, and the process ends
        log.get_logger("daemon").error("daemon.failed", exc_info=group)
        error = _crash(group)
    return ExitCode.DONE if error is None else _fail(starter, error, in_front=in_front)


def _answer_one(state: Path, control: socket.socket) -> None:
    log.configure(as_json=False, level="error")  # answers tell the rest
    try:
        become_owner(state, as_daemon=False)
    except UserError as error:
        trio.run(offline.refuse, control, error)
    else:
        trio.run(offline.answer_one, state, control, SYSTEM_CLOCK)


def _run(arguments: argparse.Namespace, options: Options, starter: Starter) -> None:
    job = run.Job(
        arguments.state,
        getattr(arguments, "mountpoint", None),
        options,
        arguments.ready_fd is None,
        getattr(arguments, "fuse_fd", None),
    )
    if job.descriptor is not None:
        lifecycle.gain_no_privileges()
        starter.took_descriptor()
    if arguments.way == "serve":
        become_owner(arguments.state, as_daemon=True)
    trio.run(run.run, job, starter, SYSTEM_CLOCK)


def _fail(starter: Starter, error: PiperError, *, in_front: bool) -> int:
    starter.failed(error)
    if in_front:
        print(f"piperfs: {error}", file=sys.stderr)  # noqa: T201 - a person started us
    return error.code if isinstance(error, UserError) else ExitCode.FAILED


def _crash(group: BaseExceptionGroup[Exception]) -> UserError:
    """What to tell of an error that nobody foresaw; the log has the rest."""
    return UserError(
        f"the daemon failed ({_innermost(group)!r}); nothing that was saved is lost: mount again, "
        "and please report what its log says",
        ExitCode.CRASHED,
    )


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads that wait on the kernel must not hold the process
