"""Commands that make volumes and let computers into them: init, invite, join, remove-member.

A ticket is a secret until it is spent, so `join` reads it from standard input when asked to and
nothing here ever repeats it.
"""

import sys
from typing import Any

import click

from piperfs.cli import output
from piperfs.cli.reach import ask, ask_offline
from piperfs.control.messages import Arguments, Reply
from piperfs.control.places import resolve_volume, state_root
from piperfs.core.plain import check_label

LABEL = "the volume's label (--name)"
MEMBER = "this computer's name (--member)"
ROLES = ("admin", "writer", "reader", "store")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _complete_volume(_ctx: Any, _param: Any, incomplete: str) -> list[str]:
    """The names below the state root that begin so; a path is the shell's own business."""
    try:
        found = sorted(path.name for path in state_root().iterdir() if path.is_dir())
    except OSError:
        return []
    return [name for name in found if name.startswith(incomplete)]


volume_argument = click.argument("volume", shell_complete=_complete_volume)
member_name = click.option(
    "--member", default="", help="What to call this computer [its host name]."
)


class Duration(click.ParamType[int]):
    """A length of time such as 90s, 15m, 24h or 7d, in seconds."""

    name = "duration"
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}  # noqa: RUF012 - never changed
    digits_max = 9  # thousands of years of seconds would not fit into a date

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        number, unit = value[:-1], value[-1:]
        is_number = number.isascii() and number.isdigit() and len(number) <= self.digits_max
        if not is_number or unit not in self.units:
            self.fail(f"'{value}': expected a duration such as 15m, 24h or 7d", param, ctx)
        return int(number) * self.units[unit]


class Whole(click.IntRange):
    """A whole number, called so where a word is none."""

    name = "whole number"


@click.command()
@volume_argument
@click.option("--name", "label", default="", help="Label of the volume [the last part of VOLUME].")
@click.option(
    "--quorum",
    type=Whole(1, 16),
    metavar="N",
    default=1,
    show_default=True,
    help="How many of three or more admins it takes to remove a member or set a role.",
)
@member_name
@as_json
def init(volume: str, label: str, quorum: int, member: str, as_json: bool) -> None:
    """Create a volume; this computer is its first admin."""
    state = resolve_volume(volume)
    label = check_label(label or state.name, LABEL)
    member = check_label(member, MEMBER)
    arguments: Arguments = {"label": label, "member": member, "quorum": quorum}
    made = ask_offline(state, "init", arguments)
    if as_json:
        output.as_json(made)
        return
    output.line(f"Created volume {made['label']} ({made['volume'][:16]}) in {state}")
    _say_protection(made)


@click.command()
@volume_argument
@click.option("--role", type=click.Choice(ROLES), default="writer", show_default=True)
@click.option("--expires", type=Duration(), help="How long it is good [24h; with --pair 10m].")
@click.option("--pair", is_flag=True, help="Print a short code instead, and wait for its use.")
@as_json
def invite(volume: str, role: str, expires: int | None, pair: bool, as_json: bool) -> None:
    """Print a ticket that lets one more computer in, once."""
    arguments: Arguments = {"role": role, "expires_s": expires}
    if pair:
        _wait_for_pair(volume, arguments, as_json=as_json)
        return
    made = ask(volume, "invite", arguments)
    if as_json:
        output.as_json(made)
    else:
        output.line(made["ticket"])
    if not made["addresses"]:
        output.note("The ticket names no address: mount or serve the volume, and invite again.")


def _wait_for_pair(volume: str, arguments: Arguments, *, as_json: bool) -> None:
    def show(news: Reply) -> None:
        """The code comes first, and again with each wrong try."""
        if news.done:
            output.note(f"A wrong code was tried ({news.done} of {news.total}).")
        elif as_json:
            output.as_json({"code": news.progress})
        else:
            output.line(news.progress or "")
            output.note(
                "Type this on the other computer, at `piperfs join VOLUME --pair`. It works once, "
                "as long as this command waits."
            )

    came = ask(volume, "pair", arguments, show)
    if as_json:
        output.as_json(came)
    else:
        output.line(f"{came['name']} has joined")
        output.line(f"Check words: {came['words']}")


