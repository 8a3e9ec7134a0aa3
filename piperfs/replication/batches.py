"""What is sent of a log: operations with their small chunks, and proof of what they claim.

The other end takes an operation in only if each author it claims to know was seen to have counted
that far. So the newest operation of such an author goes in front, once for each connection, unless
the other end has shown that it knows as much.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from piperfs.core.errors import StoreError
from piperfs.core.ids import ChunkId, ReplicaId
from piperfs.core.limits import KIB, MESSAGE_ITEMS_MAX
from piperfs.core.operation import Envelope, header_of
from piperfs.protocol import messages as m
from piperfs.store.store import Store

OPERATIONS_BYTES: Final = 384 * KIB  # of one message
INLINE_CHUNK_BYTES_MAX: Final = 64 * KIB
INLINE_BYTES_MAX: Final = 448 * KIB


class Batches:
    """Composes messages for one peer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._shown: dict[ReplicaId, int] = {}  # how far the peer knows authors to have counted

    def note_shown(self, replica: ReplicaId, seq: int) -> None:
        """The peer sent, or was sent, an operation."""
        self._shown[replica] = max(seq, self._shown.get(replica, 0))

    def show_again(self) -> None:
        """The two differ although all was sent: it may not have been taken in."""
        self._shown.clear()

    def compose(self, envelopes: Sequence[Envelope], upto: int) -> Iterator[m.Message]:
        """Messages in the order in which they are to be sent."""
        proofs: list[Envelope] = []
        for envelope in envelopes:
            header = header_of(envelope)
            for replica, seq in header.claims.items():
                if seq > self._shown.get(replica, 0):
                    proofs += self._proof_of(replica)
            self.note_shown(header.replica, header.seq)
        yield from _proofs(proofs)
        raws = tuple(envelope.encode() for envelope in envelopes)
        yield m.Operations(raws, upto, tuple(self._inlined(envelopes)))

    def _proof_of(self, replica: ReplicaId) -> Iterator[Envelope]:
        newest = None
        with suppress(StoreError):  # damaged here; others may have it
            newest = self._store.authors.newest(replica)
        if newest is not None:
            self.note_shown(replica, header_of(newest).seq)
            yield newest

    def _inlined(self, envelopes: Sequence[Envelope]) -> Iterator[tuple[ChunkId, bytes]]:
        room = INLINE_BYTES_MAX
        for envelope in envelopes:
            for chunk in header_of(envelope).refs:
                sealed = self._store.chunks.get(chunk) if room > 0 else None
                if sealed is not None and len(sealed) <= min(room, INLINE_CHUNK_BYTES_MAX):
                    yield chunk, sealed
                    room -= len(sealed)


def _proofs(envelopes: Sequence[Envelope]) -> Iterator[m.Authors]:
    batch: list[bytes] = []
    size = 0
    for raw in (envelope.encode() for envelope in envelopes):
        if batch and (size + len(raw) > OPERATIONS_BYTES or len(batch) == MESSAGE_ITEMS_MAX):
            yield m.Authors(tuple(batch))
            batch, size = [], 0
        batch.append(raw)
        size += len(raw)
    if batch:
        yield m.Authors(tuple(batch))
