"""Checking operations of peers: signature, author's right, form. Runs in worker threads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from piperfs.core.errors import NoKeyError, PeerError
from piperfs.core.identity import PublicKeys, verify
from piperfs.core.ids import ReplicaId, VolumeId
from piperfs.core.membership_rules import MembershipState
from piperfs.core.offences import Offence
from piperfs.core.operation import (
    Envelope,
    Operation,
    Unseal,
    decode,
    decode_envelope,
    decode_header,
    signed_bytes,
)
from piperfs.replication.ports import Local
from piperfs.store.authors import Shown

VERIFY_INLINE_MAX: Final = 2  # fewer are checked on the spot: a thread costs more


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an operation was refused, and whether somebody is to blame."""

    reason: str
    offence: Offence | None
    author: ReplicaId | None = None


@dataclass(slots=True)
class Verified:
    """What a batch came to; `refusals` tell why operations were refused.

    `void` are those that their authors signed without the right to; `sealed`, as signed, those
    whose key is not here yet. Both show how far their authors have counted.
    """

    operations: list[Operation] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    void: list[Operation] = field(default_factory=list)
    sealed: list[bytes] = field(default_factory=list)


def unseal_of(local: Local) -> Unseal | None:
    """What opens the bodies of operations; None where there is no key for any."""
    return None if local.store.is_blind else local.keyring.unseal_bodies


async def verify_batch(fresh: Sequence[tuple[bytes, Envelope]], local: Local) -> Verified:
    """Check operations of a peer, in a worker thread unless they are few."""
    check = partial(
        verify_operations,
        fresh,
        local.store.volume,
        local.graph.state(),
        unseal_of(local),
    )
    if len(fresh) <= VERIFY_INLINE_MAX:
        return check()
    return await local.clock.in_thread(check)


def verify_operations(
    envelopes: Sequence[tuple[bytes, Envelope]],
    volume: VolumeId,
    members: MembershipState,
    unseal: Unseal | None,
) -> Verified:
    """Check operations, given as signed and taken apart; their bodies too, with keys."""
    verified = Verified()
    for raw, envelope in envelopes:
        refusal = _verify(raw, envelope, volume, members, unseal, verified)
        if refusal is not None:
            verified.refusals.append(refusal)
    return verified


def _verify(
    raw: bytes,
    envelope: Envelope,
    volume: VolumeId,
    members: MembershipState,
    unseal: Unseal | None,
    verified: Verified,
) -> Refusal | None:
    """Check one operation. What may be late news, of keys or members, is nobody's fault."""
    try:
        operation = decode(raw, unseal)
    except NoKeyError as error:
        verified.sealed.append(raw)
        return Refusal(str(error), None)
    except PeerError as error:
        return Refusal(str(error), Offence.RULE)
    member = members.member(operation.replica)
    if member is None:
        return Refusal("its author is no member", None)
    try:
        message = signed_bytes(volume, operation.id)
        verify(member.keys.signing, message, envelope.signature)
    except PeerError as error:
        return Refusal(str(error), Offence.FORGED)
    if not members.may_write(operation.replica, operation.seq):
        verified.void.append(operation)
        reason = f"{member.label} had no right to write it"
        return Refusal(reason, Offence.RIGHT, operation.replica)
    verified.operations.append(operation)
    return None


def verify_newest(
    raws: Sequence[bytes],
    volume: VolumeId,
    keys_of: Callable[[ReplicaId], PublicKeys | None],
    highest: Callable[[ReplicaId], int],
) -> list[Shown]:
    """Proofs of how far authors have counted; leaves out what proves nothing new.

    Only the signature counts: a number was issued even where its author had no right to write.

    Raises:
        PeerError: one of them is no operation, or its signature is wrong.
    """
    found = []
    for raw in raws:
        header, envelope = decode_header(raw), decode_envelope(raw)
        keys = keys_of(header.replica)
        if keys is not None and header.seq > highest(header.replica):
            verify(keys.signing, signed_bytes(volume, envelope.id), envelope.signature)
            found.append(Shown(header.replica, header.seq, envelope))
    return found
