"""Ways to misbehave, as plug-ins of the simulation: the real node, and what it should not do.

A behaviour is called again and again with each session of the liar and may say anything there.
`LISTED` holds the twenty-five of the design by their names there; `docs` shows what each comes to
(`packaging/doc/convergence.md`). `OTHERS` are lies that came up beside them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

import msgspec
import zstandard

from piperfs.core.ids import (
    DIRECTORY,
    FILE,
    ChunkId,
    InodeId,
    LinkId,
    OperationId,
    StoreId,
    make_inode_id,
)
from piperfs.core.limits import MIB, SEQ_MAX
from piperfs.core.membership_records import SetRole, author_record
from piperfs.core.offences import Offence
from piperfs.core.operation import Write
from piperfs.core.record import ContentBody, Kind, LinkBody, Stamp
from piperfs.daemon.node import Node
from piperfs.protocol import messages as m
from piperfs.replication.session import Session
from piperfs.store import codec
from tests.sim import skew
from tests.support import forging

Act = Callable[[Node, Session, Random], None]
YEARS_50_NS = 50 * 365 * 86_400 * 10**9
FORKED = InodeId(bytes((FILE,)) + b"equivocation123")


@dataclass(frozen=True)
class Behaviour:
    """What the liar does, and what the others are expected to notice."""

    act: Act
    named: Offence | None = None  # as what status names the liar
    shows: str | None = None  # a state that must be reached
    seconds: float = 12.0
    every_s: float = 0.7
    start_s: float = 0.0  # a lie in contents comes when people have stopped to work
    hurry: float = 1.0  # how much faster than usual people work
    before: Callable[[Node, Node], None] | None = None  # with an admin's node, and the liar's


# Operations


def _seq(node: Node, random: Random) -> int:
    return node.clock.now_ns() // 1_000_000 + random.randrange(10**6)


def _send(session: Session, *raws: bytes, chunks: tuple[tuple[ChunkId, bytes], ...] = ()) -> None:
    session.channel.send(m.Operations(raws, 0, chunks))


def _file(node: Node, random: Random, name: bytes, hlc: int | None = None) -> tuple[Write, ...]:
    hlc = node.clock.now_ns() if hlc is None else hlc
    return forging.file_called(node, random.randbytes(31), name, hlc)


def forks_its_log(node: Node, session: Session, random: Random) -> None:
    """Two writes under one number, each to whoever happens to listen; then it goes on."""
    birth = forging.birth_by(node)
    body = ContentBody(True, 0, random.randrange(2), birth, target=random.choice((b"", b"x")))
    write = Write(Kind.CONTENT, FORKED, 1, {}, (), body)
    more = _file(node, random, b"after the fork")
    _send(
        session,
        forging.signed(node, (write,), 1_600_000_000_000),
        forging.signed(node, more, _seq(node, random)),
    )


def dates(ahead_ns: int | None, node: Node, session: Session, random: Random) -> None:
    """Writes far in the future, or at the beginning of time."""
    hlc = 0 if ahead_ns is None else node.clock.now_ns() + ahead_ns
    _send(session, forging.signed(node, _file(node, random, b"dated", hlc), _seq(node, random)))


def claims_what_is_not_written(node: Node, session: Session, random: Random) -> None:
    """Versions of others' files that say to know what their authors will write some day."""
    for key in node.store.keys("content")[:3]:
        head = node.store.contents(InodeId(key))[0]
        if head.replica == node.store.replica:
            continue
        ahead = node.store.highest_seq_of(head.replica) + random.choice((600_000, 10**9))
        known = {**head.vector, head.replica: ahead}
        known.pop(node.store.replica, None)
        write = forging.version(node, InodeId(key), b"", known)
        _send(session, forging.signed(node, (write,), _seq(node, random)))


def leaves_gaps(node: Node, session: Session, random: Random) -> None:
    """Numbers that jump, backwards too."""
    seq = _seq(node, random) - random.randrange(10**6)
    _send(session, forging.signed(node, _file(node, random, b"gap"), seq))


