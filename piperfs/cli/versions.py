"""Commands about versions: resolve, history, restore, revert.

A file may be named by where it is mounted, or by a volume and a path in it, so that all of them
work without a mount too. A path in a volume begins at its root wherever one happens to be, unless
dots say that it does not, or it begins with the mount point.
"""

import datetime as dt
import os
from typing import Any

import click

from piperfs.cli import output
from piperfs.cli.reach import ask
from piperfs.cli.volume import Duration, as_json, volume_argument
from piperfs.control import places
from piperfs.control.messages import Arguments
from piperfs.core.errors import ExitCode, UserError


def _place(words: tuple[str, ...]) -> tuple[str, str]:
    """Volume and path out of `PATH` or `VOLUME PATH`. Raises UserError."""
    if len(words) not in (1, 2):
        raise UserError("expected PATH, or VOLUME and PATH", ExitCode.USAGE)
    path = words[-1]
    if not path:
        raise UserError("the path is empty; expected one in the volume", ExitCode.USAGE)
    if len(words) == 1:
        running = places.find_mounted_above(path)
        if running is None:
            raise _not_mounted(path, "; give VOLUME and PATH")
        return running.state, _text(places.real_path(path))
    running = places.find_running(places.find_volume(words[0]))
    is_here = path.split("/")[0] in (".", "..")
    if (is_here or path.startswith("/")) and running is not None:
        full = places.real_path(path)
        if full == running.mountpoint or full.startswith(f"{running.mountpoint}/"):
            return words[0], _text(full)
    if is_here:
        raise _not_mounted(path, f" that shows {words[0]}; a PATH in it begins without dots")
    return words[0], _text(path)


def _not_mounted(path: str, advice: str) -> UserError:
    return UserError(f"{path} is not below a mount point of PiperFS{advice}", ExitCode.NOT_FOUND)


def _text(path: str) -> str:
    """A path as `conflicts` prints it: what is no UTF-8 as backslash escapes."""
    return os.fsencode(path).decode(errors="backslashreplace")


@click.command()
@click.argument("where", nargs=-1, metavar="[VOLUME] PATH")
@click.option(
    "--keep", type=click.Choice(("this", "other", "both")), required=True,
    help="this: the version at PATH; other: the one beside it; both: as two files.",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="All conflicts at PATH and below it.")
@click.option("--identical", is_flag=True, help="With --all: only where the bytes are the same.")
@as_json
def resolve(
    where: tuple[str, ...], keep: str, everything: bool, identical: bool, as_json: bool
) -> None:
    """End a conflict: say which version of PATH stays.

    PATH is the file, or one of its conflict copies. What is dropped stays in history.

    With VOLUME, PATH begins at the root of the volume; with ./ or ../ where you are in its mount.
    """
    if identical and not everything:
        raise UserError("--identical goes with --all", ExitCode.USAGE)
    volume, path = _place(where)
    words: Arguments = {"path": path, "keep": keep, "all": everything, "identical": identical}
    done = ask(volume, "resolve", words)
    if as_json:
        output.as_json(done)
    else:
        output.line(f"Settled {done['resolved']} of the versions of {path}")


@click.command()
@click.argument("where", nargs=-1, metavar="[VOLUME] PATH")
@as_json
def history(where: tuple[str, ...], as_json: bool) -> None:
    """List versions of a file, newest first; of a deleted one too.

    Versions that were superseded before this computer joined are known to older members only.

    With VOLUME, PATH begins at the root of the volume; with ./ or ../ where you are in its mount.
    """
    volume, path = _place(where)
    facts = ask(volume, "history", {"path": path})
    if as_json:
        output.as_json(facts)
        return
    rows = [
        (item["version"], item["when"], item["author"], output.bytes_text(item["size"]),
         item["state"], "" if item["here"] else "to be fetched")
        for item in facts
    ]  # fmt: skip
    output.table(("VERSION", "WHEN", "BY", "SIZE", "STATE", ""), rows)
    joined = [member["joined"] for member in ask(volume, "members") if member["here"]]
    if joined:
        output.note(f"This computer has kept versions since it joined, {joined[0]}.")


@click.command()
@click.argument("where", nargs=-1, metavar="[VOLUME] PATH@VERSION")
@click.option("--to", metavar="PATH", help="Make a new file of it instead, at this path.")
@as_json
def restore(where: tuple[str, ...], to: str | None, as_json: bool) -> None:
    """Make an earlier version of a file the current one; brings back a deleted file.

    The version that is current now stays in history. With VOLUME, both paths begin at the root of
    the volume; with ./ or ../ where you are in its mount.
    """
    if not where or "@" not in where[-1]:
        raise UserError("expected PATH@VERSION; history lists versions", ExitCode.USAGE)
    named, _, version = where[-1].rpartition("@")
    volume, path = _place((*where[:-1], named))
    words: Arguments = {"path": path, "version": version}
    if to is not None:
        other, words["to"] = _place((*where[:-1], to))
        if other != volume:
            raise UserError(f"{to} is in another volume; copy the file there", ExitCode.USAGE)
    done = ask(volume, "restore", words)
    if as_json:
        output.as_json(done)
    else:
        output.line(f"Restored {done['path']} from version {done['version']}")


class Moment(click.ParamType[float]):
    """A moment: ISO 8601, or a length of time ago such as 2h. Seconds since 1970."""

    name = "moment"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, float):
            return value
        now = dt.datetime.now(dt.UTC)
        if value[-1:] in Duration.units and value[:-1].isdigit():
            return now.timestamp() - Duration().convert(value, param, ctx)
        try:
            moment = dt.datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.astimezone()).timestamp()
        except (ValueError, OverflowError):  # also of years that no time zone reaches
            self.fail(f"'{value}': expected 2026-01-31T12:00, or 2h for two hours ago", param, ctx)


@click.command()
@volume_argument
@click.option("--author", required=True, help="The member, by name or by the start of its id.")
@click.option("--since", type=Moment(), required=True, help="2026-01-31T12:00, or 2h for ago.")
@as_json
def revert(volume: str, author: str, since: float, as_json: bool) -> None:
    """Undo what one member did since a moment, where nobody built on it.

    Contents, deletions, renames and attributes get the state they had before, by new changes.
    """
    done = ask(volume, "revert", {"author": author, "since_s": since})
    if as_json:
        output.as_json(done)
        return
    counts = done["undone"]
    output.line(
        f"Undid changes of {done['author']}: {counts['content']} contents, {counts['link']} names, "
        f"{counts['attributes']} attributes, {counts['xattr']} extended attributes"
    )
