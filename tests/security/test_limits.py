"""Every limit of `core/limits.py`, at n and at n + 1."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast
from unittest import mock

import msgspec
import pytest
import trio
import trio.testing
import zstandard
from blake3 import blake3

from piperfs.control import server
from piperfs.core import limits, manifest, membership, operation
from piperfs.core.epochs import found_volume, renewal
from piperfs.core.errors import FsError, PeerError, UserError
from piperfs.core.forks import Fork, make_fork
from piperfs.core.identity import Identity, PublicKeys, generate
from piperfs.core.ids import DIRECTORY, FILE, ChunkId, EpochId, VolumeId, make_inode_id
from piperfs.core.membership import MembershipGraph
from piperfs.core.membership_records import (
    Genesis,
    Record,
    Rotate,
    SetRole,
    SignedRecord,
    Wrap,
    decode_record,
)
from piperfs.core.offences import Offence
from piperfs.core.operation import Envelope, HeaderWrite, Write, decode, decode_envelope, encode
from piperfs.core.record import (
    Birth,
    ContentBody,
    Kind,
    LinkBody,
    PreviousPlace,
    Stamp,
    XattrBody,
    xattr_key,
)
from piperfs.core.ticket import Ticket, format_ticket, parse_ticket
from piperfs.fs import filesystem
from piperfs.protocol import messages as m
from piperfs.protocol.framing import FrameReader
from piperfs.replication import greeting, network, replicator
from piperfs.replication.channel import is_too_slow
from piperfs.replication.conduct import Conduct, Visits
from piperfs.replication.doorman import Doorman, origin_of
from piperfs.replication.fetching import Fetcher
from piperfs.replication.ports import Local
from piperfs.replication.verifying import Refusal
from piperfs.store import codec
from piperfs.store.waiting import Unproved, Waiting
from tests.support import peers
from tests.support.computers import ROOT_USER, Computer
from tests.support.stores import Node, PlainSealing

AUTHOR = b"author".ljust(16, b".")
NOBODY = cast(Local, None)  # where nothing is asked of the replica
BIRTH = Birth(0o644, "root", "root", AUTHOR)
FOLDER = make_inode_id(DIRECTORY, bytes(15))
PLAIN = PlainSealing()
pack = msgspec.msgpack.encode


def operation_of(*writes: Write) -> None:
    """Raises PeerError if the operation breaks a limit."""
    envelope = encode(AUTHOR, 1, PLAIN.epoch, writes, PLAIN.seal_bodies)
    decode(envelope.encode(), lambda epoch, header, sealed: sealed)


def content(number: int = 0, refs: tuple[bytes, ...] = (), **fields: object) -> Write:
    body = msgspec.structs.replace(ContentBody(True, 0, 0, BIRTH), **fields)
    return Write(Kind.CONTENT, make_inode_id(FILE, number.to_bytes(15, "big")), 1, {}, refs, body)


def link(name: bytes = b"x", places: int = 0) -> Write:
    stamp = Stamp(1, AUTHOR)
    previous = tuple(PreviousPlace(FOLDER, stamp) for _ in range(places))
    body = LinkBody(True, FOLDER, name, make_inode_id(FILE, bytes(15)), stamp, previous)
    return Write(Kind.LINK, b"l" * 16, 1, {}, (), body)


def xattr(name: bytes, value: bytes) -> None:
    inode = make_inode_id(FILE, bytes(15))
    body = XattrBody(inode, name, value)
    operation_of(Write(Kind.XATTR, xattr_key(inode, name), 1, {}, (), body))


def envelope_of(size: int) -> None:
    empty = len(Envelope(b"", b"x" * 70_000, b"").encode())
    raw = Envelope(b"", b"x" * (size - empty + 70_000), b"").encode()
    assert len(raw) == size
    decode_envelope(raw)


def header(seq: int, vector: int = 0) -> None:
    rows = tuple((n.to_bytes(16, "big"), 1) for n in range(vector))
    row = HeaderWrite(Kind.CONTENT, make_inode_id(FILE, bytes(15)), 1, rows, ())
    head = pack(operation.Header(operation.FORMAT, AUTHOR, seq, PLAIN.epoch, (row,)))
    operation.decode_header(Envelope(head, b"", b"").encode())


def writes(count: int) -> None:
    rows = tuple(
        HeaderWrite(Kind.CONTENT, make_inode_id(FILE, n.to_bytes(15, "big")), 1, (), ())
        for n in range(count)
    )
    head = pack(operation.Header(operation.FORMAT, AUTHOR, 1, PLAIN.epoch, rows))
    operation.decode_header(Envelope(head, b"", b"").encode())


def node(count: int = 1, height: int = 1) -> None:
    raw = manifest.MAGIC + bytes((height,)) + count.to_bytes(4, "big") + bytes(32) * count
    if manifest.node_children(raw) == (0, ()):
        raise PeerError("no node")


def receive_chunk(size: int) -> None:
    async def main() -> None:
        sealed = bytes(size)
        fetcher = Fetcher(Node("limits").store)
        fetcher.receive(mock.Mock(), [(ChunkId(blake3(sealed).digest()), sealed)], ())

    trio.run(main)


def record_of(size: int) -> None:
    def build(sealed: int) -> bytes:
        statement = Rotate((Wrap(AUTHOR, bytes(sealed)),), ())
        raw = pack(Record((bytes(32),), AUTHOR, 0, statement))
        return pack(SignedRecord(raw, bytes(64)))

    raw = build(size - len(build(100_000)) + 100_000)
    assert len(raw) == size
    decode_record(raw)


def label_of(size: int, quorum: int = 1) -> None:
    keys = PublicKeys(bytes(32), bytes(32))
    statement = Genesis(bytes(32), "x" * size, keys, "x" * size, (), quorum)
    decode_record(pack(SignedRecord(pack(Record((), keys.replica, 0, statement)), bytes(64))))


def parents_of(count: int) -> None:
    parents = tuple(n.to_bytes(32, "big") for n in range(count))
    record = Record(parents, AUTHOR, 0, SetRole(AUTHOR, "reader"))
    decode_record(pack(SignedRecord(pack(record), bytes(64))))


def ticket_of(addresses: int) -> None:
    ticket = Ticket(VolumeId(bytes(32)), bytes(32), bytes(32), 1, ("h:1",) * addresses)
    parse_ticket(format_ticket(ticket), 0)


def ticket_text(size: int) -> None:
    ticket = Ticket(VolumeId(bytes(32)), bytes(32), bytes(32), 1, ("h:1",))
    text = format_ticket(ticket)
    parse_ticket(text + "=" * (size - len(text)), 0)


def frame(size: int, *, trusted: bool) -> None:
    reader = FrameReader()
    if trusted:
        reader.trust()
    list(reader.feed(size.to_bytes(4, "big")))


def message(value: m.Message) -> None:
    m.decode(pack(value))


def addresses(count: int = 1, size: int = 3) -> None:
    state = m.State(bytes(16), 0, b"", 0, 0, bytes(32), 0, 0, ("x" * size,) * count)
    message(state)


def xattrs(count: int) -> None:
    computer = Computer("limits")
    computer.write("f", b"")
    ino = computer.walk("f").ino
    for number in range(count):
        computer.fs.setxattr(ino, b"user.%d" % number, b"", 0, ROOT_USER)


def control_line(size: int) -> None:
    async def main() -> None:
        left, right = trio.testing.memory_stream_pair()
        await left.send_all(b"x" * size + b"\n")
        await server._read_line(right)

    trio.run(main)


async def until(holds: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not holds():  # noqa: ASYNC110 - sockets of another task, there is no event
            await trio.sleep(0.01)


BOTH: dict[str, tuple[Callable[[int], object], ...]] = {
    "NAME_BYTES_MAX": (
        lambda n: operation_of(link(b"x" * n)),
        lambda n: Computer("c").write("x" * n, b""),
    ),
    "SYMLINK_BYTES_MAX": (
        lambda n: operation_of(content(target=b"x" * n)),
        lambda n: Computer("c").symlink(b"x" * n, "link"),
    ),
    "XATTR_NAME_BYTES_MAX": (lambda n: xattr(b"x" * n, b""),),
    "XATTR_VALUE_BYTES_MAX": (lambda n: xattr(b"user.x", b"x" * n),),
    "XATTRS_PER_INODE_MAX": (xattrs,),
    "FILE_BYTES_MAX": (lambda n: operation_of(content(size=n, lengths=(-n,))),),
    "OPERATION_BYTES_MAX": (envelope_of,),
    "OPERATION_WRITES_MAX": (writes,),
    "VECTOR_ENTRIES_MAX": (lambda n: header(1, vector=n),),
    "SEQ_MAX": (header,),
    "CHANGED_DIRECTORIES_MAX": (lambda n: operation_of(content(directories=(FOLDER,) * n)),),
    "PREVIOUS_PARENTS_MAX": (lambda n: operation_of(link(places=n)),),
    "CHUNK_BYTES_MAX": (
        lambda n: codec.decode(codec.encode(bytes(n))),
        lambda n: codec.decode(codec.encode(os.urandom(n))),
    ),
    "SEALED_CHUNK_BYTES_MAX": (receive_chunk,),
    "NODE_EXTENTS_MAX": (node,),
    "MANIFEST_HEIGHT_MAX": (
        lambda n: node(height=n),
        lambda n: operation_of(content(height=n)),
    ),
    "MEMBERSHIP_RECORD_BYTES_MAX": (record_of,),
    "LABEL_CHARS_MAX": (label_of,),
    "PARENTS_MAX": (parents_of,),
    "QUORUM_MAX": (lambda n: label_of(1, quorum=n),),
    "TICKET_ADDRESSES_MAX": (ticket_of,),
    "FRAME_BYTES_MAX": (lambda n: frame(n, trusted=True),),
    "PREAUTH_FRAME_BYTES_MAX": (lambda n: frame(n, trusted=False),),
    "MESSAGE_ITEMS_MAX": (
        lambda n: message(m.Want((bytes(32),) * n, urgent=False)),
        lambda n: message(m.Operations((b"",) * n, 0)),
        lambda n: message(m.Chunks((), (bytes(32),) * n)),
        lambda n: message(m.WantOperations((bytes(32),) * n)),
        lambda n: message(m.Reconcile((m.Range(b"", b"x", 0, bytes(32)),) * n)),
    ),
    "MESSAGE_MEMBER_IDS_MAX": (lambda n: message(m.MemberIds((bytes(32),) * n)),),
    "MESSAGE_PEERS_MAX": (lambda n: message(m.Peers(((bytes(16), ()),) * n)),),
    "ADDRESSES_MAX": (addresses,),
    "ADDRESS_CHARS_MAX": (lambda n: addresses(size=n),),
    "CONTROL_REQUEST_BYTES_MAX": (lambda n: control_line(n - 1),),
}
ELSEWHERE = {
    "HELD_BYTES_MAX": "test_what_is_held_has_a_bound",
    "CLOCK_AHEAD_S_MAX": "tests/store/test_ahead.py",
    "AHEAD_BYTES_MAX": "tests/store/test_ahead.py",
    "EARLY_FORKS_MAX": "test_proofs_about_nobody_have_a_bound",
    "TIME_NS_MAX": "test_times",
    "LINKS_PER_INODE_MAX": "test_links_of_one_inode",
    "INLINE_EXTENTS_MAX": "test_a_longer_manifest_becomes_a_tree",
    "MEMBERSHIP_PENDING_MAX": "test_records_that_wait",
    "MEMBERSHIP_PENDING_BYTES_MAX": "test_records_that_wait",
    "MEMBERSHIP_RECORDS_MAX": "test_records_of_a_volume",
    "RENEWALS_MAX": "test_renewals_of_a_device",
    "INTRODUCTION_RECORDS_MAX": "test_an_introduction_fits_a_hello",
    "INTRODUCTION_BYTES_MAX": "test_an_introduction_fits_a_hello",
    "TICKET_CHARS_MAX": "test_a_long_ticket",
    "PAIRING_TRIES_MAX": "tests/security/test_pairing.py",
    "PAIRING_S_MAX": "tests/security/test_pairing.py",
    "INVITE_S_MAX": "tests/cli/test_bad_input.py",
    "PAIRING_JOIN_S": "tests/security/test_pairing.py",
    "ZSTD_WINDOW_BYTES_MAX": "test_a_large_window",
    "SEQ_AHEAD_MAX": "tests/replication/test_offences.py",
    "SEQ_HEARSAY_AHEAD_MAX": "tests/replication/test_offences.py",
    "OFFENCES_MAX": "test_offences_that_are_remembered",
    "WAITING_OPERATIONS_MAX": "test_operations_that_wait_for_proof",
    "WAITING_PER_SENDER_MAX": "test_operations_that_wait_for_proof",
    "WAITING_BYTES_PER_SENDER_MAX": "test_operations_that_wait_for_proof",
    "FRAME_GRACE_S": "test_dripping",
    "FRAME_BYTES_PER_S_MIN": "test_dripping",
    "QUEUED_BYTES_MAX": "tests/replication/test_channel.py",
    "SESSIONS_HELD_MAX": "test_sessions",
    "REFUSED_PER_S_MAX": "test_operations_in_vain",
    "REFUSED_BURST_MAX": "test_operations_in_vain",
    "PREAUTH_TIMEOUT_S": "tests/replication/test_hostile_peers.py",
    "PREAUTH_CONNECTIONS_MAX": "test_strangers_from_everywhere",
    "PREAUTH_PER_S_MAX": "test_who_knocks_too_often",
    "PREAUTH_BURST_MAX": "test_who_knocks_too_often",
    "PREAUTH_ORIGINS_MAX": "test_who_knocks_too_often",
    "PREAUTH_PER_HOST_MAX": "test_strangers_from_everywhere",
    "LOG_BYTES_MAX": "tests/obs/test_log.py",
    "CONTROL_CLIENTS_MAX": "tests/control/test_control.py",
    "CHUNK_BYTES_MIN": "no limit but a size to aim at",
    "CHUNK_BYTES_AVERAGE": "no limit but a size to aim at",
    "KIB": "a unit",
    "MIB": "a unit",
}


def unproved(number: int, sender: int, size: int = 1) -> Unproved:
    identity, sent_by = number.to_bytes(32, "big"), bytes((sender,)) * 16
    one = operation.Operation(identity, AUTHOR, 1, PLAIN.epoch, (), bytes(size))
    return Unproved(one, sent_by, AUTHOR)


def test_operations_that_wait_for_proof() -> None:
    many, large = Waiting(), Waiting()
    each = limits.WAITING_PER_SENDER_MAX
    for number in range(each + 1):
        many.add(unproved(number, sender=0))
    assert len(many) == each
    for number in range(each, limits.WAITING_OPERATIONS_MAX + 1):
        many.add(unproved(number, sender=number // each))
    assert len(many) == limits.WAITING_OPERATIONS_MAX
    large.add(unproved(0, sender=0, size=limits.WAITING_BYTES_PER_SENDER_MAX))
    large.add(unproved(1, sender=0))
    assert len(large) == 1
    assert len(large.take(AUTHOR)) == 1
    large.add(unproved(1, sender=0))
    assert len(large) == 1


def test_offences_that_are_remembered() -> None:
    offences = Node("limits").store.offences
    for number in range(limits.OFFENCES_MAX + 1):
        offences.note(number.to_bytes(16, "big"), Offence.RULE, "x" * 1000, number)
    assert len(offences.all(0)) == limits.OFFENCES_MAX
    kept = {int.from_bytes(replica, "big") for replica, _, _ in offences.all(0)}
    assert 0 not in kept  # the one that was quiet for longest made room


def test_no_limit_is_forgotten() -> None:
    names = {name for name in vars(limits) if name.isupper()}
    assert names == BOTH.keys() | ELSEWHERE.keys()
    assert all(name in globals() for name in ELSEWHERE.values() if name.startswith("test_"))


CASES = [(name, case) for name, cases in BOTH.items() for case in cases]


@pytest.mark.parametrize(("name", "case"), CASES, ids=[name for name, _ in CASES])
def test_at_the_limit_and_one_beyond(name: str, case: Callable[[int], object]) -> None:
    limit: int = getattr(limits, name)
    case(limit)
    with pytest.raises((PeerError, UserError, FsError, OverflowError)):
        case(limit + 1)


def test_times() -> None:
    """A time beyond what 64 bits hold is kept as the last that they do."""
    last = limits.TIME_NS_MAX
    kept = [filesystem._clamped(each) for each in (last, last + 1, -last - 1)]
    assert kept == [last, last, -last]


def test_links_of_one_inode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINKS_PER_INODE_MAX", 5)
    computer = Computer("c")
    computer.write("f", b"")
    for number in range(4):
        computer.link("f", f"f{number}")
    with pytest.raises(FsError, match="too many links"):
        computer.link("f", "one more")


def test_a_longer_manifest_becomes_a_tree() -> None:
    class Sealing:
        epoch = EpochId(bytes(16))

        def seal_node(self, clear: bytes, plain: bytes) -> bytes:
            return plain

        def open_node(self, clear: bytes, sealed: bytes) -> bytes:
            return sealed

    for count, height in ((limits.INLINE_EXTENTS_MAX, 0), (limits.INLINE_EXTENTS_MAX + 1, 1)):
        extents = [manifest.Extent(1, ChunkId(os.urandom(32))) for _ in range(count)]
        kept: dict[ChunkId, bytes] = {}
        nodes = manifest.Nodes(Sealing(), kept.__contains__)
        top = manifest.build(extents, nodes, kept.__setitem__)
        assert top.height == height


def waiting_records(count: int) -> list[bytes]:
    records = [Record((os.urandom(32),), AUTHOR, 0, SetRole(AUTHOR, "reader"))] * count
    unknown = [msgspec.structs.replace(each, parents=(os.urandom(32),)) for each in records]
    return [pack(SignedRecord(pack(each), bytes(64))) for each in unknown]


def test_records_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = MembershipGraph(VolumeId(bytes(32)))
    raws = waiting_records(limits.MEMBERSHIP_PENDING_MAX + 1)
    for raw in raws:
        graph.add(raw)
    assert len(graph._pending) == limits.MEMBERSHIP_PENDING_MAX
    monkeypatch.setattr(membership, "MEMBERSHIP_PENDING_BYTES_MAX", sum(map(len, raws[:3])))
    graph = MembershipGraph(VolumeId(bytes(32)))
    for raw in raws:
        graph.add(raw)
    assert len(graph._pending) == 3


def test_records_of_a_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "MEMBERSHIP_RECORDS_MAX", 3)
    founder = generate(os.urandom)
    raw, volume = found_volume(founder, os.urandom, 0, "v", "a")
    graph = MembershipGraph(volume)
    graph.add(raw)
    for _ in range(2):
        graph.author(founder, 0, SetRole(founder.replica, "admin"))
    with pytest.raises(PeerError, match="more membership records"):
        graph.author(founder, 0, SetRole(founder.replica, "admin"))


def renewals(count: int) -> tuple[MembershipGraph, Identity]:
    """A volume whose founder went on under other keys that often."""
    own = generate(os.urandom)
    raw, volume = found_volume(own, os.urandom, 0, "v", "a")
    graph = MembershipGraph(volume)
    graph.add(raw)
    for _ in range(count):
        renewed = generate(os.urandom)
        graph.author(own, 0, renewal(graph, own, renewed))
        own = renewed
    return graph, own


def test_renewals_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "RENEWALS_MAX", 3)
    renewals(3)
    with pytest.raises(PeerError, match="too often"):
        renewals(4)


def test_an_introduction_fits_a_hello(monkeypatch: pytest.MonkeyPatch) -> None:
    most = limits.INTRODUCTION_RECORDS_MAX
    graph, own = renewals(most + 1)
    local = mock.Mock(graph=graph, identity=own, clock=mock.Mock(entropy=os.urandom))
    newest = graph.introduction(own.replica)
    assert len(newest) == most
    said = greeting._hello(local)
    assert said.introduction == newest
    assert len(m.encode(said)) <= limits.PREAUTH_FRAME_BYTES_MAX
    monkeypatch.setattr(greeting, "INTRODUCTION_BYTES_MAX", sum(map(len, newest)) - 1)
    assert greeting._hello(local).introduction == newest[1:]


def test_a_long_ticket() -> None:
    ticket = Ticket(VolumeId(bytes(32)), bytes(32), bytes(32), 1, ("x" * 2300,))
    while len(format_ticket(ticket)) < limits.TICKET_CHARS_MAX:
        ticket = msgspec.structs.replace(ticket, addresses=(ticket.addresses[0] + "x",))
    text = format_ticket(ticket)
    assert len(text) <= limits.TICKET_CHARS_MAX + 2
    if len(text) == limits.TICKET_CHARS_MAX:
        parse_ticket(text, 0)
    with pytest.raises(UserError, match="mangled"):
        parse_ticket(text.ljust(limits.TICKET_CHARS_MAX + 1, "a"), 0)


def test_a_large_window(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = codec.encode(b"text " * 50_000)
    assert payload[0] == codec.ZSTD
    codec.decode(payload)
    window = zstandard.get_frame_parameters(payload[codec.PREFIX_BYTES :]).window_size
    monkeypatch.setattr(codec, "ZSTD_WINDOW_BYTES_MAX", window)
    codec.decode(payload)
    monkeypatch.setattr(codec, "ZSTD_WINDOW_BYTES_MAX", window - 1)
    with pytest.raises(PeerError, match="window"):
        codec.decode(payload)


def test_dripping() -> None:
    grace, rate = limits.FRAME_GRACE_S, limits.FRAME_BYTES_PER_S_MIN
    assert not is_too_slow(1, grace)
    assert is_too_slow(1, grace + 1)
    assert not is_too_slow(rate * (grace + 1), grace + 1)
    assert is_too_slow(rate * (grace + 1) - 1, grace + 1)


def test_sessions() -> None:
    """The number is asked before a session is made; see `Replicator._hold`."""
    assert replicator.SESSIONS_HELD_MAX == limits.SESSIONS_HELD_MAX


@pytest.mark.net
async def test_strangers_from_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight connections of one address wait for TLS, sixty-four of all; the rest is closed."""
    listener = network.TlsNetwork("0.0.0.0", 0)

    async def nobody(link: network.Link) -> None:
        raise AssertionError("nobody spoke TLS")

    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(listener.listen, nobody)
        port = int(address.rpartition(":")[2])
        hosts = limits.PREAUTH_CONNECTIONS_MAX // limits.PREAUTH_PER_HOST_MAX
        held = [
            await trio.open_tcp_stream("127.0.0.1", port, local_address=f"127.0.0.{2 + number}")
            for number in range(hosts)
            for _ in range(limits.PREAUTH_PER_HOST_MAX)
        ]
        everybody = limits.PREAUTH_CONNECTIONS_MAX
        await until(lambda: sum(listener.doorman.strangers.values()) == everybody)
        assert not listener.doorman.turned_away
        late = await trio.open_tcp_stream("127.0.0.1", port, local_address="127.0.0.200")
        with trio.fail_after(5):
            assert await late.receive_some() == b""
        assert listener.doorman.turned_away == 1
        await trio.aclose_forcefully(held.pop())
        await until(lambda: sum(listener.doorman.strangers.values()) < everybody)
        nursery.cancel_scope.cancel()
    for stream in (*held, late):
        await trio.aclose_forcefully(stream)