def replays(node: Node, session: Session, random: Random) -> None:
    """Sends everything it has, over and over."""
    for _ in range(5):
        session._owe([each for _, each, _ in node.store.log.after_with_ids(0, 1 << 20)])


def numbers_hugely(node: Node, session: Session, random: Random) -> None:
    seq = SEQ_MAX - random.randrange(10**9)
    _send(session, forging.signed(node, _file(node, random, b"huge"), seq))


def writes_as_another(node: Node, session: Session, random: Random) -> None:
    other = next(each.replica for each in node.members() if each.replica != node.store.replica)
    writes = _file(node, random, b"not mine")
    _send(session, forging.signed(node, writes, _seq(node, random), author=other))


def writes(node: Node, session: Session, random: Random) -> None:
    """Nothing is wrong with it but that it has no right to."""
    _send(session, forging.signed(node, _file(node, random, b"no right"), _seq(node, random)))


def writes_names_that_cannot_be(node: Node, session: Session, random: Random) -> None:
    name = random.choice((b"..", b"a/b", b"", b"x" * 300, b"nul\0"))
    _send(session, forging.signed(node, _file(node, random, name), _seq(node, random)))


def makes_cycles(node: Node, session: Session, random: Random) -> None:
    """Two directories, each inside the other, and one inside itself."""
    one, two, three = (make_inode_id(DIRECTORY, random.randbytes(15)) for _ in range(3))
    links = ((one, two), (two, one), (three, three))
    made = tuple(forging.directory(node, each, parent, b"round") for each, parent in links)
    _send(session, forging.signed(node, made, _seq(node, random)))


def has_many_children(node: Node, session: Session, random: Random) -> None:
    """A directory that fills up, a thousandth of the million."""
    files = [_file(node, random, b"child %d" % random.randrange(10**6)) for _ in range(20)]
    flat = tuple(write for each in files for write in each)
    _send(session, forging.signed(node, flat, _seq(node, random)))


def lies_about_links(node: Node, session: Session, random: Random) -> None:
    """Ten names of a file that is nowhere, and of one that is deleted."""
    hlc, stamp = node.clock.now_ns(), Stamp(node.clock.now_ns(), node.store.replica)
    missing = make_inode_id(FILE, random.randbytes(15))
    dead = make_inode_id(FILE, random.randbytes(15))
    gone = ContentBody(False, 0, hlc, forging.birth_by(node))
    made = [Write(Kind.CONTENT, dead, hlc, {}, (), gone)]
    for number, target in enumerate((missing, dead) * 10):
        body = LinkBody(True, node.store.root, b"name %d" % number, target, stamp)
        made.append(Write(Kind.LINK, LinkId(random.randbytes(16)), hlc, {}, (), body))
    _send(session, forging.signed(node, tuple(made), _seq(node, random)))


# Contents


def _holding(node: Node, random: Random, chunk: ChunkId, length: int) -> tuple[Write, ...]:
    """A file that says to be one chunk of so many bytes."""
    link, content = _file(node, random, b"look at me")
    body = msgspec.structs.replace(content.body, size=length, lengths=(length,))
    return link, Write(Kind.CONTENT, content.key, content.hlc, {}, (chunk,), body)


def _send_content(
    payload: bytes, length: int, node: Node, session: Session, random: Random
) -> None:
    chunk, sealed = node.keyring.seal_chunk(payload + random.randbytes(0))
    raw = forging.signed(node, _holding(node, random, chunk, length), _seq(node, random))
    _send(session, raw, chunks=((chunk, sealed),))


BOMB = bytes((codec.ZSTD,)) + (1000).to_bytes(4, "big") + zstandard.compress(bytes(16 * MIB))


def withholds_contents(node: Node, session: Session, random: Random) -> None:
    """Files of chunks that it never gives, and nothing of what it has."""
    node.store.chunks.get = lambda _chunk: None  # type: ignore[method-assign]
    writes = _holding(node, random, ChunkId(random.randbytes(32)), 1000)
    _send(session, forging.signed(node, writes, _seq(node, random)))


