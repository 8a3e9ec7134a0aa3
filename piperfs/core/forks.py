"""Forks: an author that signed two operations under one number, and the proof of it.

A number is taken together with the durable commit of its operation, so an honest device never
uses one twice. Two signed operations with one author and one number therefore prove that the key
is used by two computers, such as a copied one, or by a liar. The two envelopes are all there is to
it: whoever knows the author's public key can check them, and nobody can make them for another.

What the author wrote beyond the number of the fork cannot be ordered: a vector that says "up to
nine" does not say which nine. So it is held. Of several proofs the one with the smallest number
counts, and what is held is then a function of the proofs alone.
"""

import msgspec

from piperfs.core.errors import PeerError
from piperfs.core.identity import verify
from piperfs.core.ids import OperationId, ReplicaId, VolumeId
from piperfs.core.operation import Envelope, decode_envelope, decode_header, signed_bytes


class Fork(msgspec.Struct, array_like=True, frozen=True):
    """Two operations of one author with one number, as signed; the smaller id comes first."""

    one: bytes
    other: bytes


class Point(msgspec.Struct, frozen=True):
    """Whom a proof accuses, and from which number on its operations are held."""

    replica: ReplicaId
    seq: int


def make_fork(one: bytes, other: bytes) -> Fork:
    """The proof that two envelopes are."""
    first, second = sorted((one, other), key=lambda raw: decode_envelope(raw).id)
    return Fork(first, second)


def point_of(fork: Fork) -> Point:
    """What two envelopes prove if their signatures hold. Raises PeerError if nothing."""
    headers = [decode_header(raw) for raw in (fork.one, fork.other)]
    ids = [decode_envelope(raw).id for raw in (fork.one, fork.other)]
    dots = {(header.replica, header.seq) for header in headers}
    if len(dots) != 1 or ids[0] >= ids[1]:
        raise PeerError("two operations that prove no fork are called a proof")
    return Point(headers[0].replica, headers[0].seq)


def check_fork(fork: Fork, volume: VolumeId, signing: bytes) -> None:
    """Raises PeerError unless the author's key signed both."""
    for raw in (fork.one, fork.other):
        envelope: Envelope = decode_envelope(raw)
        verify(signing, signed_bytes(volume, OperationId(envelope.id)), envelope.signature)