@click.command()
@volume_argument
@click.argument("ticket", required=False)
@click.option("--pair", is_flag=True, help="Ask for the code of `invite --pair` instead.")
@click.option("--peer", default="", metavar="HOST:PORT", help="Where --pair finds the other one.")
@member_name
@as_json
def join(
    volume: str, ticket: str | None, pair: bool, peer: str, member: str, as_json: bool
) -> None:
    """Make this computer a member; TICKET - is read from stdin."""
    arguments: Arguments = {"member": check_label(member, MEMBER)}
    if pair:
        arguments |= {"code": _code(ticket), "peer": peer}
    elif ticket is None:
        raise click.UsageError("missing argument 'TICKET', or --pair")
    else:
        arguments["ticket"] = _read_line() if ticket == "-" else ticket.strip()
    if peer and not pair:
        raise click.UsageError("--peer goes with --pair; a ticket says where to ask")
    state = resolve_volume(volume)
    with output.progress(wanted=not as_json) as show:
        made = ask_offline(state, "join", arguments, show)
    if as_json:
        output.as_json(made)
        return
    output.line(f"Joined volume {made['label']} ({made['volume'][:16]}) as {made['role']}")
    if made.get("check_words"):
        output.line(f"Check words: {made['check_words']}")
        output.note("`piperfs members` shows the same words on the computer that let this one in.")
    _say_protection(made)


def _code(argument: str | None) -> str:
    """The code, from the terminal or standard input; other users can read arguments."""
    if argument not in (None, "-"):
        raise click.UsageError("--pair asks for the code itself, or reads it from standard input")
    if argument is None and sys.stdin is not None and sys.stdin.isatty():
        return str(click.prompt("Code", err=True)).strip() or " "
    return _read_line() or " "


def _read_line() -> str:
    return sys.stdin.readline(64 * 1024).strip() if sys.stdin is not None else ""


def _say_protection(made: dict[str, Any]) -> None:
    if made.get("key_protection", "none") == "none":
        output.note("This computer's key is protected by file permissions alone.")


@click.command(name="set-role")
@volume_argument
@click.argument("member")
@click.argument("role", type=click.Choice(ROLES), metavar="ROLE")
@as_json
def set_role(volume: str, member: str, role: str, as_json: bool) -> None:
    """Change what a member may do: admin, writer or reader."""
    changed = ask(volume, "set-role", {"member": member, "role": role})
    if as_json:
        output.as_json(changed)
    elif changed["waits"]:
        _say_proposal(changed["waits"])
    else:
        output.line(f"{changed['name']} is {changed['role']} now")


def _say_proposal(what: str) -> None:
    output.line(f"Proposed to {what}")
    output.note("It is done as soon as so many admins have run the same command.")


@click.command(name="rotate-keys")
@volume_argument
@as_json
def rotate_keys(volume: str, as_json: bool) -> None:
    """Seal what is written from now on with a new key, for present members only."""
    made = ask(volume, "rotate-keys")
    if as_json:
        output.as_json(made)
    else:
        output.line(f"New key {made['epoch'][:16]}; members get it when they next connect")


@click.command(name="remove-member")
@volume_argument
@click.argument("member")
@as_json
def remove_member(volume: str, member: str, as_json: bool) -> None:
    """Take a member's rights away.

    MEMBER is its name or the start of its id.
    """
    removed = ask(volume, "remove-member", {"member": member})
    if as_json:
        output.as_json(removed)
    elif removed["waits"]:
        _say_proposal(removed["waits"])
    else:
        output.line(f"Removed {removed['name']} ({removed['replica'][:12]})")
