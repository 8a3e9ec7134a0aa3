"""Messages round trip; what no correct peer sends does not decode."""

import os
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piperfs.core.errors import PeerError
from piperfs.core.ids import ChunkId, OperationId, ReplicaId, StoreId, VolumeId
from piperfs.core.limits import SEQ_MAX
from piperfs.protocol import messages as m

ID = bytes(range(32))
STATE = m.State(StoreId(ID[:16]), 5, StoreId(b""), 0, 0, ID, 1, 0, ("[::1]:7",))

MESSAGES: list[m.Message] = [
    m.Hello(1, VolumeId(ID), ReplicaId(ID[:16]), ID),
    m.Auth(ID * 2),
    m.Welcome(),
    m.Join(ID, ID, ID, "laptop", ID * 2),
    m.Admitted((b"record",), more=True),
    m.Refused("no"),
    STATE,
    m.MemberIds((ID,)),
    m.Members((b"record",)),
    m.Operations((b"envelope",), 7, ((ChunkId(ID), b"sealed"),)),
    m.Ack(4, 3),
    m.Want((ChunkId(ID),), urgent=True),
    m.Chunks(((ChunkId(ID), b"sealed"),), (ChunkId(ID),)),
    m.Reconcile(
        (m.Range(b"", b"\xff" * 33, 1, ID), m.Range(b"a", b"b", 1, ID, (OperationId(ID),)))
    ),
    m.WantOperations((OperationId(ID),)),
    m.Peers(((ReplicaId(ID[:16]), ("host:1",)),)),
    m.Ping(1),
    m.Pong(1),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_each_message_survives_the_wire(message: m.Message) -> None:
    frame = m.encode(message)
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    assert m.decode(frame[4:]) == message


@pytest.mark.parametrize(
    "wrong",
    [
        m.Want((ChunkId(b""),), urgent=True),
        m.Want((ChunkId(bytes(33)),), urgent=True),
        m.Want((ChunkId(ID),) * (m.ITEMS_MAX + 1), urgent=False),
        m.WantOperations((OperationId(b"short"),)),
        m.Ack(-1, 0),
        m.Ack(SEQ_MAX + 1, 0),
        m.Auth(b"short"),
        m.Operations((), -1),
        m.Operations((b"",) * (m.ITEMS_MAX + 1), 0),
        m.Reconcile((m.Range(bytes(34), b"\xff", 0, ID),)),
        m.Reconcile((m.Range(b"", b"\xff", -1, ID),)),
        m.Reconcile((m.Range(b"", b"\xff", 1, b"sum"),)),
        m.MemberIds((b"",)),
        m.Peers(((ReplicaId(ID[:16]), ("host:1",) * 17),)),
        m.Peers(((ReplicaId(ID[:16]), ("h" * 301,)),)),
        msgspec.structs.replace(STATE, cursor_lseq=-5),
        msgspec.structs.replace(STATE, seen_seq=SEQ_MAX + 1),
        msgspec.structs.replace(STATE, store=StoreId(b"")),
        msgspec.structs.replace(STATE, addresses=("a:1",) * 17),
    ],
    ids=lambda message: str(message)[:60],
)
def test_values_out_of_bounds_are_refused(wrong: Any) -> None:
    with pytest.raises(PeerError):
        m.decode(m.encode(wrong)[4:])


def test_limits_themselves_are_accepted() -> None:
    for message in (
        m.Want((ChunkId(ID),) * m.ITEMS_MAX, urgent=False),
        m.Ack(SEQ_MAX, 0),
        m.MemberIds((ID,) * m.MEMBER_IDS_MAX),
    ):
        assert m.decode(m.encode(message)[4:]) == message


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else(garbage: bytes) -> None:
    try:
        m.decode(garbage)
    except PeerError:
        return


@given(st.sampled_from(MESSAGES), st.data())
def test_a_changed_byte_is_refused_or_harmless(message: m.Message, data: st.DataObject) -> None:
    body = bytearray(m.encode(message)[4:])
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        m.decode(body)
    except PeerError:
        return


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(PeerError):
        m.decode(b"\x91" * 100_000)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(PeerError):
        m.decode(msgspec.msgpack.encode(["gossip", os.urandom(4)]))
