"""Joining a volume: a new device, let in by a member that answers.

It needs a ticket, which a person carried here, or which a member hands over to whoever knows a
pairing code. Nothing is left behind of a join that fails.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from msgspec.structs import replace
from zeroconf import InterfaceChoice

from piperfs.control.server import Progress
from piperfs.core.errors import ExitCode, PeerError, UserError
from piperfs.core.identity import Identity, generate
from piperfs.core.membership import MembershipGraph, graph_of
from piperfs.core.pairing_code import PairingCode, parse_code
from piperfs.core.ticket import Ticket, parse_ticket
from piperfs.daemon.clock import Clock
from piperfs.daemon.keyfile import Secrets, write_keys
from piperfs.daemon.node import Node, assemble, default_member_name
from piperfs.daemon.statedir import StateDirectory, VolumeFile
from piperfs.protocol.handshake import NONCE_BYTES
from piperfs.replication import beacon, greeting, pairing
from piperfs.replication.channel import Channel
from piperfs.replication.network import TlsNetwork, closing, split_address
from piperfs.store.rows import PeerRow

REASONS_CHARS_MAX: Final = 300

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Guest:
    """A device that wants to become a member, and where its state will be."""

    path: Path
    label: str
    clock: Clock
    progress: Progress


async def join(guest: Guest, text: str) -> tuple[Node, str]:
    """Make a replica of the ticket's volume; returns it and the check words. Raises UserError."""
    ticket = parse_ticket(text, guest.clock.now_ns())
    with _new_state(guest) as state:
        return await _join(guest, state, ticket)


async def pair(guest: Guest, text: str, peer: str) -> tuple[Node, str]:
    """The same by a pairing code, from the peer at this address or whoever announces it."""
    code = parse_code(text)
    if peer:
        _check_address(peer)
    with _new_state(guest) as state:
        return await _join(guest, state, await _exchange(guest, code, peer))


def _check_address(text: str) -> None:
    try:
        split_address(text)
    except ValueError as error:
        raise UserError(f"'{text}': expected HOST:PORT", ExitCode.USAGE) from error


@contextmanager
def _new_state(guest: Guest) -> Iterator[StateDirectory]:
    """A state directory that is left behind only if all goes well; made before a code is spent."""
    state = StateDirectory.create(guest.path)
    try:
        yield state
    except BaseException:
        state.discard()
        raise


async def _join(guest: Guest, state: StateDirectory, ticket: Ticket) -> tuple[Node, str]:
    clock = guest.clock
    identity = generate(clock.entropy)
    membership, address = await _ask_all(ticket, identity, guest)
    graph = graph_of(ticket.volume, membership.records)
    state.is_blind = _is_store(graph, identity)
    secrets = Secrets(identity.secrets, clock.entropy(32))
    protection = write_keys(state.keys, secrets, clock.entropy)
    node = assemble(state, graph.label, secrets, protection, graph, clock)
    node.note_check_words(identity.replica, membership.words)
    _remember(node, (address, *ticket.addresses))
    node.store.commit(clock.now_ns())
    state.publish(VolumeFile(ticket.volume, graph.label, state.is_blind))
    return node, membership.words


async def _exchange(guest: Guest, code: PairingCode, peer: str) -> Ticket:
    """The ticket that the code stands for. Raises UserError."""
    if not peer:
        await guest.progress.report("looking for the other computer on this network")
    addresses = [peer] if peer else await beacon.find(code.nameplate, InterfaceChoice.All)
    if not addresses:
        raise UserError(
            f"no computer on this network shows a pairing '{code.nameplate}'; is piperfs invite "
            "--pair still waiting there? If so, name its address with --peer",
            ExitCode.NOT_FOUND,
        )
    clock = guest.clock
    try:
        text, address = await _ask_each(
            guest, addresses,
            lambda channel: pairing.ask(channel, code, clock.entropy, clock.in_thread),
        )  # fmt: skip
    except PeerError as error:
        raise UserError(
            f"the other computer does not answer ({error}); is piperfs invite --pair still waiting "
            "there?",
            ExitCode.NOT_FOUND,
        ) from error
    ticket = parse_ticket(text, 0)  # the other end judges the time, by the clock it wrote it by
    return replace(ticket, addresses=tuple(dict.fromkeys((address, *ticket.addresses))))


async def _ask_each(
    guest: Guest, addresses: Iterable[str], ask: Callable[[Channel], Awaitable[T]]
) -> tuple[T, str]:
    """The first answer, and whose; raises PeerError with all reasons if there is none."""
    network = TlsNetwork("", 0)
    reasons = []
    for address in addresses:
        await guest.progress.report(f"asking {address}")
        try:
            async with closing(await network.dial(address)) as link:
                return await ask(Channel(link)), address
        except PeerError as error:
            reasons.append(f"{address}: {error}")
    raise PeerError("; ".join(reasons)[:REASONS_CHARS_MAX])


def _is_store(graph: MembershipGraph, identity: Identity) -> bool:
    member = graph.state().member(identity.replica)
    return member is not None and member.role == "store"


async def _ask_all(
    ticket: Ticket, identity: Identity, guest: Guest
) -> tuple[greeting.Membership, str]:
    """Ask each address of the ticket until a member answers."""
    if not ticket.addresses:
        raise UserError("the ticket names no address: make it while the volume is mounted")
    label = guest.label or default_member_name()

    async def ask(channel: Channel) -> greeting.Membership:
        nonce = guest.clock.entropy(NONCE_BYTES)
        return await greeting.join(channel, ticket, identity, label, nonce)

    try:
        return await _ask_each(guest, ticket.addresses, ask)
    except PeerError as error:
        raise UserError(
            f"no member answers ({error}); is the volume mounted there?", ExitCode.NOT_FOUND
        ) from error


def _remember(node: Node, addresses: tuple[str, ...]) -> None:
    """Where to find the others when the volume is first mounted."""
    known = tuple(dict.fromkeys(addresses))[:8]
    for member in node.members():
        if member.replica != node.store.replica:
            node.store.put_peer(member.replica, PeerRow(addresses=known))
