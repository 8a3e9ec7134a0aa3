"""The window of a pairing, from the command that opens it to its end.

The window lives as long as the command: who interrupts it closes the window, and nobody can
forget an open one. The invite is signed only when the code was right, so that codes that are
never used leave nothing behind in the volume's records.
"""

from functools import partial

import trio
from zeroconf import InterfaceChoice

from piperfs.control.server import Progress
from piperfs.core.errors import ExitCode, UserError
from piperfs.core.limits import PAIRING_JOIN_S, PAIRING_S_MAX, PAIRING_TRIES_MAX
from piperfs.core.membership_records import Role, record_id
from piperfs.core.pairing_code import make_code
from piperfs.core.ticket import Ticket, make_invite
from piperfs.daemon.node import Node
from piperfs.replication import beacon
from piperfs.replication.pairing import End, Joined, Window

SECOND_NS = 1_000_000_000
BURNED = (
    f"{PAIRING_TRIES_MAX} wrong codes were tried, so the code is void: mistyped, or somebody on "
    "the network is guessing; run the command again"
)
CLOSED = {
    End.EXPIRED: ("nobody used the code in time; run the command again", ExitCode.TIMED_OUT),
    End.BURNED: (BURNED, ExitCode.REFUSED),
    End.LOST: ("the code was right, but the other computer did not join", ExitCode.TIMED_OUT),
}


async def pair(node: Node, role: Role, seconds: float, progress: Progress) -> Joined:
    """Open a window, report its code first, and wait for whom it lets in. Raises UserError."""
    node.check_invite(role)
    if node.replicator is None:
        raise UserError("nobody could reach this computer: mount or serve the volume first")
    if not 0 < seconds <= PAIRING_S_MAX:
        raise UserError(
            f"a pairing code is good for up to {PAIRING_S_MAX // 60} minutes", ExitCode.USAGE
        )
    code = make_code(node.clock.entropy)
    window = Window(code, trio.current_time() + seconds, partial(_grant, node, role))
    node.pairing.open(window)
    try:
        async with trio.open_nursery() as nursery:
            if node.replicator.discovers:
                name, addresses = node.clock.entropy(8), node.replicator.reachable
                everywhere = InterfaceChoice.All
                nursery.start_soon(beacon.announce, code.nameplate, name, addresses, everywhere)
            await progress.report(str(code), 0, PAIRING_TRIES_MAX)
            end = await window.wait(lambda n: progress.report(str(code), n, PAIRING_TRIES_MAX))
            nursery.cancel_scope.cancel()
    finally:
        node.pairing.shut(window)
    if window.joined is None:
        raise UserError(*CLOSED[end])
    return window.joined


async def _grant(node: Node, role: Role) -> Ticket:
    """The ticket for whoever proved to know the code."""
    expires = node.clock.now_ns() + PAIRING_JOIN_S * SECOND_NS
    invite, secret = make_invite(node.clock.entropy, role, expires)
    raw = node.author(invite)
    await node.commit()
    assert node.replicator is not None
    addresses = tuple(node.replicator.reachable)
    return Ticket(node.store.volume, record_id(raw), secret, expires, addresses)
