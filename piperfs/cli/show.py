"""Commands that read: status, peers, members, conflicts, digest, metrics.

Each prints for a person by default and JSON on request; the JSON is what the daemon said,
unchanged, so scripts see a new field the day the daemon has it.
"""

from typing import Any

import click

from piperfs.cli import output
from piperfs.cli.reach import ask
from piperfs.cli.volume import as_json, volume_argument


@click.command()
@volume_argument
@as_json
def status(volume: str, as_json: bool) -> None:
    """Show heads, peers, lag, conflicts, store and health."""
    facts = ask(volume, "status")
    if as_json:
        output.as_json(facts)
        return
    _print_status(facts)
    if facts["peers"]:
        output.line("")
        _print_peers(facts["peers"])


def _print_status(facts: dict[str, Any]) -> None:
    store = facts["store"]
    running = f"process {facts['pid']}" if facts["pid"] else "not running"
    where = facts["mountpoint"] or "not mounted"
    output.line(f"volume     {facts['label']} ({facts['volume'][:16]}), {where}, {running}")
    output.line(f"member     {facts['name']} ({facts['replica'][:12]}), {facts['role']}")
    if facts["succeeds"] is not None:
        before = facts["succeeds"][:12]
        output.line(f"           goes on under this id: it was copied or restored from {before}")
    output.line(f"in sync    {_in_sync(facts)}")
    for item in facts["waiting"]:
        on = f" ({item['on']})" if item.get("on") else ""
        output.line(f"  waiting  {item['what']}: {item['reason']}{on}")
    output.line(f"conflicts  {facts['conflicts'] or 'none'}")
    used, free = output.bytes_text(store["bytes_used"]), output.bytes_text(store["bytes_free"])
    output.line(
        f"store      {used} used, {free} free, {store['operations']} operations, "
        f"{store['not_yet_durable']} not yet durable, {store['chunks_wanted']} chunks wanted"
    )
    output.line(f"key        {_protection(facts['key_protection'])}")
    for each in facts["offences"]:
        detail = f" ({each['detail']})" if each["detail"] else ""
        times = "once" if each["count"] == 1 else f"{each['count']} times"
        ago = output.ago(each["last_s"])
        output.line(f"offence    {each['name']} {each['what']}: {times}, last {ago}{detail}")
    for check, reason in facts["health"].items():
        output.line(f"warning    {check}: {reason}")


def _in_sync(facts: dict[str, Any]) -> str:
    words = {True: "yes", False: "no", None: "unknown: no other member is connected"}
    return words[facts["in_sync"]]


def _protection(kind: str) -> str:
    words = {
        "none": "NOT PROTECTED, but by file permissions; `piperfs protect` sets a passphrase",
        "keyring": "protected by a passphrase, and unlocked in the kernel until `piperfs lock`",
    }
    return words.get(kind, f"protected by {kind}")


@click.command()
@volume_argument
@as_json
def peers(volume: str, as_json: bool) -> None:
    """List the other members as seen from here."""
    facts = ask(volume, "peers")
    if as_json:
        output.as_json(facts)
    else:
        _print_peers(facts)


def _print_peers(facts: list[dict[str, Any]]) -> None:
    if not facts:
        output.line("No other members yet; invite prints a ticket for one.")
        return
    heads = ("PEER", "STATE", "ADDRESS", "RTT", "CONTACT", "BEHIND", "AHEAD", "WAITS FOR")
    rows = [
        (
            peer["name"],
            peer["state"],
            peer["address"],
            None if peer["rtt_ms"] is None else f"{peer['rtt_ms']:.1f} ms",
            output.ago(peer["last_contact_s"]),
            peer["behind"],
            peer["ahead"],
            peer["waits_for"],
        )
        for peer in facts
    ]
    output.table(heads, rows)


@click.command()
@volume_argument
@as_json
def members(volume: str, as_json: bool) -> None:
    """List the computers that were let in."""
    facts = ask(volume, "members")
    if as_json:
        output.as_json(facts)
        return
    rows = [
        (
            member["name"],
            "removed" if member["removed"] else member["role"],
            member["replica"][:12],
            member["joined"],
            member["check_words"],
            _remark(member),
        )
        for member in facts
    ]
    output.table(("MEMBER", "ROLE", "ID", "JOINED", "CHECK WORDS", ""), rows)
    for proposal in (each for member in facts for each in member["proposals"]):
        output.line(f"Proposed to {proposal}")


def _remark(member: dict[str, Any]) -> str:
    remarks = ["this computer"] if member["here"] else []
    if member["succeeds"] is not None:
        remarks.append(f"copied or restored from {member['succeeds'][:12]}")
    if member["forked_at"] is not None:
        remarks.append(f"signed twice under {member['forked_at']}; {member['held']} held")
    return ", ".join(remarks)


@click.command()
@volume_argument
@as_json
def conflicts(volume: str, as_json: bool) -> None:
    """List versions of files that stand side by side.

    They do until somebody chooses: edit, rename or delete them like any other file.
    """
    facts = ask(volume, "conflicts")
    if as_json:
        output.as_json(facts)
    elif facts:
        rows = [(item["path"], item["copy"], item["author"], item["when"]) for item in facts]
        output.table(("PATH", "OTHER VERSION", "BY", "WHEN"), rows)
    else:
        output.line("No conflicts.")


@click.command()
@volume_argument
@as_json
def digest(volume: str, as_json: bool) -> None:
    """Print a hash of the merged state: equal means converged."""
    facts = ask(volume, "digest")
    if as_json:
        output.as_json({"digest": facts})
    else:
        output.line(facts)


@click.command()
@volume_argument
def metrics(volume: str) -> None:
    """Print metrics in the text format of Prometheus."""
    output.lines(ask(volume, "metrics"))
