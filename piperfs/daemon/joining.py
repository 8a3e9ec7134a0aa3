"""Joining a volume with a ticket: a new device, let in by a member that answers."""

from pathlib import Path

from piperfs.control.server import Progress
from piperfs.core.errors import ExitCode, PeerError, UserError
from piperfs.core.identity import Identity, generate
from piperfs.core.membership import MembershipGraph, graph_of
from piperfs.core.ticket import Ticket, parse_ticket
from piperfs.daemon.clock import Clock
from piperfs.daemon.keyfile import Secrets, write_keys
from piperfs.daemon.node import Node, assemble, default_member_name
from piperfs.daemon.statedir import StateDirectory, VolumeFile
from piperfs.protocol.handshake import NONCE_BYTES
from piperfs.replication import greeting
from piperfs.replication.channel import Channel
from piperfs.replication.network import TlsNetwork, closing
from piperfs.store.rows import PeerRow


async def join(
    path: Path, text: str, label: str, clock: Clock, progress: Progress
) -> tuple[Node, str]:
    """Make a replica of the ticket's volume; returns it and the check words. Raises UserError."""
    ticket = parse_ticket(text, clock.now_ns())
    state = StateDirectory.create(path)
    try:
        identity = generate(clock.entropy)
        label = label or default_member_name()
        membership, address = await _ask_all(ticket, identity, label, clock, progress)
        graph = graph_of(ticket.volume, membership.records)
        state.is_blind = _is_store(graph, identity)
        secrets = Secrets(identity.secrets, clock.entropy(32))
        protection = write_keys(state.keys, secrets, clock.entropy)
        node = assemble(state, graph.label, secrets, protection, graph, clock)
        node.note_check_words(identity.replica, membership.words)
        _remember(node, (address, *ticket.addresses))
        node.store.commit(clock.now_ns())
        state.publish(VolumeFile(ticket.volume, graph.label, state.is_blind))
    except BaseException:
        state.discard()
        raise
    return node, membership.words


def _is_store(graph: MembershipGraph, identity: Identity) -> bool:
    member = graph.state().member(identity.replica)
    return member is not None and member.role == "store"


async def _ask_all(
    ticket: Ticket, identity: Identity, label: str, clock: Clock, progress: Progress
) -> tuple[greeting.Membership, str]:
    """Ask each address of the ticket until a member answers."""
    if not ticket.addresses:
        raise UserError("the ticket names no address: make it while the volume is mounted")
    network = TlsNetwork("", 0)
    reasons = []
    for address in ticket.addresses:
        await progress.report(f"asking {address}")
        try:
            async with closing(await network.dial(address)) as link:
                nonce = clock.entropy(NONCE_BYTES)
                answer = await greeting.join(Channel(link), ticket, identity, label, nonce)
                return answer, address
        except PeerError as error:
            reasons.append(f"{address}: {error}")
    raise UserError(
        f"no member answers ({'; '.join(reasons)[:300]}); is the volume mounted there?",
        ExitCode.NOT_FOUND,
    )


def _remember(node: Node, addresses: tuple[str, ...]) -> None:
    """Where to find the others when the volume is first mounted."""
    known = tuple(dict.fromkeys(addresses))[:8]
    for member in node.members():
        if member.replica != node.store.replica:
            node.store.put_peer(member.replica, PeerRow(addresses=known))
