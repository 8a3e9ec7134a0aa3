"""Checking operations of peers: signature, author's right, form. Runs in worker threads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from piperfs.core.errors import PeerError
from piperfs.core.identity import verify
from piperfs.core.ids import VolumeId
from piperfs.core.membership_rules import MembershipState
from piperfs.core.operation import Envelope, Operation, Unseal, decode, signed_bytes
from piperfs.replication.ports import Local

VERIFY_INLINE_MAX: Final = 2  # fewer are checked on the spot: a thread costs more


@dataclass(slots=True)
class Verified:
    """What a batch came to; `reasons` tell why operations were refused."""

    operations: list[Operation] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


async def verify_fresh(fresh: Sequence[tuple[bytes, Envelope]], local: Local) -> Verified:
    """Check operations by what is known here, in a thread if they are many."""
    unseal = None if local.store.is_blind else local.keyring.unseal_bodies
    check = partial(verify_operations, fresh, local.store.volume, local.graph.state(), unseal)
    return check() if len(fresh) <= VERIFY_INLINE_MAX else await local.clock.in_thread(check)


def verify_operations(
    envelopes: Sequence[tuple[bytes, Envelope]],
    volume: VolumeId,
    members: MembershipState,
    unseal: Unseal | None,
) -> Verified:
    """Check operations, given as signed and taken apart; their bodies too, with keys."""
    verified = Verified()
    for raw, envelope in envelopes:
        try:
            operation = decode(raw, unseal)
            member = members.member(operation.replica)
            if member is None:
                raise PeerError("its author is no member")
            if not members.may_write(operation.replica, operation.seq):
                raise PeerError(f"{member.label} had no right to write it")
            message = signed_bytes(volume, operation.id)
            verify(member.keys.signing, message, envelope.signature)
        except PeerError as error:
            verified.reasons.append(str(error))
        else:
            verified.operations.append(operation)
    return verified
