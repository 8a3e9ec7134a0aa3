"""Computers whose program is of another age than the others'.

Of another version of the protocol: it is refused, and refuses, in the greeting, and takes up its
work when it has been updated. Of a later build that speaks the same version: it offers features
and adds fields to messages, of which the others know nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from piperfs.core.ids import ReplicaId, VolumeId
from piperfs.protocol import handshake
from piperfs.protocol.messages import Hello
from piperfs.replication import greeting
from piperfs.replication.ports import Local

FEATURES = ("later",)
UNKNOWN = ("a later field", 1)
LENGTH_BYTES = 4
STEPS: dict[ReplicaId, int] = {}  # how many versions a replica is before ours
LATER: set[ReplicaId] = set()  # builds that add features and fields


def add_fields(frame: bytes) -> bytes:
    """The frame of a message as a later build would send it, with fields that nobody knows."""
    body = frame[LENGTH_BYTES:]
    if len(body) != int.from_bytes(frame[:LENGTH_BYTES], "big"):
        return frame  # a part of a large one
    message = msgspec.msgpack.decode(body)
    if message[0] == "hello":
        return frame  # every byte of it is signed: a later build adds features instead
    longer = msgspec.msgpack.encode([*message, *UNKNOWN])
    return len(longer).to_bytes(LENGTH_BYTES, "big") + longer


@contextmanager
def simulated() -> Iterator[None]:
    """Let `STEPS` and `LATER` decide what the greetings of each replica say."""
    hello, check = greeting._hello, greeting.check_hello

    def aged_hello(local: Local, *, joining: bool = False) -> Hello:
        own = local.identity.replica
        said = hello(local, joining=joining)
        features = FEATURES if own in LATER else ()
        return msgspec.structs.replace(
            said, version=said.version + STEPS.get(own, 0), features=features
        )

    def aged_check(theirs: Hello, volume: VolumeId, own: ReplicaId) -> None:
        seen = msgspec.structs.replace(theirs, version=theirs.version - STEPS.get(own, 0))
        handshake.check_hello(seen, volume, own)

    greeting._hello, greeting.check_hello = aged_hello, aged_check
    try:
        yield
    finally:
        greeting._hello, greeting.check_hello = hello, check
        STEPS.clear()
        LATER.clear()
