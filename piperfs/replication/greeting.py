"""The first seconds of a connection: hello, proof, and letting new devices in.

Nothing of the volume is said before the other end has proved to be a member, or to hold a ticket.
"""

from dataclasses import dataclass
from typing import Final

import trio
from msgspec.structs import replace

from piperfs.core.epochs import JoinRequest, admit, epoch_keys, request_join
from piperfs.core.errors import ExitCode, PeerError, UserError
from piperfs.core.identity import Identity, PublicKeys
from piperfs.core.ids import ReplicaId, VolumeId
from piperfs.core.limits import (
    FRAME_BYTES_MAX,
    INTRODUCTION_BYTES_MAX,
    INTRODUCTION_RECORDS_MAX,
    PREAUTH_TIMEOUT_S,
)
from piperfs.core.membership import MembershipGraph, graph_of
from piperfs.core.membership_records import Renew, decode_record, verify_record
from piperfs.core.membership_rules import Member
from piperfs.core.plain import find_fault
from piperfs.core.ticket import Ticket, check_words
from piperfs.obs.log import get_logger
from piperfs.protocol.handshake import (
    NONCE_BYTES,
    Fault,
    HandshakeError,
    Side,
    Transcript,
    check_hello,
    check_member,
    check_proof,
)
from piperfs.protocol.messages import (
    VERSION,
    Admitted,
    Auth,
    Hello,
    Join,
    Message,
    Pair,
    Refused,
    Welcome,
)
from piperfs.replication import pairing
from piperfs.replication.channel import Channel
from piperfs.replication.inbox import REASON_CHARS_MAX, Inbox
from piperfs.replication.ports import Local

RECORD_BYTES_AT_ONCE: Final = FRAME_BYTES_MAX // 2

log = get_logger("members")


@dataclass(frozen=True, slots=True)
class Greeted:
    """A member that has proved who it is."""

    replica: ReplicaId
    side: Side  # ours
    rest: tuple[Message, ...] = ()  # what came right behind the greeting


def _hello(local: Local, *, joining: bool = False) -> Hello:
    nonce = local.clock.entropy(NONCE_BYTES)
    own = local.identity.replica
    introduction = local.graph.introduction(own)
    while sum(map(len, introduction)) > INTRODUCTION_BYTES_MAX:
        introduction = introduction[1:]
    return Hello(VERSION, local.graph.volume, own, nonce, joining, introduction=introduction)


def _member_of(local: Local, hello: Hello) -> Member | None:
    """Who greets: a member, or what a member's device became without our having heard of it.

    A record whose parents are unknown here is enough to talk: the session brings the others.
    """
    state = local.graph.state()
    known = dict(state.members)
    for raw in hello.introduction[:INTRODUCTION_RECORDS_MAX]:
        try:
            record = decode_record(raw)[1]
            before = known.get(record.author)
            if not isinstance(record.statement, Renew) or before is None or before.removed:
                continue
            verify_record(raw, before.keys.signing)
            local.add_records((raw,))
        except PeerError:
            continue
        keys = record.statement.keys
        known.setdefault(keys.replica, replace(before, replica=keys.replica, keys=keys))
    return local.graph.state().member(hello.replica) or known.get(hello.replica)


async def greet(channel: Channel, side: Side, local: Local) -> Greeted | None:
    """Greet the other end; None if it was a new device that has been let in or given a ticket.

    Raises:
        HandshakeError: it is not who may talk to us, or says that we are not.
        PeerError: the connection ended.
    """
    inbox = Inbox(channel)
    try:
        with trio.fail_after(PREAUTH_TIMEOUT_S):
            if side is Side.CLIENT:
                return await _greet_server(channel, inbox, local)
            return await _greet_client(channel, inbox, local)
    except trio.TooSlowError as error:
        raise HandshakeError(Fault.SLOW, "it does not finish its greeting") from error


async def _greet_server(channel: Channel, inbox: Inbox, local: Local) -> Greeted:
    own = _hello(local)
    channel.send(own)
    await channel.flush()
    theirs = await inbox.next(Hello)
    check_hello(theirs, local.graph.volume, local.identity.replica)
    transcript = Transcript(local.graph.volume, channel.binding, own, theirs)
    proof = await inbox.next(Auth)
    member = _member_of(local, theirs)
    check_member(transcript, Side.SERVER, member, proof.signature)
    channel.send(Auth(local.identity.sign(transcript.message(Side.CLIENT))))
    await channel.flush()
    channel.trust()
    await inbox.next(Welcome)
    return Greeted(theirs.replica, Side.CLIENT, inbox.rest)


async def _greet_client(channel: Channel, inbox: Inbox, local: Local) -> Greeted | None:
    theirs = await inbox.either(Hello, Pair)
    if isinstance(theirs, Pair):
        await _pair(channel, inbox, theirs, local)
        return None
    check_hello(theirs, local.graph.volume, local.identity.replica)
    own = _hello(local)
    transcript = Transcript(local.graph.volume, channel.binding, theirs, own)
    channel.send(own)
    channel.send(Auth(local.identity.sign(transcript.message(Side.SERVER))))
    await channel.flush()
    proof = await inbox.next(Auth)
    refusal: HandshakeError | None = None
    try:
        if theirs.joining:
            await _let_in(channel, inbox, local, transcript, proof.signature)
            return None
        member = _member_of(local, theirs)
        check_member(transcript, Side.CLIENT, member, proof.signature)
    except HandshakeError as error:
        refusal = error
    if refusal is not None:
        await _refuse(channel, str(refusal))
        raise refusal
    channel.trust()
    channel.send(Welcome())
    return Greeted(theirs.replica, Side.SERVER, inbox.rest)


