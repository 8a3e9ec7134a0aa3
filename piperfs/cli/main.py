"""The command line: a table of commands, and one place where errors become exit codes.

Nothing of the daemon is imported here, so help and completion are instant, and `status` can say
what is wrong even when a library of the daemon is broken.
"""

import errno
import io
import os
import sys

import click

from piperfs.cli import act, keys, mount, output, show, unmount, versions, volume
from piperfs.cli.entry import INTERRUPTED
from piperfs.core.errors import ExitCode, UserError

OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
COMMANDS = (
    volume.init,
    volume.invite,
    volume.join,
    mount.mount,
    unmount.umount,
    mount.serve,
    show.status,
    act.sync,
    show.digest,
    show.peers,
    show.members,
    show.conflicts,
    versions.resolve,
    versions.history,
    versions.restore,
    versions.revert,
    volume.set_role,
    volume.remove_member,
    volume.rotate_keys,
    keys.protect,
    keys.unlock,
    keys.lock,
    act.fsck,
    act.collect,
    show.metrics,
)


class InOrder(click.Group):
    """Lists commands in the order of a newcomer's first day, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        return list(self.commands)


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="piperfs", message="%(version)s")
def piperfs() -> None:
    """One folder on all your computers, mounted, offline as well as online.

    VOLUME is a state directory, a place in its mount, or a bare name that is looked
    up in $XDG_DATA_HOME/piperfs (/var/lib/piperfs for root).
    """


for command in COMMANDS:
    piperfs.add_command(command)


def main() -> int:
    """Run the command line with the arguments of this process; returns the exit code."""
    _open_standard_streams()
    _accept_any_text()
    return _run()


def _open_standard_streams() -> None:
    """Cron jobs and services may close them; the next file opened would take their place."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _accept_any_text() -> None:
    """Names of files are bytes: none is a reason to fail while it is read or shown."""
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _run() -> int:
    try:
        piperfs.main(prog_name="piperfs", standalone_mode=False)
        _flush()
    except UserError as error:
        output.error(str(error))
        return error.code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return ExitCode.USAGE
    except click.ClickException as error:
        output.error(_one_line(error))
        return ExitCode.USAGE
    except click.Abort:  # an interrupt at a prompt
        return INTERRUPTED
    except BrokenPipeError:
        _drop_answer()  # its reader has seen enough
        return ExitCode.FAILED
    except OSError as error:
        output.error(_of_the_system(error))
        _drop_answer()
        return ExitCode.FAILED
    return ExitCode.DONE


def _of_the_system(error: OSError) -> str:
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, FileNotFoundError):
        return "the working directory is gone; change to another one"
    if error.errno in OUTPUT_ERRORS:
        return f"cannot write the answer: {error.strerror}"
    return f"the system refuses: {error.strerror}"


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _drop_answer() -> None:
    """Else the interpreter would try to write it once more at its end, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _one_line(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context is not None else "piperfs"
    return f"{text[:1].lower()}{text[1:]}; see {command} --help"