def confirms_and_discards(node: Node, session: Session, random: Random) -> None:
    """Says that it holds everything and has nothing of it."""
    node.store.chunks.get = lambda _chunk: None  # type: ignore[method-assign]
    session._is_whole = lambda: True  # type: ignore[method-assign]


def sends_a_chunk_under_another_name(node: Node, session: Session, random: Random) -> None:
    session.channel.send(m.Chunks(((ChunkId(random.randbytes(32)), b"bomb" * 100),)))


# Replication


def forks_the_membership(node: Node, session: Session, random: Random) -> None:
    """Says to one that a member reads, to another that it writes; it is no admin."""
    other = random.choice([each.replica for each in node.members()])
    statement = SetRole(other, random.choice(("reader", "writer")), 0)
    raw = author_record(node.identity, node.graph.heads, node.clock.now_ns(), statement)
    session.channel.send(m.Members((raw,)))


def withholds_operations(node: Node, session: Session, random: Random) -> None:
    """Counts and lists more operations than it hands over."""
    store = node.store
    if getattr(store, "lies", False):
        return
    store.lies = True  # type: ignore[attr-defined]
    raws = [forging.signed(node, _file(node, random, b"kept"), _seq(node, random) + 1)]
    store.apply_remote(map(partial(forging.opened, node), raws), node.clock.now_ns())
    store.log.envelope = lambda _each: None  # type: ignore[method-assign]
    store.log.after_with_ids = lambda *_a: []  # type: ignore[method-assign]


def confirms_everything(node: Node, session: Session, random: Random) -> None:
    session.channel.send(m.Ack(1 << 60, 1 << 60))


def floods_wants(node: Node, session: Session, random: Random) -> None:
    chunks = tuple(ChunkId(random.randbytes(32)) for _ in range(500))
    session.channel.send(m.Want(chunks, urgent=True))


def floods_connections(node: Node, session: Session, random: Random) -> None:
    """Hangs up as soon as it is known, and dials again."""
    session.close()
    assert node.replicator is not None
    for dial in node.replicator.dials.values():
        dial.again.set()


def falls_silent(node: Node, session: Session, random: Random) -> None:
    session.channel.send = lambda *_a, **_k: None  # type: ignore[method-assign]


def changes_its_features(node: Node, session: Session, random: Random) -> None:
    """Offers something else on each connection."""
    change = random.choice((skew.LATER.add, skew.LATER.discard))
    change(node.store.replica)
    floods_connections(node, session, random)


def _demote(admin: Node, liar: Node) -> None:
    admin.set_role(admin.find_member(admin.name_of(liar.store.replica)), "reader")


def _remove(admin: Node, liar: Node) -> None:
    admin.remove_member(admin.find_member(admin.name_of(liar.store.replica)))


def nothing(node: Node, session: Session, random: Random) -> None:
    """What the real node does is bad enough."""


LATE = {"start_s": 10.0, "seconds": 20.0}

# The names of security-reliability.md, section 5.
LISTED: dict[str, Behaviour] = {
    "fork log": Behaviour(forks_its_log, shows="all know the proof of a fork"),
    "forked membership": Behaviour(forks_the_membership, Offence.PROTOCOL),
    "future clock": Behaviour(partial(dates, YEARS_50_NS)),
    "zero clock": Behaviour(partial(dates, None), Offence.TIME),
    "wrong prev": Behaviour(claims_what_is_not_written, Offence.CLAIM, hurry=5.0),
    "gap": Behaviour(leaves_gaps),
    "replay": Behaviour(replays, Offence.REPEATS, hurry=5.0),
    "huge seq": Behaviour(numbers_hugely, Offence.NUMBER),
    "foreign author": Behaviour(writes_as_another, Offence.FORGED),
    "reader writes": Behaviour(writes, Offence.RIGHT, before=_demote),
    "removed writes": Behaviour(nothing, Offence.REMOVED, before=_remove),
    "invalid name": Behaviour(writes_names_that_cannot_be, Offence.RULE),
    "cycle of directories": Behaviour(makes_cycles, start_s=8.0),
    "10^6 children": Behaviour(has_many_children, every_s=2.0),
    "link count lies": Behaviour(lies_about_links, every_s=4.0),
    "blob id mismatch": Behaviour(sends_a_chunk_under_another_name, Offence.PROTOCOL),
    "bomb": Behaviour(partial(_send_content, BOMB, 1000), **LATE),
    "wrong raw length": Behaviour(partial(_send_content, codec.encode(b"short"), 1000), **LATE),
    "withhold blobs": Behaviour(withholds_contents, **LATE),
    "withhold heads": Behaviour(
        withholds_operations, Offence.WITHHOLDS, seconds=320.0, every_s=5.0
    ),
    "false receipts": Behaviour(confirms_everything, Offence.RECEIPT),
    "want-flood": Behaviour(floods_wants),
    "connect-flood": Behaviour(floods_connections, Offence.CONNECTS, seconds=60.0, every_s=0.2),
    "stall": Behaviour(falls_silent, seconds=40.0, shows="a connection of the liar was ended"),
    "contradicting features": Behaviour(changes_its_features),
}