async def _pair(channel: Channel, inbox: Inbox, asked: Pair, local: Local) -> None:
    """Give a ticket to a computer whose user knows the code that is open here."""
    clock = local.clock
    refusal: HandshakeError | None = None
    try:
        await pairing.answer(channel, inbox, asked, local.pairing, clock.entropy, clock.in_thread)
    except HandshakeError as error:
        refusal = error
    if refusal is not None:
        await _refuse(channel, str(refusal))
        raise refusal


async def _refuse(channel: Channel, reason: str) -> None:
    channel.send(Refused(reason[:REASON_CHARS_MAX]))
    await channel.flush()


async def _let_in(
    channel: Channel, inbox: Inbox, local: Local, transcript: Transcript, proof: bytes
) -> None:
    """Admit a device that knows a ticket's secret, and give it the membership records.

    It signs the connection like any member, so that nobody in between can use its ticket to see
    the records.
    """
    asked = await inbox.next(Join)
    keys = PublicKeys(asked.signing, asked.sealing)
    if keys.replica != transcript.client.replica:
        raise HandshakeError(Fault.PROOF, "it joins with other keys than it greets with")
    check_proof(transcript, Side.CLIENT, keys.signing, proof)
    if fault := find_fault(asked.label):
        raise HandshakeError(Fault.MALFORMED, f"the new computer's name {fault}")
    request = JoinRequest(asked.invite, keys, asked.label, asked.proof)
    _admit(local, request)
    words = check_words(transcript.digest)
    local.note_check_words(request.replica, words)
    log.info("member.joined", name=request.label, member=request.replica.hex()[:12], words=words)
    await local.commit()
    local.pairing.note_join(request.invite, request.label, words)
    await _send_records(channel, list(local.graph.records().values()))


def _admit(local: Local, request: JoinRequest) -> None:
    """Let a device in, unless it was before. Raises HandshakeError with the reason.

    One that is a member already lost our answer the first time; it proves the same again.
    """
    if local.store.is_blind:
        reason = "this computer stores without keys and lets nobody in; ask another member"
        raise HandshakeError(Fault.TICKET, reason)
    try:
        own_keys = epoch_keys(local.graph, local.identity)
        statement = admit(local.graph, own_keys, request, local.clock.now_ns())
        if local.graph.state().member(request.replica) is None:
            local.sign_record(statement)
    except (UserError, PeerError) as error:
        raise HandshakeError(Fault.TICKET, str(error)) from error


async def _send_records(channel: Channel, records: list[bytes]) -> None:
    batch: list[bytes] = []
    size = 0
    for raw in records:
        if batch and size + len(raw) > RECORD_BYTES_AT_ONCE:
            channel.send(Admitted(tuple(batch), more=True))
            await channel.flush()
            batch, size = [], 0
        batch.append(raw)
        size += len(raw)
    channel.send(Admitted(tuple(batch), more=False))
    await channel.flush()


@dataclass(frozen=True, slots=True)
class Membership:
    """What a new device comes back with."""

    records: tuple[bytes, ...]
    words: str


async def join(
    channel: Channel, ticket: Ticket, identity: Identity, label: str, nonce: bytes
) -> Membership:
    """Ask to be let in. Raises PeerError, or UserError with the other end's reason."""
    inbox = Inbox(channel)
    own = Hello(VERSION, ticket.volume, identity.replica, nonce, joining=True)
    channel.send(own)
    await channel.flush()
    theirs = await inbox.next(Hello)
    check_hello(theirs, ticket.volume, identity.replica)
    transcript = Transcript(ticket.volume, channel.binding, own, theirs)
    proof = await inbox.next(Auth)
    request = request_join(ticket.volume, ticket.invite, ticket.secret, identity, label)
    keys = identity.public
    channel.send(Auth(identity.sign(transcript.message(Side.CLIENT))))
    channel.send(Join(ticket.invite, keys.signing, keys.sealing, label, request.proof))
    await channel.flush()
    channel.trust()
    records = await _receive_records(inbox)
    graph = _graph_of(ticket.volume, records)
    state = graph.state()
    check_member(transcript, Side.SERVER, state.member(theirs.replica), proof.signature)
    if not state.may_connect(identity.replica):
        raise UserError("the ticket was spent by another computer", ExitCode.REFUSED)
    return Membership(tuple(records), check_words(transcript.digest))


def _graph_of(volume: VolumeId, records: list[bytes]) -> MembershipGraph:
    graph = graph_of(volume, records)
    if volume not in graph:
        raise PeerError("it does not show the volume's first record")
    return graph


async def _receive_records(inbox: Inbox) -> list[bytes]:
    records: list[bytes] = []
    while True:
        try:
            part = await inbox.next(Admitted)
        except HandshakeError as error:
            if error.fault is Fault.DECLINED:
                raise UserError(str(error), ExitCode.REFUSED) from error
            raise
        records += part.records
        if not part.more:
            return records
