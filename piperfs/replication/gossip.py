"""What all members of a volume come to know: membership records, and proofs of forks.

There is little of either, so a session begins by naming all records and telling all proofs, and
tells what is new since whenever something is.
"""

from typing import Final

from piperfs.core.errors import DisconnectedError
from piperfs.core.forks import Fork
from piperfs.core.ids import ReplicaId
from piperfs.core.limits import KIB
from piperfs.protocol import messages as m
from piperfs.replication.channel import Channel
from piperfs.replication.ports import Local

MEMBERS_BYTES: Final = 512 * KIB


class Gossip:
    """One session's share of it."""

    def __init__(self, channel: Channel, replica: ReplicaId, local: Local) -> None:
        self._channel = channel
        self._replica = replica
        self._local = local
        self._told: set[Fork] = set()

    def tell(self) -> None:
        """Name all records, and tell the proofs that the peer was not told yet."""
        known = tuple(self._local.graph.records())
        self._channel.send(m.MemberIds(known[: m.MEMBER_IDS_MAX]))
        for fork in self._local.store.forks.proofs():
            if fork not in self._told:
                self._told.add(fork)
                self._channel.send(m.Fork(fork.one, fork.other))

    def answer(self, message: m.MemberIds) -> None:
        """Send what the peer lacks, and say what we have if we lack something."""
        theirs = set(message.ids)
        mine = self._local.graph.records()
        batch: list[bytes] = []
        for raw in (raw for record, raw in mine.items() if record not in theirs):
            batch.append(raw)
            if sum(map(len, batch)) > MEMBERS_BYTES:
                self._channel.send(m.Members(tuple(batch)))
                batch = []
        if batch:
            self._channel.send(m.Members(tuple(batch)))
        if theirs.difference(mine):
            self.tell()

    def add(self, message: m.Members) -> None:
        """Take in records. Raises PeerError if one is wrong, or the peer no member any more."""
        self._local.add_records(message.records)
        if not self._local.graph.state().may_connect(self._replica):
            raise DisconnectedError("it was removed from the volume")

    def note_fork(self, message: m.Fork) -> None:
        """Take in a proof. Raises PeerError if it proves nothing."""
        fork = Fork(message.one, message.other)
        self._told.add(fork)
        self._local.note_fork(fork)