def knock(doorman: Doorman, host: str) -> bool:
    leave = doorman.admit(host)
    if leave is not None:
        leave()
    return leave is not None


def test_operations_in_vain() -> None:
    """Over all connections of a member, and without an effect on other members."""

    async def main() -> None:
        visits, rate = Visits(NOBODY), limits.REFUSED_PER_S_MAX
        most, refusal = limits.REFUSED_BURST_MAX, Refusal("no reason", None)
        first, again = (Conduct(NOBODY, AUTHOR, visits.patience(AUTHOR)) for _ in "12")
        assert first.note_refused([refusal] * most) == 0
        assert again.note_refused([refusal]) == 1 / rate
        await trio.sleep(1)
        assert again.note_refused([refusal] * (rate - 1)) == 0
        assert first.note_refused([refusal]) == 1 / rate
        somebody = b"somebody else..."
        other = Conduct(NOBODY, somebody, visits.patience(somebody))
        assert other.note_refused([refusal]) == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_who_knocks_too_often() -> None:
    clock = [0.0]
    doorman = Doorman(lambda: clock[0])
    burst = limits.PREAUTH_BURST_MAX
    assert [knock(doorman, "192.0.2.1") for _ in range(burst + 1)] == [True] * burst + [False]
    assert knock(doorman, "192.0.2.2")
    clock[0] += 1
    rate = limits.PREAUTH_PER_S_MAX
    assert [knock(doorman, "192.0.2.1") for _ in range(rate + 1)] == [True] * rate + [False]
    doorman.refund("192.0.2.1")
    assert knock(doorman, "192.0.2.1")
    for number in range(limits.PREAUTH_ORIGINS_MAX + 10):
        assert knock(doorman, f"10.0.{number >> 8}.{number & 255}")
    assert len(doorman._budgets) == limits.PREAUTH_ORIGINS_MAX
    assert not doorman.strangers


