"""Starts daemons as processes of their own, and learns from them whether they could start.

The command line and the daemon share no imports, only a command and a line of JSON. That keeps
`piperfs --help` instant, and it makes the short-lived daemon behind a command on a volume that
is not mounted the same thing as the long-lived one behind a mount.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import piperfs
from piperfs.control.messages import decode_reply
from piperfs.core.errors import ExitCode, UserError

MOUNTER = "mounter"  # the helper that mounts as root for a daemon of somebody else
PASSPHRASE_FILE = "PIPERFS_PASSPHRASE_FILE"
UNIT_MOUNT = "unit_mount"  # the one that mounts for the daemon of a unit


def _command(*arguments: str) -> list[str]:
    # -P: a folder named like a library, wherever the user happens to be, is not imported.
    if arguments[0] in (MOUNTER, UNIT_MOUNT):
        return [sys.executable, "-P", "-m", f"piperfs.daemon.{arguments[0]}", *arguments[1:]]
    return [sys.executable, "-P", "-m", "piperfs.daemon", *arguments]


def _environment() -> dict[str, str]:
    """Lets the daemon be found, and nothing else: an empty part would mean the current folder.

    A daemon runs elsewhere, so a passphrase file beside the user is named in full.
    """
    home = str(Path(next(iter(piperfs.__path__))).parent)
    parts = (home, *filter(os.path.isabs, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    named = os.environ.get(PASSPHRASE_FILE)
    given = {PASSPHRASE_FILE: os.path.abspath(named)} if named else {}
    return {**os.environ, **given, "PYTHONPATH": os.pathsep.join(parts)}


def start_offline(state: Path) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start a daemon that answers one request and ends; for a volume that nobody has open.

    Ctrl-C reaches the command alone: the daemon sees the connection close, and undoes what it has
    half done.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        child = subprocess.Popen(
            _command("offline", str(state), "--control-fd", str(theirs.fileno())),
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            env=_environment(),
            process_group=0,
        )
    return ours, child


def await_end(child: subprocess.Popen[bytes]) -> None:
    """Wait until a daemon of one request has ended; who interrupts that too is not kept waiting."""
    try:
        child.wait()
    except KeyboardInterrupt:
        child.terminate()
        raise


def run_helper(*arguments: str) -> None:
    """Run a helper to its end, in this process group. Raises UserError with its own words."""
    done = subprocess.run(
        _command(*arguments), env=_environment(), stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines()[-1:] or ["the helper failed"]
        code = done.returncode if done.returncode in list(ExitCode) else ExitCode.FAILED
        raise UserError(reason[0].removeprefix("piperfs: "), ExitCode(code))


def run_in_front(*arguments: str) -> NoReturn:
    """Become the daemon; it logs to the terminal and ends with it."""
    os.execve(sys.executable, _command(*arguments), _environment())


def start_detached(*arguments: str, session: bool = True) -> str:
    """Start a daemon that survives this terminal; returns once it is usable.

    Args:
        arguments: of the daemon.
        session: begin a session of its own at once. Below an automount point the kernel lets only
            the process group of the service manager pass, so there the daemon does it later.

    Returns:
        What it says about being usable.

    Raises:
        UserError: it could not start, with its own words and code.
    """
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as ready:
        try:
            child = subprocess.Popen(
                _command(*arguments, "--ready-fd", str(writer)),
                pass_fds=(writer,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,  # until the daemon turns to its log
                start_new_session=session,
                cwd="/",  # else nobody could unmount where the user happened to be
                env=_environment(),
            )
        finally:
            os.close(writer)
        assert child.stderr is not None
        with child.stderr:
            return _wait_until_ready(child, ready.readline)


def _wait_until_ready(child: subprocess.Popen[bytes], read: Callable[[], bytes]) -> str:
    try:
        line = read()
    except KeyboardInterrupt:
        child.send_signal(signal.SIGTERM)
        child.wait()
        raise
    if not line:
        raise UserError(f"the daemon did not start: {_last_words(child)}")
    reply = decode_reply(line)
    if reply.error is not None:
        child.wait()
        raise UserError(reply.error, ExitCode(reply.code))
    return str(reply.ok)


def _last_words(child: subprocess.Popen[bytes]) -> str:
    _, errors = child.communicate()
    lines = errors.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it ended with code {child.returncode}"
