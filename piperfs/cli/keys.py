"""Commands about this computer's key: protect, unlock, lock.

A passphrase comes from the terminal or from standard input, never from an argument.
"""

import sys

import click

from piperfs.cli import output
from piperfs.cli.reach import ask_offline
from piperfs.cli.volume import volume_argument
from piperfs.control.places import find_volume
from piperfs.core.errors import ExitCode, UserError

PASSPHRASE_CHARS_MAX = 1024


def _passphrase(*, again: bool) -> str:
    """Raises UserError if it is too long: cut, it would be another one."""
    if sys.stdin.isatty():
        prompt = click.prompt("Passphrase", hide_input=True, confirmation_prompt=again, err=True)
        given = str(prompt)
    else:
        given = sys.stdin.readline(PASSPHRASE_CHARS_MAX + 2).rstrip("\n")
    if len(given) > PASSPHRASE_CHARS_MAX:
        raise UserError(
            f"a passphrase has at most {PASSPHRASE_CHARS_MAX} characters; give a shorter one",
            ExitCode.USAGE,
        )
    return given


@click.command()
@volume_argument
@click.option("--plain", is_flag=True, help="Take the passphrase off again.")
def protect(volume: str, plain: bool) -> None:
    """Protect this computer's key with a passphrase, which is read from standard input."""
    arguments = {"plain": True} if plain else {"passphrase": _passphrase(again=True)}
    ask_offline(find_volume(volume), "protect", {**arguments})
    if plain:
        output.note("This computer's key is protected by file permissions alone.")
    else:
        output.line("The key is protected. `piperfs unlock` lets the volume be mounted.")


@click.command()
@volume_argument
def unlock(volume: str) -> None:
    """Keep the unlocked key in the kernel until `lock`, or until the computer is switched off."""
    ask_offline(find_volume(volume), "unlock", {"passphrase": _passphrase(again=False)})
    output.line("Unlocked")


@click.command()
@volume_argument
def lock(volume: str) -> None:
    """Make the kernel forget the unlocked key; a daemon that runs keeps running."""
    done = ask_offline(find_volume(volume), "lock", {})
    output.line("Locked" if done["locked"] else "It was locked already")
