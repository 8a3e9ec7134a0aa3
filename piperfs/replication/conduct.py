"""How a peer behaves: what no correct program does is counted, remembered and named.

Only what cannot happen to an honest member, however late its news are, is held against it. Nothing
is decided by it: whether an operation counts is the same on all replicas, and an offence is not.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import trio

from piperfs.core.errors import DisconnectedError, PeerError
from piperfs.core.ids import OperationId, ReplicaId
from piperfs.core.limits import REFUSED_BURST_MAX, REFUSED_PER_S_MAX, SEQ_AHEAD_MAX
from piperfs.core.offences import Offence
from piperfs.core.operation import Operation
from piperfs.obs.log import get_logger
from piperfs.replication.budget import Budget
from piperfs.replication.ports import Local
from piperfs.replication.verifying import Refusal

EARLIEST_NS: Final = 946_684_800 * 10**9  # the year 2000, before which nobody ran this
REPEATS_MIN: Final = 100
REPEATS_FACTOR: Final = 10
ASKED_MAX: Final = 4096
ASKED_IN_VAIN: Final = 3
SILENCE_S_MAX: Final = 300  # the largest frame over the slowest line that is of use takes less
MINUTE_S: Final = 60
VISITS_PER_MINUTE_MAX: Final = 60  # of two that redial whenever a line breaks far fewer

log = get_logger("replication")


def accuse(local: Local, replica: ReplicaId, offence: Offence, detail: str = "") -> None:
    """Remember what a member did, and log the first of each kind."""
    store = local.store
    if store.offences.note(replica, offence, detail, local.clock.now_ns()):
        store.on_dirty()
        log.warning(
            "peer.misbehaves", peer=local.name_of(replica), what=offence.text, detail=detail
        )


def first_of(group: BaseExceptionGroup[Any]) -> BaseException:
    """One of the errors that ended something."""
    inner: BaseException = group
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner


class Visits:
    """How often members connect, and how much of what they send may be refused."""

    def __init__(self, local: Local) -> None:
        self._local = local
        self._begun = float("-inf")
        self._count: Counter[ReplicaId] = Counter()
        self._patience: dict[ReplicaId, Budget] = {}

    def note(self, replica: ReplicaId) -> None:
        """A member connected."""
        now = trio.current_time()
        if now - self._begun > MINUTE_S:
            self._begun = now
            self._count.clear()
        self._count[replica] += 1
        if self._count[replica] > VISITS_PER_MINUTE_MAX:
            accuse(self._local, replica, Offence.CONNECTS)

    def patience(self, replica: ReplicaId) -> Budget:
        """What verifying in vain may cost for a member, over all its connections."""
        most, now = REFUSED_BURST_MAX, trio.current_time()
        return self._patience.setdefault(replica, Budget(REFUSED_PER_S_MAX, most, most, now))


class Conduct:
    """Watches one connection."""

    def __init__(self, local: Local, replica: ReplicaId, patience: Budget) -> None:
        self._local = local
        self._replica = replica
        self._repeated = 0
        self._asked: Counter[OperationId] = Counter()
        self._heard = trio.current_time()  # operations last came, or nothing was owed
        self._patience = patience

    def accuse(self, offence: Offence, detail: str = "") -> None:
        accuse(self._local, self._replica, offence, detail)

    @contextmanager
    def blaming(self) -> Iterator[None]:
        """Remember who ends a connection by breaking a rule."""
        try:
            yield
        except* DisconnectedError:
            raise
        except* PeerError as group:
            self.accuse(Offence.PROTOCOL, str(first_of(group)))
            raise

    def note_batch(self, repeated: int, distinct: int) -> None:
        """Operations came, so many of which had come before on this connection."""
        self._heard = trio.current_time()
        self._repeated += repeated
        if repeated and self._repeated > max(REPEATS_MIN, REPEATS_FACTOR * distinct):
            self.accuse(Offence.REPEATS)

    def note_arrival(self, operation: OperationId) -> None:
        self._asked.pop(operation, None)

    def note_asked(self, operations: Sequence[OperationId]) -> None:
        """The peer said that it has these, and is asked for them."""
        for operation in operations:
            if operation in self._asked or len(self._asked) < ASKED_MAX:
                self._asked[operation] += 1
        if any(self._asked[operation] > ASKED_IN_VAIN for operation in operations):
            self.accuse(Offence.WITHHOLDS)

    def note_owed(self, count: int) -> None:
        """How many operations it has, by its own words, that did not come yet."""
        now = trio.current_time()
        if not count:
            self._heard = now
        elif now - self._heard > SILENCE_S_MAX:
            self._heard = now
            self.accuse(Offence.WITHHOLDS)

    def note_refused(self, refusals: Sequence[Refusal]) -> float:
        """Operations did not pass. Returns for how many seconds no more should be looked at."""
        for each in refusals:
            is_own = each.author == self._replica
            if each.offence is not None and (each.offence is not Offence.RIGHT or is_own):
                self.accuse(each.offence, each.reason)
        return self._patience.spend(len(refusals), trio.current_time())

    def note_operations(self, operations: Iterable[Operation]) -> None:
        """These passed; their numbers and times are their authors' affair.

        Times far ahead say nothing of an author: clocks take them over from what they have seen.
        """
        now = self._local.clock.now_ns()
        for operation in operations:
            if operation.seq > now // 1_000_000 + SEQ_AHEAD_MAX:
                accuse(self._local, operation.replica, Offence.NUMBER)
            if min(write.hlc for write in operation.writes) < EARLIEST_NS:
                accuse(self._local, operation.replica, Offence.TIME)

    def note_unproved(self, count: int) -> None:
        if count:
            self.accuse(Offence.CLAIM)

    def is_true(self, acknowledged: int) -> bool:
        """Whether the peer may have what it confirms."""
        if acknowledged <= self._local.store.log.durable_lseq:
            return True
        self.accuse(Offence.RECEIPT)
        return False
