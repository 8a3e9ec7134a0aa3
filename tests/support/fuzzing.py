"""Fuzz targets: everything that takes bytes from somebody else, and a mutator that knows msgpack.

A target takes bytes and may raise its own kind of error and nothing else. Where a signature or a
seal would keep mutated bytes away from what lies behind it, the target mutates what is inside and
signs and seals it anew, as a hostile member can.
"""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from piperfs.control.messages import Request, decode_request
from piperfs.control.messages import encode as encode_control
from piperfs.core import manifest
from piperfs.core.epochs import epoch_keys, rotation
from piperfs.core.errors import FsError, PeerError, StoreError, UserError
from piperfs.core.identity import Identity
from piperfs.core.ids import ChunkId, EpochId, LinkId, ReplicaId, VolumeId
from piperfs.core.membership import MembershipGraph
from piperfs.core.membership_records import CONTEXT, SignedRecord, Statement
from piperfs.core.operation import Envelope, decode, decode_envelope, signed_bytes
from piperfs.core.pairing_code import make_code, parse_code
from piperfs.core.sealing import Keyring
from piperfs.core.ticket import Ticket, format_ticket, make_invite, parse_ticket
from piperfs.daemon.options import parse_idmap, parse_options
from piperfs.daemon.statedir import _parse as parse_volume_file
from piperfs.fs import acl
from piperfs.protocol import messages as m
from piperfs.protocol import reconcile
from piperfs.protocol.framing import FrameReader
from piperfs.protocol.handshake import Side, check_hello
from piperfs.protocol.pairing import Exchange
from piperfs.replication.verifying import verify_operations
from piperfs.store import codec
from piperfs.store.cells import Cells
from piperfs.store.change import DeleteContent, KillLink, SetAttributes, SetXattr
from piperfs.store.engine import MemoryEngine
from piperfs.store.schema import NAMES
from piperfs.store.store import Identity as Owner
from piperfs.store.store import Store
from tests.support.graphs import make_world
from tests.support.stores import Node

CORPUS = Path(__file__).parent.parent / "security" / "corpus"
WORLD = make_world()
AUTHOR = WORLD.people[0]
KEYRING = Keyring(WORLD.base.volume, epoch_keys(WORLD.base, AUTHOR), WORLD.base.state().current)
CELLS = Cells(b"k" * 32, os.urandom)
CELL = CELLS.sealer(1)(b"p", b"v")
pack = msgspec.msgpack.encode
unpack = msgspec.msgpack.decode


@dataclass(frozen=True)
class Target:
    """What is fuzzed: how it begins, and what it may answer."""

    name: str
    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    allowed: tuple[type[BaseException], ...] = (PeerError,)
    saved: tuple[bytes, ...] = field(default=())

    def check(self, data: bytes) -> None:
        """Raises whatever the target must not raise."""
        try:
            self.run(data)
        except self.allowed:
            return