# Lies that are not listed


def _state(node: Node, **changes: object) -> m.State:
    store = node.store
    true = m.State(
        store.store_id, store.log.durable_lseq, StoreId(b""), 0, 0, store.digest(),
        store.log.durable_sum[0], node.clock.now_ns(), (),
    )  # fmt: skip
    return msgspec.structs.replace(true, **changes)


def lies_about_its_state(node: Node, session: Session, random: Random) -> None:
    """Another digest each time, and far more operations than it ever sends."""
    digest = random.randbytes(32)
    session.channel.send(_state(node, digest=digest, durable_lseq=1 << 50, operations=1 << 50))


def lies_about_our_numbers(node: Node, session: Session, random: Random) -> None:
    session.channel.send(_state(node, seen_seq=SEQ_MAX))


def floods_comparisons(node: Node, session: Session, random: Random) -> None:
    everything = m.Range(b"", b"\xff" * 33, 1 << 40, random.randbytes(32))
    session.channel.send(m.Reconcile((everything,)))


def asks_for_nothing_that_exists(node: Node, session: Session, random: Random) -> None:
    wanted = tuple(OperationId(random.randbytes(32)) for _ in range(500))
    session.channel.send(m.WantOperations(wanted))


def tells_of_many_peers(node: Node, session: Session, random: Random) -> None:
    members = [member.replica for member in node.members()]
    told = tuple((random.choice(members), (f"10.9.{n}.1:1",)) for n in range(m.PEERS_MAX))
    session.channel.send(m.Peers(told))


def signs_wrongly(node: Node, session: Session, random: Random) -> None:
    raw = bytearray(forging.signed(node, _file(node, random, b"z"), _seq(node, random)))
    raw[-1] ^= 1
    _send(session, bytes(raw))


def proves_wrongly(node: Node, session: Session, random: Random) -> None:
    """A proof of another's numbers that the other did not sign."""
    other = next(each.replica for each in node.members() if each.replica != node.store.replica)
    raw = forging.signed(node, _file(node, random, b"z"), SEQ_MAX, author=other)
    session.channel.send(m.Authors((raw,)))


def speaks_out_of_turn(node: Node, session: Session, random: Random) -> None:
    session.channel.send(m.Welcome())


OTHERS: dict[str, Behaviour] = {
    "lies about its state": Behaviour(lies_about_its_state),
    "lies about our numbers": Behaviour(lies_about_our_numbers),
    "confirms and discards": Behaviour(
        confirms_and_discards, Offence.UNSHOWN, seconds=840.0, every_s=1.0
    ),
    "floods comparisons": Behaviour(floods_comparisons),
    "asks for nothing that exists": Behaviour(asks_for_nothing_that_exists),
    "tells of many peers": Behaviour(tells_of_many_peers),
    "signs wrongly": Behaviour(signs_wrongly, Offence.FORGED),
    "proves wrongly": Behaviour(proves_wrongly, Offence.PROTOCOL),
    "speaks out of turn": Behaviour(speaks_out_of_turn, Offence.PROTOCOL),
}

BEHAVIOURS = {**LISTED, **OTHERS}
