"""What commands can ask of a daemon: one function a verb, all in one table.

The same table serves the daemon behind a mount and the short-lived one behind a command on a
volume that nobody has open, so a command means the same in both.
"""

import math
from functools import partial
from typing import Any, Final

import msgspec
import trio

from piperfs.control.messages import Request
from piperfs.control.server import Progress, Verb
from piperfs.core.errors import ExitCode, UserError
from piperfs.core.limits import INVITE_S_MAX, PAIRING_S_MAX
from piperfs.core.membership_records import Role, record_id
from piperfs.core.membership_rules import Member
from piperfs.core.ticket import Ticket, format_ticket, make_invite
from piperfs.daemon import pairing, repairing, report, upkeep, versions
from piperfs.daemon.node import ADDRESSES, Node
from piperfs.obs.metrics import Metrics
from piperfs.store.collector import DAY_NS, RETENTION, Reason

SECOND_NS: Final = 1_000_000_000
NAMES: Final = (
    "status", "peers", "members", "conflicts", "resolve", "history", "restore", "revert", "digest",
    "metrics", "invite", "pair", "remove-member", "set-role", "rotate-keys", "sync", "flush",
    "fsck", "collect",
)  # fmt: skip
ROLES: Final[tuple[Role, ...]] = ("admin", "writer", "reader", "store")


def text(request: Request, name: str, default: str = "") -> str:
    """An argument that is text. Raises UserError."""
    value = request.arguments.get(name, default)
    if not isinstance(value, str):
        raise UserError(f"'{name}' must be text", ExitCode.USAGE)
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise UserError(f"the {name} is not valid UTF-8; give another one", ExitCode.USAGE)
    return value


def number(request: Request, name: str, default: float) -> float:
    """An argument that is a number. Raises UserError."""
    value = request.arguments.get(name)
    if value is None:
        return default
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"'{name}' must be a number", ExitCode.USAGE)
    return value


def role(request: Request) -> Role:
    """An argument that names a role. Raises UserError."""
    given = text(request, "role", "writer")
    for known in ROLES:
        if known == given:
            return known
    raise UserError(f"'{given}' is no role; expected one of {', '.join(ROLES)}", ExitCode.USAGE)


