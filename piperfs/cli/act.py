"""Commands that wait, mend or tidy up: sync, fsck, collect.

All may take long, so all show progress on a terminal, can be interrupted at any moment, and
say by their exit code whether what was asked for is now true.
"""

import sys

import click

from piperfs.cli import output
from piperfs.cli.reach import ask
from piperfs.cli.volume import Whole, as_json, volume_argument
from piperfs.core.errors import ExitCode


class Seconds(click.FloatRange):
    """A number of seconds, called so where a word is none."""

    name = "number of seconds"


@click.command()
@volume_argument
@click.option("--copies", metavar="K", type=Whole(0, 1000), default=1, show_default=True)
@click.option("--timeout", metavar="SECONDS", type=Seconds(0), help="Give up after so long.")
@as_json
def sync(volume: str, copies: int, timeout: float | None, as_json: bool) -> None:
    """Wait until other computers durably hold what this one has; with 0 copies, only this one."""
    held = ask(volume, "sync", {"copies": copies, "timeout_s": timeout})
    if as_json:
        output.as_json(held)
    else:
        output.line(f"Held by {', '.join(held['holders']) or 'this computer'}")


@click.command()
@volume_argument
@click.option("--repair", is_flag=True, help="Mend what can be mended, from peers first.")
@as_json
def fsck(volume: str, repair: bool, as_json: bool) -> None:
    """Check the store against its own hashes and rules.

    Without --repair nothing is changed. With it the volume must not be mounted.
    """
    findings = ask(volume, "fsck", {"repair": repair})
    if as_json:
        output.as_json(findings)
    for finding in [] if as_json else findings:
        mended = " (repaired)" if finding["repaired"] else ""
        output.line(f"{finding['kind']}: {finding['what']}{mended}")
    if not findings and not as_json:
        output.line("No findings.")
    if any(not finding["repaired"] for finding in findings):
        sys.exit(ExitCode.FAILED)


@click.command()
@volume_argument
@as_json
def collect(volume: str, as_json: bool) -> None:
    """Remove content that nothing needs any more; show what stays, and why."""
    report = ask(volume, "collect")
    if as_json:
        output.as_json(report)
        return
    freed, kept = report["freed"], report["kept"]
    output.line(f"Freed {output.bytes_text(freed['bytes'])} in {freed['chunks']} chunks")
    if report["damaged"]:
        output.line("Nothing goes: lists of content are damaged, and must come back from other")
        output.line("computers first. If nobody has them, delete the files that cannot be read.")
    output.line(f"Kept about {output.bytes_text(report['kept_bytes'])}:")
    days, versions = report["kept_days"], report["kept_versions"]
    why = {
        "current": "of files as they are, conflict copies included",
        "deleted": f"of files deleted less than {days} days ago",
        "superseded": f"of earlier versions: of the last {days} days, or the last {versions}",
        "open": "of deleted or changed files that a program has open",
    }
    rare = {
        "ahead": "of changes dated more than a day ahead",
        "held": "of changes that are held because of a fork: see piperfs members",
    }
    for name, text in {**why, **{name: rare[name] for name in rare if kept[name]}}.items():
        output.line(f"{kept[name]:>9} chunks {text}")
    output.line("What is written from now on uses the room; the file of the store does not shrink.")