def test_what_counts_as_one_stranger() -> None:
    assert origin_of("192.0.2.1") == "192.0.2.1"
    assert origin_of("2001:db8::1") == origin_of("2001:db8::ffff:2")
    assert origin_of("2001:db8::1") != origin_of("2001:db8:0:1::1")
    assert origin_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert origin_of("fe80::1%eth0") == origin_of("fe80::2%eth0")


def test_what_is_held_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    anna, carl = Node("anna"), Node("carl")
    carl.create(carl.root, b"held", b"")
    [operation] = carl.operations()
    anna.store.forks.limits = {carl.replica: 0}
    for room, held in ((len(operation.envelope) - 1, 0), (len(operation.envelope), 1)):
        monkeypatch.setattr(limits, "HELD_BYTES_MAX", room)
        anna.receive([operation])
        assert anna.store.forks.held_count == held
    assert anna.tree() == {}


def test_proofs_about_nobody_have_a_bound(tmp_path: Path) -> None:
    node = peers.founder(tmp_path)
    for number in range(limits.EARLY_FORKS_MAX + 1):
        node.note_fork(unknown_fork(number))
    assert len(node.early_forks) == limits.EARLY_FORKS_MAX
    node.close()


def unknown_fork(number: int) -> Fork:
    author = number.to_bytes(16, "big")
    both = [
        encode(author, 1, PLAIN.epoch, (content(each),), PLAIN.seal_bodies).encode()
        for each in range(2)
    ]
    return make_fork(*both)