class Verbs:
    """The verbs on one node."""

    def __init__(self, node: Node, metrics: Metrics) -> None:
        self._node = node
        self._metrics = metrics

    def table(self) -> dict[str, Verb]:
        """Verbs by name."""
        return {name: getattr(self, name.replace("-", "_")) for name in NAMES}

    async def status(self, _request: Request, _progress: Progress) -> Any:
        return msgspec.to_builtins(report.status(self._node))

    async def peers(self, _request: Request, _progress: Progress) -> Any:
        return msgspec.to_builtins(report.peers(self._node))

    async def members(self, _request: Request, _progress: Progress) -> Any:
        return msgspec.to_builtins(report.members(self._node))

    async def conflicts(self, _request: Request, _progress: Progress) -> Any:
        return msgspec.to_builtins(list(report.conflicts(self._node)))

    async def metrics(self, _request: Request, _progress: Progress) -> Any:
        return self._metrics.text()

    async def digest(self, _request: Request, _progress: Progress) -> Any:
        await self._commit()
        return self._node.store.digest().hex()

    async def _commit(self) -> None:
        if self._node.flush is not None:
            await self._node.flush()
        elif self._node.is_daemon:
            await self._node.committer.commit()
        else:
            self._node.store.commit(self._node.clock.now_ns())

    async def flush(self, _request: Request, _progress: Progress) -> Any:
        await self._commit()
        return None

    async def invite(self, request: Request, _progress: Progress) -> Any:
        node = self._node
        node.check_invite(role(request))
        seconds = number(request, "expires_s", 86400)
        if not 0 < seconds <= INVITE_S_MAX:
            raise UserError("a ticket is good for 1s to 3650d", ExitCode.USAGE)
        expires = node.clock.now_ns() + int(seconds * SECOND_NS)
        invite, secret = make_invite(node.clock.entropy, role(request), expires)
        raw = node.author(invite)
        await self._commit()
        addresses = node.replicator.reachable if node.replicator is not None else self._remembered()
        ticket = Ticket(node.store.volume, record_id(raw), secret, expires, tuple(addresses))
        return {
            "ticket": format_ticket(ticket),
            "expires": report.iso(expires),
            "addresses": list(ticket.addresses),
        }

    async def pair(self, request: Request, progress: Progress) -> Any:
        """Let in whoever types the code that is reported first."""
        seconds = number(request, "expires_s", PAIRING_S_MAX)
        return msgspec.to_builtins(await pairing.pair(self._node, role(request), seconds, progress))

    def _remembered(self) -> list[str]:
        raw = self._node.store.tables.meta.get(ADDRESSES)
        return [] if not raw else raw.decode().split()

    async def remove_member(self, request: Request, _progress: Progress) -> Any:
        member = self._node.find_member(text(request, "member"))
        self._node.remove_member(member)
        await self._commit()
        return self._outcome(member, None) | {"replica": member.replica.hex()}

    async def set_role(self, request: Request, _progress: Progress) -> Any:
        member = self._node.find_member(text(request, "member"))
        self._node.set_role(member, role(request))
        await self._commit()
        return self._outcome(member, role(request)) | {"role": role(request)}

    def _outcome(self, member: Member, role: Role | None) -> dict[str, str | None]:
        """Whether what was signed is so, or waits for other admins."""
        proposal = self._node.graph.state().proposal(member.replica, role)
        waits = None if proposal is None else self._node.describe(proposal)
        return {"name": member.label, "waits": waits}

    async def rotate_keys(self, _request: Request, _progress: Progress) -> Any:
        self._node.rotate()
        await self._commit()
        return {"epoch": self._node.keyring.epoch.hex()}

    async def resolve(self, request: Request, _progress: Progress) -> Any:
        """Keep one version of a file: `keep` is this, other or both."""
        path, keep = text(request, "path"), text(request, "keep", "this")
        await self._commit()
        if request.arguments.get("all"):
            identical = bool(request.arguments.get("identical"))
            count = 0
            for settled in versions.settle_below(self._node, path, keep, identical=identical):
                count += settled
                await trio.lowlevel.checkpoint()
        else:
            count = versions.settle(self._node, path, keep)
        await self._commit()
        return {"resolved": count}

    async def history(self, request: Request, _progress: Progress) -> Any:
        """Versions of a file, deleted ones included, newest first."""
        await self._commit()
        found = await versions.versions_at(self._node, text(request, "path"))
        return msgspec.to_builtins(versions.facts(self._node, found))

    async def restore(self, request: Request, progress: Progress) -> Any:
        """Make an earlier version current, or another file."""
        path, name, to = (text(request, word) for word in ("path", "version", "to"))
        await self._commit()
        await progress.report("fetching")
        version = await versions.restore(self._node, path, name, to)
        await self._commit()
        return {"version": version.name, "path": to or path}

    async def revert(self, request: Request, progress: Progress) -> Any:
        """Undo what one member did."""
        member = self._node.find_member(text(request, "author"))
        since = int(number(request, "since_s", 0) * SECOND_NS)
        await self._commit()
        await progress.report("looking through history")
        counts = await versions.revert(self._node, member.replica, since)
        await self._commit()
        return {"author": member.label, "undone": counts}

    async def sync(self, request: Request, progress: Progress) -> Any:
        node = self._node
        await self._commit()
        if request.arguments.get("copies") == 0:
            return {"holders": []}
        if node.replicator is None:
            raise UserError("no daemon runs for this volume; mount or serve it first")
        copies, timeout = int(number(request, "copies", 1)), number(request, "timeout_s", 1e9)
        with trio.move_on_after(timeout):
            holders = await node.replicator.wait_for_copies(copies, progress.report)
            return {"holders": [node.name_of(replica) for replica in holders]}
        held = node.replicator.holders()
        raise UserError(
            f"after {timeout:g} s {len(held)} of {copies} other computers hold everything",
            ExitCode.TIMED_OUT,
        )

    async def fsck(self, request: Request, progress: Progress) -> Any:
        node = self._node
        repair = bool(request.arguments.get("repair"))
        if repair and node.is_daemon:
            raise UserError(
                "unmount the volume first: a repair needs it for itself", ExitCode.REFUSED
            )
        if node.salvage is None:
            await self._commit()
        await progress.report("checking")
        work = repairing.repair if repair else repairing.check
        return msgspec.to_builtins(await node.clock.in_thread(partial(work, node)))

    async def collect(self, _request: Request, progress: Progress) -> Any:
        """Remove chunks that nothing needs any more; tells what went, and why the rest stays."""
        store = self._node.store
        await self._commit()
        await progress.report("looking for what nothing needs")
        collector = await upkeep.collect(self._node)
        if collector is None:
            raise UserError("a collection is under way already; ask again when it is done")
        await self._commit()
        return {
            "freed": {"chunks": collector.freed_chunks, "bytes": collector.freed_bytes},
            "damaged": len(collector.lost),
            "kept": {reason.value: collector.kept[reason] for reason in Reason},
            "kept_bytes": store.chunks.bytes_held(),
            "kept_days": RETENTION.ns // DAY_NS,
            "kept_versions": RETENTION.versions_min,
            "file_bytes": store.bytes_used(),
        }
