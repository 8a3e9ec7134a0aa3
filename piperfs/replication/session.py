"""What two members say to each other once they know who they are.

Each end pushes its durable operations in its own order and remembers how far it got, so that a
reconnect continues where the last one ended. Where there is nothing to continue, or the two
disagree although both think to be done, ranges of ids are compared, and that is what correctness
rests on; the push is only fast.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

import trio
from msgspec.structs import replace

from piperfs.core.errors import PeerError, StoreError
from piperfs.core.ids import ChunkId, OperationId, ReplicaId, StoreId
from piperfs.core.limits import SEQ_HEARSAY_AHEAD_MAX
from piperfs.core.operation import Envelope, decode_envelope
from piperfs.obs.log import get_logger
from piperfs.protocol import messages as m
from piperfs.protocol import reconcile
from piperfs.replication.budget import Budget
from piperfs.replication.channel import Channel
from piperfs.replication.conduct import Conduct
from piperfs.replication.fetching import Fetcher
from piperfs.replication.gossip import Gossip
from piperfs.replication.greeting import Greeted
from piperfs.replication.ports import Local
from piperfs.replication.pushing import Pushing
from piperfs.replication.serving import Serving
from piperfs.replication.standing import Standing
from piperfs.replication.verifying import verify_batch, verify_newest
from piperfs.store.remote import shown_by

DISK_RETRY_S: Final = 1
APPLY_AT_ONCE: Final = 64
PING_S: Final = 5
REPAIR_PAUSE_S: Final = 3
REPAIR_PAUSE_MAX_S: Final = 600  # where comparing does not help, such as with refused operations
BATCHES_WAITING_MAX: Final = 4

Batch: TypeAlias = m.Operations | m.Authors

log = get_logger("replication")


class Session:
    """One connected peer."""

    def __init__(
        self,
        channel: Channel,
        greeted: Greeted,
        local: Local,
        fetcher: Fetcher,
        patience: Budget,
        *,
        on_progress: Callable[[], None],
        addresses: Callable[[], Sequence[str]],
    ) -> None:
        self.channel = channel
        self.replica, self.side = greeted.replica, greeted.side
        self.standing = Standing()
        self.addresses: tuple[str, ...] = ()
        self.peers: tuple[tuple[ReplicaId, tuple[str, ...]], ...] = ()  # heard of, not acted on
        self.told_peers: tuple[tuple[ReplicaId, tuple[str, ...]], ...] = ()
        self.closed = trio.Event()
        self._first = greeted.rest
        self._local = local
        self._store = local.store
        self._fetcher = fetcher
        self._on_progress = on_progress
        self.on_chunks: Callable[[m.Chunks], None] = lambda _answer: None  # checked by then
        self.on_want: Callable[[m.Want], None] = lambda _want: None
        self._own_addresses = addresses
        self._store_id = StoreId(b"")
        self._applied = trio.Event()
        self.gossip = Gossip(channel, self.replica, local)
        self._serving = Serving(channel, local.store.chunks)
        self._started = False
        self._is_partial = False  # the comparison that runs leaves something for another one
        self._skipped = False  # the disk was full: something it sent was dropped
        self._repaired_at = float("-inf")
        self._repair_pause_s: float = REPAIR_PAUSE_S
        self._pinged: dict[int, float] = {}
        self.pushing = Pushing(channel, local.store, self.standing)
        self._conduct = Conduct(local, greeted.replica, patience)
        send, self._batches_out = trio.open_memory_channel[Batch](BATCHES_WAITING_MAX)
        self._handlers: dict[type, Callable[[Any], Awaitable[None] | None]] = {
            m.Operations: send.send,
            m.Authors: send.send,
            m.Chunks: self._take_chunks,
            m.Have: lambda x: fetcher.hope_again(self, x.chunks),
            m.Want: self._note_want,
            m.Ack: self._note_ack,
            m.State: self._note_state,
            m.MemberIds: self.gossip.answer,
            m.Members: self.gossip.add,
            m.Fork: self.gossip.note_fork,
            m.Reconcile: self._reconcile,
            m.WantOperations: lambda x: self._owe(x.ids),
            m.Peers: self._note_peers,
            m.Ping: lambda x: channel.send(m.Pong(x.token)),
            m.Pong: self._note_pong,
        }

    async def run(self) -> None:
        """Talk until the connection ends. Raises PeerError with the reason."""
        self._fetcher.connect(self)
        try:
            with self._conduct.blaming():
                await self._run()
        finally:
            self._fetcher.disconnect(self)

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.channel.run_writer)
            nursery.start_soon(self._apply_batches)
            nursery.start_soon(self._acknowledge)
            nursery.start_soon(self.pushing.run)
            nursery.start_soon(self._serving.run)
            nursery.start_soon(self._ping)
            self.gossip.tell()
            self.send_state()
            for message in self._first:
                await self._handle(message)
            await self.channel.run_reader(self._handle)

    # What others ask of a session

    def want(self, chunks: tuple[ChunkId, ...], *, urgent: bool) -> None:
        self.channel.send(m.Want(chunks, urgent))

    def close(self) -> None:
        """End the connection."""
        self.closed.set()

    def wake(self) -> None:
        """Something became durable here."""
        self.pushing.wake()
        if self._skipped:
            self.close()  # the next connection goes on where this one stopped

    def send_state(self) -> None:
        store = self._store
        row = store.durable_peer(self.replica)
        self.channel.send(
            m.State(
                store=store.store_id,
                durable_lseq=store.log.durable_lseq,
                cursor_store=row.store or StoreId(b""),
                cursor_lseq=row.cursor,
                seen_seq=max(
                    store.highest_seq_of(self.replica), store.ahead.highest_seq(self.replica)
                ),
                digest=store.digest(),
                operations=store.log.durable_sum[0],
                wall_ns=self._local.clock.now_ns(),
                addresses=tuple(self._own_addresses()),
                keeps_all=self._fetcher.keeps_all,
            )
        )

    def send_peers(self, peers: tuple[tuple[ReplicaId, tuple[str, ...]], ...]) -> None:
        self.channel.send(m.Peers(peers[: m.PEERS_MAX]))

    # Messages

    async def _handle(self, message: m.Message) -> None:
        handler = self._handlers.get(type(message))
        if handler is None:
            raise PeerError(f"it sends {type(message).__name__} out of turn")
        waiting = handler(message)
        if waiting is not None:
            await waiting

    def _note_ack(self, ack: m.Ack) -> None:
        if not self._conduct.is_true(max(ack.lseq, ack.complete_lseq)):
            return
        self.standing.acked = max(self.standing.acked, ack.lseq)
        self.standing.complete = ack.complete_lseq
        self._on_progress()

    def _take_chunks(self, answer: m.Chunks) -> None:
        self._fetcher.receive(self, answer.chunks, answer.absent)
        self.on_chunks(answer)

    def _note_want(self, want: m.Want) -> None:
        self.on_want(want)
        self._serving.note(want)

    def _note_peers(self, message: m.Peers) -> None:
        self.peers = message.peers
        self._on_progress()

    def _note_pong(self, message: m.Pong) -> None:
        begun = self._pinged.pop(message.token, None)
        if begun is not None:
            self.standing.rtt_s = trio.current_time() - begun

    def _note_state(self, state: m.State) -> None:
        standing = self.standing
        self.addresses = state.addresses
        standing.durable, standing.digest = state.durable_lseq, state.digest
        standing.keeps_all = state.keeps_all
        standing.clock_offset_s = (state.wall_ns - self._local.clock.now_ns()) / 1e9
        self._note_rollback(state)
        self._conduct.note_owed(max(0, state.durable_lseq - standing.cursor))
        self._note_own_seq(state.seen_seq)
        if not self._started:
            self._begin(state)
        self._maybe_repair(state)
        self._on_progress()

    def _note_rollback(self, state: m.State) -> None:
        """A store that counts less than it did was restored from an old copy, or hides something.

        What it lacks is sent again; its owner should know.
        """
        row = self._store.peer(self.replica)
        if row.store == state.store and state.durable_lseq < row.cursor:
            self.standing.rolled_back += row.cursor - state.durable_lseq
            self._store.put_peer(self.replica, replace(row, cursor=state.durable_lseq))
            log.warning(
                "peer.rolled_back",
                peer=self._local.name_of(self.replica),
                had=row.cursor,
                has=state.durable_lseq,
            )

    def _note_own_seq(self, seen: int) -> None:
        """Never use a number again that a peer has seen: this may be a restored old copy.

        A peer that names a number of the far future may lie. Half as far as what others accuse us
        for leaves their clocks many years of room. Greater numbers that we did use, of a clock that
        was wrong by more, are believed as soon as an operation of ours comes that shows them.
        """
        latest = self._local.clock.now_ns() // 1_000_000 + SEQ_HEARSAY_AHEAD_MAX
        if self._store.last_seq < seen <= latest:
            log.warning("replica.restored", peer=self.replica.hex()[:12], seen=seen)
            self._store.raise_last_seq(seen)

    def _begin(self, state: m.State) -> None:
        """The first word on where the other end stands decides how to go on."""
        self._store_id = state.store
        row = self._store.peer(self.replica)
        went_back = row.cursor > state.durable_lseq  # its store is an old copy of what it was
        if row.store != state.store or went_back:
            row = replace(row, store=state.store, cursor=0)
        self._store.put_peer(self.replica, replace(row, is_whole=row.is_whole or not row.cursor))
        self.standing.cursor = row.cursor
        durable = self._store.log.durable_lseq
        continues = state.cursor_store == self._store.store_id and state.cursor_lseq <= durable
        if continues or not state.operations:
            sent = state.cursor_lseq if continues else 0
            self.standing.acked = sent
            self.pushing.begin(sent, told=sent)
            self.pushing.follow()
        else:
            self.pushing.begin(durable, told=0)
            self.begin_reconciliation()
        self._started = True
        self._applied.set()

    def _maybe_repair(self, state: m.State) -> None:
        """Both ends think to be done and still differ: compare everything."""
        standing, now = self.standing, trio.current_time()
        durable = self._store.log.durable_lseq
        idle = standing.sent == durable and standing.acked >= durable
        caught_up = standing.cursor >= state.durable_lseq
        if state.digest == self._store.digest():
            self._note_whole(is_whole=True)
            standing.refused = 0
            self._repair_pause_s = REPAIR_PAUSE_S
        elif idle and caught_up and now - self._repaired_at > self._repair_pause_s:
            self._repair_pause_s = min(REPAIR_PAUSE_MAX_S, 2 * self._repair_pause_s)
            self.gossip.tell()
            self.begin_reconciliation()

    # Receiving operations

    async def _apply_batches(self) -> None:
        async for batch in self._batches_out:
            if self._skipped or self._local.committer.failure is not None:
                self._skipped = True  # nothing more is kept in memory until the disk takes it
            elif isinstance(batch, m.Authors):
                self._note_newest(batch.newest)
            else:
                await self._apply_batch(batch)

    def _note_newest(self, raws: Sequence[bytes]) -> None:
        """The peer shows how far authors have counted. Raises PeerError."""
        highest, volume = self._store.authors.highest, self._store.volume
        shown = verify_newest(raws, volume, self._local.graph.keys_of, highest)
        self._store.note_newest(shown, self._local.clock.now_ns())
        for each in shown:
            self.pushing.batches.note_shown(each.replica, each.seq)

    async def _apply_batch(self, batch: m.Operations) -> None:
        fresh: list[tuple[bytes, Envelope]] = []
        repeated = missed = 0
        for raw in batch.envelopes:
            envelope = decode_envelope(raw)
            repeated += envelope.id in self.pushing.known
            self._note_known(envelope.id)
            store = self._store
            waits = store.waiting.has(envelope.id) or envelope.id in store.ahead
            missed += waits
            if not (waits or store.log.has(envelope.id)):
                fresh.append((raw, envelope))
        verified = await verify_batch(fresh, self._local)
        pause = 0.0
        self._conduct.note_batch(repeated, len(self.pushing.known))
        self._conduct.note_operations(verified.operations)
        if verified.refusals:
            self.standing.refused += len(verified.refusals)
            missed += len(verified.refusals)
            self.standing.last_reason = verified.refusals[-1].reason
            pause = self._conduct.note_refused(verified.refusals)
        self._store.note_newest(map(shown_by, verified.void), self._local.clock.now_ns())
        self._note_newest(verified.sealed)
        for start in range(0, len(verified.operations), APPLY_AT_ONCE):
            part = verified.operations[start : start + APPLY_AT_ONCE]
            applied = self._store.apply_remote(part, self._local.clock.now_ns(), self.replica)
            missed += applied.unattested + applied.crowded + applied.held + applied.damaged
            for fork in applied.forks:
                self._local.note_fork(fork)
            self._conduct.note_unproved(applied.unattested)
            for operation in part:
                self.pushing.batches.note_shown(operation.replica, operation.seq)
            await self._local.committer.make_way()
        self._fetcher.receive(self, batch.chunks, ())
        if missed:
            self._note_whole(is_whole=False)
        if batch.upto:
            self._move_cursor(batch.upto)
        self._applied.set()
        self._fetcher.wake()
        await trio.sleep(pause)

    def _note_known(self, operation: OperationId) -> None:
        self.pushing.note_known(operation)
        self._conduct.note_arrival(operation)

    def _note_whole(self, *, is_whole: bool) -> None:
        """Remember, beyond this connection, whether all that the peer sent was taken in."""
        row = self._store.peer(self.replica)
        if row.is_whole is not is_whole:
            self._store.put_peer(self.replica, replace(row, is_whole=is_whole))
            self._applied.set()  # what was acknowledged may be complete now

    def _move_cursor(self, lseq: int) -> None:
        row = self._store.peer(self.replica)
        now = self._local.clock.now_ns()
        cursor = max(row.cursor, lseq)
        self._store.put_peer(
            self.replica,
            replace(row, store=self._store_id, cursor=cursor, last_contact_ns=now,
                    addresses=self.addresses),
        )  # fmt: skip
        self.standing.cursor = cursor
        if not self._store.is_durable:
            self._store.on_dirty()  # else the row can wait: without it, known things come again

    async def _acknowledge(self) -> None:
        """Say what is durable here, after it is."""
        complete = 0
        said = (-1, -1)
        while True:
            await self._applied.wait()
            self._applied = trio.Event()
            cursor = self.standing.cursor
            is_whole = self._is_whole()
            try:
                if not self._store.is_durable:
                    await self._local.committer.settled()
            except StoreError:
                await trio.sleep(DISK_RETRY_S)
                self._applied.set()
                continue
            if is_whole:
                complete = cursor
            if (cursor, complete) != said:
                said = (cursor, complete)
                self.channel.send(m.Ack(cursor, complete))

    def _is_whole(self) -> bool:
        """Whether this replica counts as a copy of what the peer sent so far."""
        return (
            self._fetcher.keeps_all
            and not self._store.chunks.want_count
            and self._store.peer(self.replica).is_whole
            and not self._store.ahead.came_from(self.replica)
        )

    def content_arrived(self) -> None:
        """Nothing is wanted any more: what was acknowledged may be complete now."""
        self._applied.set()

    def chunk_arrived(self, chunk: ChunkId) -> None:
        self._serving.chunk_arrived(chunk)

    # Comparing

    def _owe(self, operations: Sequence[OperationId]) -> None:
        """Send operations that a comparison found missing there, when there is room."""
        self._is_partial |= not self.pushing.owe(operations)

    def begin_reconciliation(self) -> None:
        self._repaired_at = trio.current_time()
        ranges = reconcile.begin(self._store.log.fingerprint)
        self.channel.send(m.Reconcile(ranges), urgent=False)

    async def _reconcile(self, message: m.Reconcile) -> None:
        self._repaired_at = trio.current_time()
        log, found = self._store.log, reconcile.Difference()
        for _ in reconcile.steps(message.ranges, log.fingerprint, log.ids, found):
            await trio.lowlevel.checkpoint()
        wanted = [each for each in found.wanted if each not in self._store.ahead]
        for start in range(0, len(wanted), m.ITEMS_MAX):
            part = tuple(wanted[start : start + m.ITEMS_MAX])
            self._conduct.note_asked(part)
            self.channel.send(m.WantOperations(part), urgent=False)
        self._owe(found.offered)
        if message.ranges:
            self.channel.send(m.Reconcile(tuple(found.ranges)), urgent=False)
        self._is_partial |= found.is_partial
        if not found.ranges and not self._is_partial and self._started:
            self.pushing.follow()  # behind what is owed

    async def _ping(self) -> None:
        token = 0
        while True:
            token += 1
            self._pinged = {token: trio.current_time()}
            self._store.on_dirty()  # there may be rows that waited for another reason to commit
            self.channel.send(m.Ping(token))
            self.send_state()
            if self._is_partial and not self.pushing.owed:
                self._is_partial = False
                self.begin_reconciliation()
            await trio.sleep(PING_S)
