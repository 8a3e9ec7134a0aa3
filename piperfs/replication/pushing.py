"""Giving one peer the operations of this store, in the order in which they became durable.

What the peer itself has sent is not sent back; it is only told that it has everything up to there.
What comparisons found missing goes first, so that a position is never told too early; nor is one
beyond an operation that is damaged here, and so cannot be given.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import trio

from piperfs.core.errors import StoreError
from piperfs.core.ids import OperationId
from piperfs.core.operation import Envelope, decode_envelope
from piperfs.replication.batches import OPERATIONS_BYTES, Batches
from piperfs.replication.channel import Channel
from piperfs.replication.standing import Standing
from piperfs.store.oplog import OperationLog
from piperfs.store.store import Store

KNOWN_MAX: Final = 50_000  # ids that the peer sent us, so that they are not sent back
OWED_MAX: Final = 1 << 17  # beyond this another comparison finds the rest


class Pushing:
    """What one peer was sent, and what it is to be sent yet."""

    def __init__(self, channel: Channel, store: Store, standing: Standing) -> None:
        self.known: OrderedDict[OperationId, None] = OrderedDict()
        self.owed: deque[OperationId] = deque()  # what comparisons found missing there
        self.batches = Batches(store)
        self._channel = channel
        self._log: OperationLog = store.log
        self._standing = standing
        self._started = trio.Event()
        self._news = trio.Event()
        self._follows = False  # the peer's cursor follows what is sent
        self._told = 0  # of our lseq: the peer was told that it has everything up to here

    def begin(self, sent: int, told: int) -> None:
        """Begin behind a position of our log; the peer knows that it has all up to `told`."""
        self._standing.sent, self._told = sent, told
        self._started.set()

    def follow(self) -> None:
        """From now on the peer has all that was sent, and may be told so."""
        self._follows = True
        self.wake()

    def wake(self) -> None:
        """There may be something to send."""
        self._news.set()

    def note_known(self, operation: OperationId) -> None:
        """The peer sent an operation."""
        self.known[operation] = None
        while len(self.known) > KNOWN_MAX:
            self.known.popitem(last=False)

    def owe(self, operations: Sequence[OperationId]) -> bool:
        """Send operations that a comparison found missing there; whether all found room."""
        room = OWED_MAX - len(self.owed)
        self.owed.extend(operations[:room])
        self.batches.show_again()
        self.wake()
        return len(operations) <= room

    async def run(self) -> None:
        """Send for ever, once it is known where to begin."""
        await self._started.wait()
        while True:
            self._news = trio.Event()
            if self._send_some():
                await self._channel.wait_for_room()
                await trio.lowlevel.checkpoint()
            else:
                await self._news.wait()

    def _send_some(self) -> bool:
        """Send the next batch, if there is one."""
        if self.owed:
            self._send(self._take_owed(), 0)
            return True
        rows = self._log.after_with_ids(self._standing.sent, OPERATIONS_BYTES)
        if rows:
            self._standing.sent = rows[-1][0]
        position = int(min(self._standing.sent, self._log.whole_until))
        if not rows and (not self._follows or self._told >= position):
            return False
        fresh = [envelope for _, each, envelope in rows if each not in self.known]
        if self._follows:
            self._told = position
        self._send(fresh, self._told)
        return True

    def _take_owed(self) -> list[Envelope]:
        batch: list[Envelope] = []
        size = 0
        while self.owed and size < OPERATIONS_BYTES:
            raw, owed = None, self.owed.popleft()
            with suppress(StoreError):  # damaged here; others may have it
                raw = self._log.envelope(owed)
            if raw is not None:
                batch.append(decode_envelope(raw))
                size += len(raw)
        return batch

    def _send(self, envelopes: Sequence[Envelope], upto: int) -> None:
        for message in self.batches.compose(envelopes, upto):
            self._channel.send(message, urgent=False)