class Mutator:
    """Makes new inputs of old ones."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def mutate(self, pool: list[bytes]) -> bytes:
        data = bytearray(self.rng.choice(pool))
        for _ in range(1 + self.rng.getrandbits(2)):
            self.rng.choice(self.ways)(self, data, pool)
        return bytes(data[: 1 << 20])

    def _at(self, data: bytearray) -> int:
        return self.rng.randrange(len(data) + 1)

    def flip(self, data: bytearray, pool: list[bytes]) -> None:
        if data:
            data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)

    def put(self, data: bytearray, pool: list[bytes]) -> None:
        if data:
            data[self.rng.randrange(len(data))] = self.rng.choice(MARKS)

    def insert(self, data: bytearray, pool: list[bytes]) -> None:
        at = self._at(data)
        data[at:at] = self.rng.choice(PIECES)

    def delete(self, data: bytearray, pool: list[bytes]) -> None:
        at = self._at(data)
        del data[at : at + self.rng.choice((1, 2, 4, 16, 64))]

    def repeat(self, data: bytearray, pool: list[bytes]) -> None:
        at = self._at(data)
        part = data[at : at + self.rng.choice((1, 5, 33))]
        data[at:at] = part * self.rng.choice((1, 2, 17, 300))

    def splice(self, data: bytearray, pool: list[bytes]) -> None:
        other = self.rng.choice(pool)
        at, there = self._at(data), self.rng.randrange(len(other) + 1)
        data[at:] = other[there:]

    def number(self, data: bytearray, pool: list[bytes]) -> None:
        at = self._at(data)
        size = self.rng.choice((1, 2, 4, 8))
        value = self.rng.choice((0, 1, 127, 128, 255, 1 << 15, (1 << 31) - 1, 1 << 31, -1))
        raw = (value % (1 << 8 * size)).to_bytes(size, "big")
        data[at : at + size] = raw

    def noise(self, data: bytearray, pool: list[bytes]) -> None:
        data[:] = self.rng.randbytes(self.rng.randrange(200))

    ways = (flip, flip, put, put, insert, delete, repeat, splice, number, number, noise)


MARKS = bytes((0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xC0, 0xC1, 0xC2, 0xC4, 0xC6, 0xCA, 0xCB,
               0xCF, 0xD3, 0xD9, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xE0, 0xFF))  # fmt: skip
PIECES = (
    b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x91" * 2000,
    b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7), b"\xcb\x7f\xf8" + bytes(6), b"\xa0", b"\xc0",
    b"/", b"..", b"\x00", b"\xff" * 16, b"\xd9\x04\xf0\x9f\x98", b"=", b",", b"{", b"[" * 1000,
    b'"', b":", b"\n", b"-9" * 20, b"\xd6\xff" + bytes(4), b"\xc7\x00\x05",
)  # fmt: skip


# Seeds


def _operations() -> tuple[bytes, ...]:
    """One operation of each kind, sealed and signed."""
    node = Node("seed")
    identity = Owner(WORLD.base.volume, AUTHOR.replica, AUTHOR, KEYRING)
    node.engine, node.replica = MemoryEngine(NAMES), AUTHOR.replica
    node.store = Store(node.engine, identity, b"k" * 32, os.urandom, lambda raw: (0, ()))
    node.root = node.store.root
    file = node.create(node.root, b"file", b"text")
    folder = node.mkdir(node.root, b"folder")
    node.commit()
    for change in (
        SetAttributes(file, mode=0o600, mtime_ns=5),
        SetXattr(file, b"user.x", b"value"),
        KillLink(LinkId(folder)),
    ):
        node.apply(change)
        node.commit()
    node.apply(KillLink(node.link_of(node.root, b"file")), DeleteContent(file))
    node.commit()
    return tuple(raw for _, raw in node.store.log.after(0, 1 << 20))


def _messages() -> tuple[bytes, ...]:
    b16, b32 = bytes(16), bytes(32)
    some = (
        m.Hello(1, WORLD.base.volume, ReplicaId(b16), b32, features=("x",)),
        m.Auth(bytes(64)), m.Welcome(), m.Join(b32, b32, b32, "name", bytes(64)),
        m.Admitted((b"record",), more=False), m.Refused("why"),
        m.State(b16, 1, b16, 2, 3, b32, 4, 5, ("h:1",)), m.MemberIds((b32,)),
        m.Members((b"record",)), m.Operations(OPERATIONS[:1], 3, ((ChunkId(b32), b"x"),)),
        m.Ack(1, 2), m.Want((ChunkId(b32),), urgent=True), m.Chunks(((ChunkId(b32), b"x"),)),
        m.Reconcile((m.Range(b"", b"\xff" * 33, 2, b32),)), m.WantOperations((b32,)),
        m.Pair(1, "bako", SHARES[0]), m.PairShare(SHARES[1]), m.PairProof(b32),
        m.PairTicket(b32, b"sealed"),
        m.Peers(((ReplicaId(b16), ("h:1",)),)), m.Ping(1), m.Pong(2),
    )  # fmt: skip
    return tuple(pack(each) for each in some)


def _manifest_node() -> bytes:
    ids = [os.urandom(32) for _ in range(3)]
    clear = b"".join((manifest.MAGIC, b"\x01", (3).to_bytes(4, "big"), *ids))
    return clear + pack([5, 6, -7, 8])


CODE = make_code(os.urandom)
SHARES = [Exchange(side, CODE, b"b" * 32, os.urandom).share for side in (Side.CLIENT, Side.SERVER)]
OPERATIONS = _operations()
MESSAGES = _messages()
RECORDS = tuple(WORLD.base.records().values())


# Targets


class _Plain:
    def seal_node(self, clear: bytes, plain: bytes) -> bytes:
        return plain

    def open_node(self, clear: bytes, sealed: bytes) -> bytes:
        return sealed


def read_frames(data: bytes) -> None:
    reader = FrameReader()
    for start in range(0, len(data), 7):
        for body in reader.feed(data[start : start + 7]):
            m.decode(body)
        reader.trust()


def greet(data: bytes) -> None:
    hello = m.decode(data)
    if isinstance(hello, m.Hello):
        check_hello(hello, WORLD.base.volume, AUTHOR.replica)


def open_operation(data: bytes) -> None:
    decode(data, None)
    decode(data, KEYRING.unseal_bodies)


def apply_operation(data: bytes) -> None:
    """The clear part and the bodies as a member may choose them, signed, verified and merged."""
    header, bodies = unpack(data, type=tuple[bytes, bytes])
    sealed = KEYRING.seal_bodies(header, bodies)
    unsigned = Envelope(header, sealed, b"")
    signature = AUTHOR.sign(signed_bytes(WORLD.base.volume, unsigned.id))
    envelope = Envelope(header, sealed, signature)
    state = WORLD.base.state()
    found = verify_operations(
        [(envelope.encode(), envelope)], WORLD.base.volume, state, KEYRING.unseal_bodies
    )
    if found.operations:
        node = Node("fuzz")
        node.receive(decode(raw, KEYRING.unseal_bodies) for raw in OPERATIONS[:2])
        node.receive(found.operations)
        node.tree()
        list(node.store.conflicts())


def _inside(raw: bytes) -> bytes:
    envelope = decode_envelope(raw)
    epoch = EpochId(envelope.sealed[1:17])
    bodies = KEYRING.unseal_bodies(epoch, envelope.header, envelope.sealed)
    return pack((envelope.header, bodies))


def take_record(data: bytes) -> None:
    WORLD.base.copy().add(data)


def author_record(data: bytes) -> None:
    """A record as an admin may write it, signed."""
    graph = WORLD.base.copy()
    graph.add(pack(SignedRecord(data, WORLD.people[1].sign(CONTEXT + data))))
    graph.state()
    epoch_keys(graph, AUTHOR)


def _record_seeds() -> tuple[bytes, ...]:
    junior = WORLD.people[1]
    raws = [author_raw(WORLD.base.copy(), junior, each) for each in WORLD.statements[2:]]
    graph = WORLD.base.copy()
    raws.append(author_raw(graph, junior, rotation(graph, epoch_keys(graph, junior), os.urandom)))
    raws.append(author_raw(graph, junior, make_invite(os.urandom, "writer", 1 << 62)[0]))
    return tuple(unpack(raw, type=SignedRecord).raw for raw in raws)


def author_raw(graph: MembershipGraph, who: Identity, statement: Statement) -> bytes:
    return graph.author(who, 1, statement)


def open_manifest(data: bytes) -> None:
    manifest.node_children(data)
    manifest.open_node(data, manifest.Extent(26, ChunkId(bytes(32))), 1, _Plain())


def compare(data: bytes) -> None:
    message = m.decode(data)
    if isinstance(message, m.Reconcile):
        log = OPERATION_LOG.store.log
        reconcile.compare(message.ranges, log.fingerprint, log.ids)


def finish_pairing(data: bytes) -> None:
    Exchange(Side.SERVER, CODE, b"b" * 32, os.urandom).finish(data)


def text_of(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


def _log() -> Node:
    node = Node("log")
    node.receive(decode(raw, KEYRING.unseal_bodies) for raw in OPERATIONS)
    return node


OPERATION_LOG = _log()
TICKET = format_ticket(
    Ticket(VolumeId(bytes(32)), bytes(32), bytes(32), 1 << 62, ("192.0.2.1:5", "[::1]:6"))
).encode()
ACL = bytes.fromhex("0200000001000600ffffffff04000400ffffffff20000400ffffffff")
MOUNT_WORDS = b"ro,allow_other,peer=h:1,listen=[::]:0,cache=20G,deadline=3s,idmap=a=1:@b=2,x-y"

TARGETS = (
    Target("frames", read_frames, tuple(len(x).to_bytes(4, "big") + x for x in MESSAGES)),
    Target("messages", m.decode, MESSAGES),
    Target("greeting", greet, MESSAGES[:3]),
    Target("operation", open_operation, OPERATIONS),
    Target(
        "signed-operation", apply_operation, tuple(map(_inside, OPERATIONS)),
        (PeerError, msgspec.MsgspecError, UnicodeDecodeError),
    ),
    Target("manifest", open_manifest, (_manifest_node(),)),
    Target("reconcile", compare, (MESSAGES[13],)),
    Target("record", take_record, RECORDS),
    Target("signed-record", author_record, _record_seeds()),
    Target("ticket", text_of(lambda text: parse_ticket(text, 0)), (TICKET,), (UserError,)),
    Target("pairing", finish_pairing, (SHARES[0],)),
    Target("pairing-code", text_of(parse_code), (str(CODE).encode(),), (UserError,)),
    Target("options", text_of(parse_options), (MOUNT_WORDS,), (UserError,)),
    Target("idmap", text_of(parse_idmap), (b"a=1\n@b=2\n# x\n#5=6",), (ValueError,)),
    Target(
        "control", decode_request,
        (encode_control(Request("invite", {"role": "writer", "n": 1.5, "l": ["a"]}))[:-1],),
        (UserError,),
    ),
    Target("zstd", codec.decode, (codec.encode(b"text " * 99), codec.encode(os.urandom(50)))),
    Target("sealed", KEYRING.open_chunk, (KEYRING.seal_chunk(b"payload")[1],)),
    Target("cell", lambda raw: CELLS.open(b"p", raw), (CELL,), (StoreError,)),
    Target("acl", acl.decode, (ACL,), (FsError,)),
    Target(
        "volume-file", lambda raw: parse_volume_file(Path("x"), raw),
        (b'{"format": 1, "volume": "' + b"00" * 32 + b'", "label": "x", "blind": true}',),
        (UserError,),
    ),
)  # fmt: skip


def saved_inputs(target: Target) -> Iterator[bytes]:
    """Inputs that once broke something, kept for ever."""
    for path in sorted((CORPUS / target.name).glob("*")):
        yield path.read_bytes()


def inputs(target: Target, seed: int) -> Iterator[bytes]:
    """Seeds and saved inputs as they are, then mutations of them without end."""
    pool = [*target.seeds, *saved_inputs(target)]
    yield from pool
    mutator = Mutator(seed)
    while True:
        data = mutator.mutate(pool)
        yield data
        if len(pool) < 300 and mutator.rng.random() < 0.02 and _is_taken(target, data):
            pool.append(data)


def _is_taken(target: Target, data: bytes) -> bool:
    """Whether an input passes: the mutations of one that does reach further."""
    try:
        target.run(data)
    except target.allowed:
        return False
    return True
