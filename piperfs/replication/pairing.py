"""Pairing on a local network: a short code brings a ticket to the computer that it is typed into.

One window is open at a time, for some minutes. Every run that a stranger begins is a try, and one
that does not end with the right proof is a wrong one, whatever it ended with; after three the code
is void. So all that strangers can make this computer do, from however many addresses, is three
runs for each time that a person opens the window.
"""

import enum
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from piperfs.core.clock import Runner
from piperfs.core.errors import ExitCode, PeerError, UserError
from piperfs.core.limits import PAIRING_JOIN_S, PAIRING_TRIES_MAX, PREAUTH_TIMEOUT_S
from piperfs.core.pairing_code import PairingCode
from piperfs.core.ticket import Ticket, format_ticket
from piperfs.obs.log import get_logger
from piperfs.obs.metrics import Sample
from piperfs.protocol.handshake import Fault, HandshakeError, Side
from piperfs.protocol.messages import VERSION, Pair, PairProof, PairShare, PairTicket
from piperfs.protocol.pairing import Exchange, SharedKey
from piperfs.replication.channel import Channel
from piperfs.replication.inbox import Inbox

Grant = Callable[[], Awaitable[Ticket]]
Entropy = Callable[[int], bytes]
NO_WINDOW: Final = "no pairing is open here under this code; ask for a new one"

log = get_logger("members")


class End(enum.Enum):
    """How a window was closed."""

    JOINED = enum.auto()
    EXPIRED = enum.auto()
    BURNED = enum.auto()  # by wrong tries
    LOST = enum.auto()  # the code was right, and then nobody joined


@dataclass(frozen=True, slots=True)
class Joined:
    """Who came in."""

    name: str
    words: str


@dataclass(eq=False)
class Window:
    """A code that lets one computer in while it is open; `deadline` is a time of trio's."""

    code: PairingCode
    deadline: float
    grant: Grant
    wrong: int = 0
    end: End | None = None
    joined: Joined | None = None
    _running: int = 0
    _is_taken: bool = False  # somebody proved to know the code
    _invite: bytes | None = None  # of the ticket that was handed over
    _changed: trio.Event = field(default_factory=trio.Event)

    def why_closed(self, nameplate: str) -> str | None:
        """Why nobody can try this code now; None if somebody can."""
        if self.end is not None or nameplate != self.code.nameplate:
            return NO_WINDOW
        if trio.current_time() >= self.deadline:
            return "the code has expired; ask for a new one"
        if self._is_taken:
            return "the code was used by another computer; ask for a new one"
        if self.wrong + self._running >= PAIRING_TRIES_MAX:
            return "others are trying this code; try again in a moment"
        return None

    def begin_try(self) -> None:
        self._running += 1

    def end_try(self, address: str, *, is_right: bool) -> None:
        """A run is over; one that did not end with the right proof was wrong."""
        self._running -= 1
        if is_right:
            return
        self.wrong += 1
        log.warning("pairing.wrong_code", address=address, tries=self.wrong)
        if self.wrong >= PAIRING_TRIES_MAX and not self._is_taken:
            log.warning("pairing.burned", tries=self.wrong)
            self.close(End.BURNED)
        self._note_change()

    def take(self) -> bool:
        """Whether the ticket is for somebody whose proof was right: the first, and no other."""
        is_first = self.end is None and not self._is_taken
        self._is_taken = True
        return is_first

    def hand_over(self, ticket: Ticket) -> None:
        """The ticket is made; who holds it has a minute to join."""
        self._invite = ticket.invite
        self.deadline = trio.current_time() + PAIRING_JOIN_S
        self._note_change()

    def note_join(self, invite: bytes, joined: Joined) -> None:
        if invite == self._invite and self.end is None:
            self.joined = joined
            self.close(End.JOINED)

    def close(self, end: End) -> None:
        self.end = end
        self._note_change()

    async def wait(self, report: Callable[[int], Awaitable[None]]) -> End:
        """Return when the window is closed; reports the number of wrong tries when it grows."""
        told = 0
        while self.end is None:
            changed = self._changed
            with trio.move_on_at(self.deadline) as timer:
                await changed.wait()
            if self.wrong != told:
                told = self.wrong
                await report(told)
            if timer.cancelled_caught and trio.current_time() >= self.deadline:
                self.close(End.LOST if self._is_taken else End.EXPIRED)
        return self.end

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Pairing:
    """The window of one replica, if one is open."""

    def __init__(self) -> None:
        self.window: Window | None = None
        self.wrong_before = 0  # tries in windows that are closed

    def open(self, window: Window) -> None:
        """Raises UserError if one is open already."""
        if self.window is not None:
            raise UserError(
                "a pairing is open already: use its code, or end that command first",
                ExitCode.REFUSED,
            )
        self.window = window
        log.info("pairing.opened")

    def shut(self, window: Window) -> None:
        """The command that opened it has ended, in whatever way."""
        if window.end is None:
            window.close(End.EXPIRED)
        self.wrong_before += window.wrong
        self.window = None
        log.info("pairing.closed", end=window.end.name.lower() if window.end else None)

    def note_join(self, invite: bytes, name: str, words: str) -> None:
        """A ticket was spent here, maybe that of the window."""
        if self.window is not None:
            self.window.note_join(invite, Joined(name, words))

    def samples(self) -> Iterator[Sample]:
        wrong = self.wrong_before + (self.window.wrong if self.window is not None else 0)
        yield Sample("pairing_wrong_codes", "Wrong codes tried.", wrong, counts_up=True)


