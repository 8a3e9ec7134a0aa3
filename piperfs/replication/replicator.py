"""Keeps connections to other members, and this replica in step with them.

Two members keep one connection: of two, the one dialled by the smaller id stays. Eight are looked
for and four times as many let in, so that no replica needs to know or meet all others. Members
tell each other where some of those they know are, which mixes the lists until the connections of
many members are a random graph that hardly falls apart; whoever is turned away for want of room
is told where to ask instead. Which addresses are dialled, and when: `dialling.py`.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio
from msgspec.structs import replace

from piperfs.core.errors import DisconnectedError, PeerError, PiperError
from piperfs.core.ids import ChunkId, ReplicaId
from piperfs.core.limits import SESSIONS_HELD_MAX
from piperfs.core.offences import Offence
from piperfs.obs.facts import PeerFacts
from piperfs.obs.log import get_logger
from piperfs.obs.metrics import Sample
from piperfs.protocol.handshake import Fault, HandshakeError, Side
from piperfs.protocol.messages import Peers
from piperfs.replication import overlay, releasing
from piperfs.replication.channel import Channel
from piperfs.replication.conduct import Visits, accuse, first_of
from piperfs.replication.dialling import Dialler
from piperfs.replication.discovery import Discovery
from piperfs.replication.fetching import Fetcher
from piperfs.replication.greeting import Greeted, greet
from piperfs.replication.network import Link, Network, TlsNetwork, closing
from piperfs.replication.overlay import Dial
from piperfs.replication.ports import Local
from piperfs.replication.refusals import Refusals
from piperfs.replication.session import Session
from piperfs.replication.spotcheck import SpotChecks
from piperfs.store.rows import PeerRow

SESSIONS_WANTED: Final = 8  # beyond these, nobody is dialled
TELL_EVERY_S: Final = 1
MIX_EVERY_S: Final = 10  # how often one peer hears of members beyond our own connections
MIX_ADDRESSES: Final = 8
GOODBYE_S: Final = 2
NO_ADDRESS: Final = "no address of it is known"
UNREFUSED: Final = frozenset((Fault.ITSELF, Fault.DECLINED))  # nobody tried what he may not

log = get_logger("replication")


@dataclass(frozen=True, slots=True)
class ReplicatorOptions:
    """How to reach others and be reached."""

    listen_host: str = ""
    listen_port: int = 0
    peers: tuple[str, ...] = ()
    discovery: bool = True
    fetch_all: bool = True
    sessions_wanted: int = SESSIONS_WANTED
    sessions_held: int = SESSIONS_HELD_MAX


class Replicator:
    """All connections of one replica."""

    def __init__(
        self, local: Local, options: ReplicatorOptions, network: Network | None = None
    ) -> None:
        self._local = local
        self._options = options
        self._network = network or TlsNetwork(options.listen_host, options.listen_port)
        self._sessions: dict[ReplicaId, Session] = {}
        self._dialler = Dialler(
            self._sessions, options.sessions_wanted, local.clock.entropy, self._dial_once,
            self._members_met,
        )  # fmt: skip
        self._progress = trio.Event()
        self.fetcher = Fetcher(local.store)
        self.fetcher.on_complete = self.content_arrived
        self.fetcher.on_arrival = self._chunk_arrived
        self.listening: list[str] = []
        self.refusals = Refusals()
        self._visits = Visits(local)
        self._checks = SpotChecks(local, self._note_progress)
        self._rolled_back: Counter[ReplicaId] = Counter()  # operations that peers lost
        self._bytes_closed: dict[str, Counter[str]] = {"sent": Counter(), "received": Counter()}

    # Running

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, dial and replicate until cancelled. Raises UserError if it cannot listen."""
        self._local.committer.on_durable(lambda _lseq: self._wake())
        self._local.on_members(self._members_changed)
        async with trio.open_nursery() as nursery:
            self._dialler.start(nursery)
            self.listening = list(await nursery.start(self._network.listen, self._accept))
            nursery.start_soon(partial(self.fetcher.run, fetch_all=self._options.fetch_all))
            nursery.start_soon(self._tell_of_peers)
            nursery.start_soon(releasing.run, self._local, self.content_arrived)
            nursery.start_soon(self._checks.run, self._claimants)
            for address in self._options.peers:
                self.add_address(address, is_given=True)
            for _, addresses in self._members_met():
                for address in addresses:
                    self.add_address(address)
            if self._options.discovery:
                nursery.start_soon(self._discovery().run)
            task_status.started()

    def _members_met(self) -> Iterator[tuple[ReplicaId, Sequence[str]]]:
        members = self._local.graph.state()
        for replica, row in self._local.store.peers().items():
            if members.may_connect(replica):
                yield replica, row.addresses

    @property
    def reachable(self) -> list[str]:
        """Addresses at which others may reach this replica."""
        return self._network.reachable()

    @property
    def discovers(self) -> bool:
        """Whether members look for each other on the local network."""
        return self._options.discovery

    def add_address(self, address: str, *, is_given: bool = False) -> None:
        """Dial an address from now on; a full list forgets one that was of no use."""
        if address not in self._network.reachable():
            self._dialler.add(address, is_given=is_given)

    @property
    def dials(self) -> dict[str, Dial]:
        """What is dialled, by address."""
        return self._dialler.dials

    def _discovery(self) -> Discovery:
        own = self._local.store
        return Discovery(
            own.volume,
            own.replica,
            self._local.clock.now_ns,
            self._network.reachable,
            self.add_address,
        )

    # Connections

    async def _dial_once(self, dial: Dial) -> str:
        """One connection from begin to end; returns why it ended."""
        dial.failures += 1
        try:
            link = await self._network.dial(dial.address)
            return await self._converse(link, Side.CLIENT, dial)
        except PeerError as error:
            return str(error)
        except Exception:  # whatever stands in an address must not end the daemon
            log.exception("peer.failed", address=dial.address)
            return "an internal error, which the log shows"

    async def _accept(self, link: Link) -> None:
        reason = await self._converse(link, Side.SERVER, None)
        log.debug("peer.left", address=link.address, reason=reason)

    async def _converse(self, link: Link, side: Side, dial: Dial | None) -> str:
        async with closing(link):
            channel = Channel(link)
            try:
                greeted = await greet(channel, side, self._local)
                link.known()
                if greeted is None:
                    return "it was let in"
                if dial is not None:
                    dial.replica, dial.failures = greeted.replica, 0
                await self._hold(channel, greeted, dial)
            except* HandshakeError as group:
                reason = self._note_refusal(link, group)
            except* PiperError as group:
                reason = str(first_of(group))
            except* Exception:  # whatever a peer sends must not end the daemon
                log.exception("peer.failed", address=link.address)
                reason = "an internal error, which the log shows"
            else:
                reason = "it ended"
        return reason

    def _note_refusal(self, link: Link, group: BaseExceptionGroup[HandshakeError]) -> str:
        reason = str(first_of(group))
        for error in group.exceptions:
            if isinstance(error, HandshakeError) and error.fault not in UNREFUSED:
                self.refusals.note(link.address, error)
                if error.proved is not None:
                    accuse(self._local, error.proved, Offence.REMOVED)
        return reason

    async def _hold(self, channel: Channel, greeted: Greeted, dial: Dial | None) -> None:
        """Talk to a member until the connection ends. Raises PeerError with the reason."""
        replica = greeted.replica
        self._visits.note(replica)
        rival = self._sessions.get(replica)
        if rival is None and len(self._sessions) >= self._options.sessions_held:
            await self._send_elsewhere(channel, replica)
        opposite = rival is not None and rival.side is not greeted.side
        if rival is not None and opposite and self._is_better(rival.side, replica):
            raise DisconnectedError("there is a connection already")
        session = Session(
            channel,
            greeted,
            self._local,
            self.fetcher,
            self._visits.patience(replica),
            on_progress=self._note_progress,
            addresses=lambda: self.reachable,
        )
        session.on_chunks = partial(self._checks.note_answer, replica)
        session.on_want = partial(self._checks.note_want, replica)
        self._sessions[replica] = session
        if dial is not None:
            self._dialler.is_held(dial)
        self._note_contact(session)
        log.info("peer.met", peer=replica.hex()[:12], address=channel.address)
        try:
            async with trio.open_nursery() as nursery:
                if rival is not None:
                    rival.close()
                nursery.start_soon(session.run)
                await session.closed.wait()
                raise DisconnectedError("there is a better connection")
        finally:
            if self._sessions.get(replica) is session:
                del self._sessions[replica]
                self._dialler.is_gone(replica)
            self._rolled_back[replica] += session.standing.rolled_back
            self._bytes_closed["sent"] += channel.sent
            self._bytes_closed["received"] += channel.received
            self._note_contact(session)
            self._learn_peers(session)
            self._note_progress()

    async def _send_elsewhere(self, channel: Channel, replica: ReplicaId) -> None:
        """There is no room: say where others are. Raises PeerError."""
        channel.send(self._some_known(replica))
        with trio.move_on_after(GOODBYE_S):
            await channel.flush()
        raise DisconnectedError("there are connections enough")

    def _is_better(self, side: Side, replica: ReplicaId) -> bool:
        """Whether a connection on whose `side` we are is the one that both ends keep."""
        we_are_smaller = self._local.store.replica < replica
        return (side is Side.CLIENT) == we_are_smaller

    def _note_contact(self, session: Session) -> None:
        store = self._local.store
        row = store.peer(session.replica)
        dialled = (session.channel.address,) if session.side is Side.CLIENT else ()
        addresses = tuple(dict.fromkeys((*dialled, *session.addresses, *row.addresses)))[:8]
        now = self._local.clock.now_ns()
        store.put_peer(session.replica, replace(row, addresses=addresses, last_contact_ns=now))
        store.on_dirty()

    # Events

    def _wake(self) -> None:
        self.fetcher.wake()  # the disk took what came, so there may be room for more
        for session in self._sessions.values():
            session.wake()

    def _chunk_arrived(self, chunk: ChunkId) -> None:
        for session in self._sessions.values():
            session.chunk_arrived(chunk)

    def content_arrived(self) -> None:
        """Nothing is wanted any more."""
        for session in self._sessions.values():
            session.content_arrived()

    def _members_changed(self) -> None:
        state = self._local.graph.state()
        for session in self._sessions.values():
            session.gossip.tell()
            if not state.may_connect(session.replica):
                session.close()

    def _note_progress(self) -> None:
        self._progress.set()
        self._progress = trio.Event()

    async def _tell_of_peers(self) -> None:
        """Now and then tell each peer where the others are, and learn from what they tell."""
        mixed_at = trio.current_time()
        while True:
            await trio.sleep(TELL_EVERY_S)
            known = tuple((s.replica, s.addresses) for s in self._sessions.values())
            for session in list(self._sessions.values()):
                if session.told_peers != known:
                    session.told_peers = known
                    session.send_peers(tuple(k for k in known if k[0] != session.replica))
                self._learn_peers(session)
            if trio.current_time() - mixed_at >= MIX_EVERY_S and self._sessions:
                mixed_at = trio.current_time()
                entropy = self._local.clock.entropy
                session = overlay.draw(list(self._sessions.values()), 1, entropy)[0]
                session.channel.send(self._some_known(session.replica))

    def _learn_peers(self, session: Session) -> None:
        peers, session.peers = session.peers, ()
        for replica, addresses in peers:
            self._hear_of(replica, addresses[:4])

    def _some_known(self, asking: ReplicaId) -> Peers:
        sessions = {replica: each.addresses for replica, each in self._sessions.items()}
        known = overlay.known(self.dials.values(), sessions, asking)
        return Peers(tuple(overlay.draw(known, MIX_ADDRESSES, self._local.clock.entropy)))

    def _hear_of(self, replica: ReplicaId, addresses: Iterable[str]) -> None:
        """A peer says where another member was met."""
        is_member = self._local.graph.state().may_connect(replica)
        if not is_member or replica in self._sessions or replica == self._local.store.replica:
            return
        for address in addresses:
            if address not in self.dials:
                self.add_address(address)

    # Reading

    async def fetch(self, chunks: Iterable[ChunkId], deadline: float) -> None:
        """Return when all chunks are here. Raises FsError."""
        await self.fetcher.fetch(chunks, deadline)

    def prefetch(self, chunks: Iterable[ChunkId]) -> None:
        self.fetcher.prefetch(chunks)

    # Facts

    @property
    def is_connected(self) -> bool:
        """Whether there is any member to talk to."""
        return bool(self._sessions)

    def _claimants(self, target: int | None = None) -> list[Session]:
        """Connected members that say they durably hold everything this replica has, or had."""
        target = self._local.store.log.durable_lseq if target is None else target
        return [s for s in self._sessions.values() if s.standing.complete >= target]

    def holders(self, target: int | None = None) -> list[ReplicaId]:
        """Those of them that could show what they were asked for."""
        claimants = [session.replica for session in self._claimants(target)]
        return [replica for replica in claimants if not self._checks.is_doubted(replica)]

    async def wait_for_copies(
        self, copies: int, report: Callable[[str, int, int], Awaitable[None]]
    ) -> list[ReplicaId]:
        """Return when that many members hold everything."""
        target = self._local.store.log.durable_lseq
        while True:
            progress = self._progress
            held = self.holders(target)
            if len(held) >= copies:
                return held
            await report(f"held by {len(held)} of {copies}", len(held), copies)
            with trio.move_on_after(5):
                await progress.wait()

    def status(self) -> list[PeerFacts]:
        """All members but this one."""
        found = []
        rows = self._local.store.peers()
        for member in self._local.graph.state().members.values():
            if member.replica == self._local.store.replica or member.removed:
                continue
            session = self._sessions.get(member.replica)
            row = rows.get(member.replica)
            if session is not None:
                found.append(self._connected(session))
                continue
            met = row.last_contact_ns if row else 0
            found.append(
                PeerFacts(
                    replica=member.replica.hex(),
                    name=member.label,
                    state="waiting" if met else "never met",
                    address=row.addresses[0] if row and row.addresses else None,
                    last_contact_s=(self._local.clock.now_ns() - met) / 1e9 if met else None,
                    waits_for=self._why_not(member.replica, row),
                )
            )
        return found

    def _why_not(self, replica: ReplicaId, row: PeerRow | None) -> str:
        dials = list(self.dials.values())
        reasons = [dial.reason for dial in dials if dial.replica == replica]
        reasons = reasons or [dial.reason for dial in dials]
        if reasons:
            return reasons[0]
        is_known = row is not None and row.addresses
        return "it dials this computer when it is back" if is_known else NO_ADDRESS

    def _connected(self, session: Session) -> PeerFacts:
        standing = session.standing
        behind = max(0, self._local.store.log.durable_lseq - standing.acked)
        ahead = max(0, standing.durable - standing.cursor)
        return PeerFacts(
            replica=session.replica.hex(),
            name=self._local.name_of(session.replica),
            state="connected",
            address=session.channel.address,
            direction="out" if session.side is Side.CLIENT else "in",
            rtt_ms=None if standing.rtt_s is None else round(standing.rtt_s * 1000, 2),
            last_contact_s=0,
            behind=behind,
            ahead=ahead,
            waits_for=self._what_for(session, behind, ahead),
        )

    def _what_for(self, session: Session, behind: int, ahead: int) -> str | None:
        standing = session.standing
        if session.replica in self._local.store.forks.limits:
            return "it signed two operations under one number; new ones are held: see members"
        if standing.refused:
            return f"{standing.refused} of its operations are refused: {standing.last_reason}"
        lost = self._rolled_back[session.replica] + standing.rolled_back
        if lost:
            return f"it lacked {lost} operations that it had: it was restored, or hides them"
        if ahead:
            return "its operations are on their way"
        if behind:
            return "it has not confirmed all operations"
        if self._checks.is_doubted(session.replica):
            return f"it {Offence.UNSHOWN.text}"
        if standing.keeps_all and standing.complete < self._local.store.log.durable_lseq:
            return "it is still fetching content"
        return None

    def samples(self) -> Iterator[Sample]:
        """Replication in numbers."""
        sessions = list(self._sessions.values())
        yield Sample("peers_connected", "Connected members.", len(sessions))
        yield from self.refusals.samples()
        away = getattr(self._network, "turned_away", 0)
        yield Sample("strangers_turned_away", "Refused at the door.", away, counts_up=True)
        for direction, closed in self._bytes_closed.items():
            open_ = (getattr(session.channel, direction) for session in sessions)
            for reason, count in sum(open_, closed).items():
                labels = (("direction", direction), ("reason", reason))
                yield Sample("bytes", "Bytes by reason.", count, labels, counts_up=True)
        for session in sessions:
            label = (("peer", session.replica.hex()[:12]),)
            offset = session.standing.clock_offset_s
            yield Sample("clock_offset_seconds", "A member's clock before ours.", offset, label)
        now = self._local.clock.now_ns()
        for member in self._local.graph.state().members.values():
            seen = self._local.store.highest_seq_of(member.replica)
            if seen:
                label = (("author", member.replica.hex()[:12]),)
                lag = max(0.0, now / 1e9 - seen / 1e3)
                yield Sample("lag_seconds", "Age of an author's newest operation.", lag, label)
