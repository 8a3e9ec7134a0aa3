"""Frames out of a stream of bytes, however it is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piperfs.core.errors import PeerError
from piperfs.core.limits import FRAME_BYTES_MAX, PREAUTH_FRAME_BYTES_MAX
from piperfs.protocol.framing import FrameReader


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@given(st.lists(st.binary(max_size=300), max_size=20), st.lists(st.integers(1, 50), min_size=1))
def test_frames_come_out_however_bytes_are_cut(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(framed, bodies))
    reader, found, position, turn = FrameReader(), [], 0, 0
    while position < len(stream):
        step = cuts[turn % len(cuts)]
        found += reader.feed(stream[position : position + step])
        position, turn = position + step, turn + 1
    assert found == bodies


def test_a_stranger_may_send_4_kib_and_no_more() -> None:
    body = bytes(PREAUTH_FRAME_BYTES_MAX)
    assert list(FrameReader().feed(framed(body))) == [body]
    with pytest.raises(PeerError, match="over the limit"):
        list(FrameReader().feed((len(body) + 1).to_bytes(4, "big")))


def test_a_member_may_send_a_mebibyte_and_no_more() -> None:
    reader = FrameReader()
    reader.trust()
    body = bytes(FRAME_BYTES_MAX)
    assert list(reader.feed(framed(body))) == [body]
    with pytest.raises(PeerError, match="over the limit"):
        list(reader.feed((FRAME_BYTES_MAX + 1).to_bytes(4, "big")))


def test_a_length_alone_takes_no_memory() -> None:
    reader = FrameReader()
    assert list(reader.feed(PREAUTH_FRAME_BYTES_MAX.to_bytes(4, "big"))) == []
    assert len(reader._buffer) == 4
