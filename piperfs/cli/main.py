"""The command line: a table of commands, and one place where errors become exit codes.

Nothing of the daemon is imported here, so help and completion are instant, and `status` can say
what is wrong even when a library of the daemon is broken.
"""

import sys

import click

from piperfs.cli import act, mount, output, show, volume
from piperfs.core.errors import ExitCode, UserError

COMMANDS = (
    volume.init,
    volume.invite,
    volume.join,
    mount.mount,
    mount.umount,
    mount.serve,
    show.status,
    act.sync,
    show.digest,
    show.peers,
    show.members,
    show.conflicts,
    volume.remove_member,
    act.fsck,
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

    VOLUME is the path of a state directory, or a bare name that is looked up in
    $XDG_DATA_HOME/piperfs (/var/lib/piperfs for root).
    """


for command in COMMANDS:
    piperfs.add_command(command)


def main() -> None:
    """Run the command line with the arguments of this process."""
    try:
        piperfs.main(prog_name="piperfs", standalone_mode=False)
    except UserError as error:
        output.error(str(error))
        sys.exit(error.code)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has seen enough
        sys.exit(ExitCode.FAILED)
