"""Greetings that failed: counted by reason, and logged without letting strangers fill the disk."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

import trio

from piperfs.obs.log import get_logger
from piperfs.obs.metrics import Sample
from piperfs.protocol.handshake import Fault, HandshakeError

LINES_PER_MINUTE: Final = 30
MINUTE_S: Final = 60

log = get_logger("replication")


class Refusals:
    """What became of those who should not connect."""

    def __init__(self) -> None:
        self.count: Counter[Fault] = Counter()
        self._begun = float("-inf")
        self._lines = 0
        self._unlogged = 0

    @property
    def total(self) -> int:
        return self.count.total()

    def note(self, address: str, error: HandshakeError) -> None:
        """Count a refusal and log it, unless there were many within this minute."""
        self.count[error.fault] += 1
        now = trio.current_time()
        if now - self._begun > MINUTE_S:
            self._begun, self._lines = now, 0
            if self._unlogged:
                log.warning("peer.refusals_not_logged", count=self._unlogged)
            self._unlogged = 0
        if self._lines == LINES_PER_MINUTE:
            self._unlogged += 1
            return
        self._lines += 1
        log.warning("peer.refused", address=address, fault=error.fault.value, reason=str(error))

    def samples(self) -> Iterator[Sample]:
        for fault in Fault:
            labels = (("reason", fault.value),)
            yield Sample(
                "peers_refused", "Greetings refused.", self.count[fault], labels, counts_up=True
            )