async def answer(
    channel: Channel, inbox: Inbox, asked: Pair, pairing: Pairing, entropy: Entropy, run: Runner
) -> None:
    """The server's side: one try, and the ticket if it is right. Raises HandshakeError."""
    window = pairing.window
    reason = NO_WINDOW if window is None else window.why_closed(asked.nameplate)
    if asked.version != VERSION:
        reason = f"this computer speaks protocol {VERSION}, you {asked.version}; update one of us"
    if reason is not None or window is None:
        raise HandshakeError(Fault.PAIRING, reason or NO_WINDOW)
    window.begin_try()
    is_right = False
    try:
        key = await _exchange(channel, asked, window.code, entropy, run)
        proof = await inbox.next(PairProof)
        is_right = key.is_proved_by(Side.CLIENT, proof.proof)
    finally:
        window.end_try(channel.address, is_right=is_right)
    if not is_right:
        left = max(0, PAIRING_TRIES_MAX - window.wrong)
        hope = f"tries left: {left}" if left else "it is void now; ask for a new one"
        raise HandshakeError(Fault.PAIRING, f"the code is wrong ({hope})")
    if not window.take():
        raise HandshakeError(Fault.PAIRING, "the code was used by another computer, or is void")
    ticket = await window.grant()
    window.hand_over(ticket)
    channel.send(PairTicket(key.proof(Side.SERVER), key.seal(format_ticket(ticket))))
    await channel.flush()


async def _exchange(
    channel: Channel, asked: Pair, code: PairingCode, entropy: Entropy, run: Runner
) -> SharedKey:
    exchange = await run(partial(Exchange, Side.SERVER, code, channel.binding, entropy))
    key = await run(partial(exchange.finish, asked.share))
    channel.send(PairShare(exchange.share))
    await channel.flush()
    return key


async def ask(channel: Channel, code: PairingCode, entropy: Entropy, run: Runner) -> str:
    """The client's side; returns the ticket.

    Whatever goes wrong once it has begun ends it, since whoever answers falsely, and maybe at
    many addresses, would get one more guess each time.

    Raises:
        UserError: no ticket came of it; why, for a person.
    """
    exchange = await run(partial(Exchange, Side.CLIENT, code, channel.binding, entropy))
    try:
        with trio.fail_after(2 * PREAUTH_TIMEOUT_S):
            key, given = await _ask(channel, code, exchange, run)
        if key.is_proved_by(Side.SERVER, given.proof):
            return key.open(given.sealed)
    except HandshakeError as error:
        raise UserError(f"{channel.address} says: {error}", ExitCode.REFUSED) from error
    except (PeerError, trio.TooSlowError) as error:
        raise UserError(
            f"{channel.address} broke off the pairing; ask for a new code", ExitCode.FAILED
        ) from error
    raise UserError(
        f"what answers at {channel.address} does not know the code: somebody may stand between; "
        "ask for a new code",
        ExitCode.REFUSED,
    )


async def _ask(
    channel: Channel, code: PairingCode, exchange: Exchange, run: Runner
) -> tuple[SharedKey, PairTicket]:
    inbox = Inbox(channel)
    channel.send(Pair(VERSION, code.nameplate, exchange.share))
    await channel.flush()
    theirs = await inbox.next(PairShare)
    key = await run(partial(exchange.finish, theirs.share))
    channel.send(PairProof(key.proof(Side.CLIENT)))
    await channel.flush()
    return key, await inbox.next(PairTicket)
