"""Proofs of identity are bound to a connection, a side, and what was said."""

import os

import pytest
from msgspec.structs import replace

from piperfs.core.errors import PeerError
from piperfs.core.identity import generate
from piperfs.core.ids import ReplicaId, VolumeId
from piperfs.protocol.handshake import Side, Transcript, check_hello, check_member, check_proof
from piperfs.protocol.messages import VERSION, Hello

VOLUME = VolumeId(bytes(range(32)))
CLIENT, SERVER = generate(os.urandom), generate(os.urandom)


def hello(replica: ReplicaId) -> Hello:
    return Hello(VERSION, VOLUME, replica, os.urandom(32))


TRANSCRIPT = Transcript(VOLUME, os.urandom(32), hello(CLIENT.replica), hello(SERVER.replica))


def test_both_proofs_hold_on_one_transcript() -> None:
    for side, identity in ((Side.CLIENT, CLIENT), (Side.SERVER, SERVER)):
        signature = identity.sign(TRANSCRIPT.message(side))
        check_proof(TRANSCRIPT, side, identity.public.signing, signature)


def test_a_proof_fits_no_other_connection() -> None:
    signature = CLIENT.sign(TRANSCRIPT.message(Side.CLIENT))
    others = (
        Transcript(VOLUME, os.urandom(32), TRANSCRIPT.client, TRANSCRIPT.server),
        Transcript(VOLUME, TRANSCRIPT.binding, hello(CLIENT.replica), TRANSCRIPT.server),
        Transcript(VOLUME, TRANSCRIPT.binding, TRANSCRIPT.client, hello(SERVER.replica)),
        Transcript(VolumeId(bytes(32)), TRANSCRIPT.binding, TRANSCRIPT.client, TRANSCRIPT.server),
        Transcript(
            VOLUME, TRANSCRIPT.binding,
            replace(TRANSCRIPT.client, features=("x",)), TRANSCRIPT.server,
        ),
    )  # fmt: skip
    for other in others:
        with pytest.raises(PeerError):
            check_proof(other, Side.CLIENT, CLIENT.public.signing, signature)


def test_a_proof_cannot_be_sent_back() -> None:
    signature = CLIENT.sign(TRANSCRIPT.message(Side.CLIENT))
    with pytest.raises(PeerError):
        check_proof(TRANSCRIPT, Side.SERVER, CLIENT.public.signing, signature)


def test_whoever_is_no_member_proves_nothing() -> None:
    signature = CLIENT.sign(TRANSCRIPT.message(Side.CLIENT))
    with pytest.raises(PeerError, match="no member"):
        check_member(TRANSCRIPT, Side.CLIENT, None, signature)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": VERSION + 1}, "update one of us"),
        ({"volume": VolumeId(bytes(32))}, "another volume"),
        ({"nonce": b"short"}, "malformed"),
        ({"replica": SERVER.replica}, "itself"),
    ],
)
def test_hellos_that_lead_nowhere_are_refused(change: dict[str, object], reason: str) -> None:
    wrong = replace(TRANSCRIPT.client, **change)
    with pytest.raises(PeerError, match=reason):
        check_hello(wrong, VOLUME, SERVER.replica)
    check_hello(TRANSCRIPT.client, VOLUME, SERVER.replica)


def test_both_ends_compute_one_digest_per_connection() -> None:
    digests = {
        Transcript(VOLUME, binding, TRANSCRIPT.client, TRANSCRIPT.server).digest
        for binding in (bytes(32), b"\1" * 32, bytes(32))
    }
    assert len(digests) == 2
