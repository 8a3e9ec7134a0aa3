"""How far two connected replicas are with each other."""

from dataclasses import dataclass


@dataclass(slots=True)
class Standing:
    """How far the two are, for status and for `sync`."""

    acked: int = 0  # of our lseq: durable there
    complete: int = 0  # and with all content
    sent: int = 0
    cursor: int = 0  # of their lseq: applied here
    durable: int = 0  # of their lseq: what they have
    digest: bytes = b""
    refused: int = 0  # operations of theirs that did not verify
    last_reason: str = ""
    rolled_back: int = 0  # operations that it had once and has no more
    rtt_s: float | None = None
    keeps_all: bool = True  # it means to hold all content
    clock_offset_s: float = 0  # how far its clock is before ours
