"""Replicas that run in one process: real stores on disk, real TLS on the loopback interface."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from piperfs.core.ids import FILE, ChunkId, InodeId, LinkId, ReplicaId, make_inode_id
from piperfs.core.membership_records import Role, Statement, record_id
from piperfs.core.record import Birth, ContentBody
from piperfs.core.ticket import Ticket, format_ticket, make_invite, parse_ticket
from piperfs.daemon import joining
from piperfs.daemon.clock import SYSTEM_CLOCK
from piperfs.daemon.node import Node, create, open_node
from piperfs.replication.network import join_address
from piperfs.replication.replicator import Replicator, ReplicatorOptions
from piperfs.store import codec
from piperfs.store.change import PutContent, PutLink
from piperfs.store.rows import PeerRow

HOUR_NS = 3600 * 1_000_000_000
LOOPBACK = "127.0.0.1"


class Silent:
    """Nobody watches how far it is."""

    async def report(self, text: str, done: int = 0, total: int = 0) -> None: ...


def founder(base: Path, name: str = "anna") -> Node:
    return create(base / name, "test", name, SYSTEM_CLOCK)


def make_ticket(node: Node, role: Role = "writer") -> str:
    """A ticket for one more member; the node must be running."""
    expires = node.clock.now_ns() + HOUR_NS
    invite, secret = make_invite(os.urandom, role, expires)
    raw = node.author(invite)
    assert node.replicator is not None
    addresses = tuple(node.replicator.listening)
    return format_ticket(Ticket(node.store.volume, record_id(raw), secret, expires, addresses))


def invitation(node: Node) -> Statement:
    """Something that an admin may say."""
    return make_invite(os.urandom, "writer", node.clock.now_ns() + HOUR_NS)[0]


def at_address(ticket: str, address: str) -> str:
    """The same ticket, for a member that is met elsewhere."""
    known = parse_ticket(ticket, 0)
    return format_ticket(msgspec.structs.replace(known, addresses=(address,)))


async def join(base: Path, name: str, ticket: str) -> Node:
    return (await joining.join(guest(base, name), ticket))[0]


def guest(base: Path, name: str) -> joining.Guest:
    return joining.Guest(base / name, name, SYSTEM_CLOCK, Silent())


def address_of(node: Node) -> str:
    assert node.replicator is not None
    return node.replicator.listening[0]


@asynccontextmanager
async def running(node: Node, *peers: str, fetch_all: bool = True) -> AsyncIterator[Node]:
    """Let a replica commit and replicate; leaving it is like pulling the plug."""
    options = ReplicatorOptions(LOOPBACK, 0, peers, discovery=False, fetch_all=fetch_all)
    node.replicator = Replicator(node, options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.committer.run)
        await nursery.start(node.replicator.run)
        yield node
        nursery.cancel_scope.cancel()
    await node.committer.flush()


@asynccontextmanager
async def pair(base: Path, *, fetch_all: bool = True) -> AsyncIterator[tuple[Node, Node]]:
    """Two members of one volume that run and are connected."""
    async with running(founder(base)) as anna:
        ben = await join(base, "ben", make_ticket(anna))
        async with running(ben, address_of(anna), fetch_all=fetch_all):
            await until(lambda: connected(anna) == connected(ben) == 1)
            yield anna, ben
        ben.close()
    anna.close()


def connected(node: Node) -> int:
    assert node.replicator is not None
    return sum(peer.state == "connected" for peer in node.replicator.status())


async def until(holds: Callable[[], object], within_s: float = 15) -> None:
    """Wait until something holds; looks often, since it may depend on several replicas."""
    with trio.fail_after(within_s):
        while not holds():  # noqa: ASYNC110 - of several replicas, there is no one event
            await trio.sleep(0.005)


async def converged(*nodes: Node, within_s: float = 15) -> None:
    """Wait until all replicas hold the same, content included."""

    def same() -> bool:
        whole = not any(node.store.chunks.want_count for node in nodes)
        return whole and len({node.store.digest() for node in nodes}) == 1

    for node in nodes:
        await node.committer.commit()
    await until(same, within_s)


def damage(node: Node, table: str, key: bytes) -> None:
    """Flip a bit of a stored value."""
    engine = node.store.engine
    raw = bytearray(engine.get(table, key) or b"")
    raw[len(raw) // 2] ^= 1
    engine.commit({table: {key: bytes(raw)}})
    engine.refresh()
    for each in node.store.tables.all:
        each.forget_reads()


def names(node: Node) -> set[bytes]:
    return {name for _, name, _ in node.store.list_directory(node.store.root, 0, 1 << 20)}


def write_file(node: Node, name: bytes, *parts: bytes) -> InodeId:
    """Make a file whose content is one chunk for each part."""
    refs, now = [], node.clock.now_ns()
    for part in parts:
        chunk, sealed = node.keyring.seal_chunk(codec.encode(part))
        node.store.chunks.put(chunk, sealed)
        refs.append(chunk)
    inode = make_inode_id(FILE, os.urandom(15))
    birth = Birth(0o644, "root", "root", node.store.replica)
    lengths = tuple(map(len, parts))
    body = ContentBody(True, sum(lengths), now, birth, lengths=lengths)
    link = PutLink(LinkId(os.urandom(16)), node.store.root, name, inode)
    node.store.apply_local([link, PutContent(inode, body, tuple(refs))], now)
    return inode


def chunks_of(node: Node, name: bytes) -> tuple[ChunkId, ...]:
    found = node.store.lookup(node.store.root, name)
    assert found is not None
    return node.store.contents(found.inode)[0].refs


def read_file(node: Node, name: bytes) -> bytes | None:
    """The bytes of a file; None while the file or some of them are absent."""
    if node.store.lookup(node.store.root, name) is None:
        return None
    sealed = [node.store.chunks.get(chunk) for chunk in chunks_of(node, name)]
    if None in sealed:
        return None
    return b"".join(codec.decode(node.keyring.open_chunk(each)) for each in sealed if each)


class Cable:
    """A line between two computers that can be cut: a TCP proxy in front of `target`."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._scope = trio.CancelScope()
        self.is_cut = False
        self.address = ""
        self.bytes = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host=LOOPBACK)
        self.address = join_address(LOOPBACK, listeners[0].socket.getsockname()[1])
        await trio.serve_listeners(self._carry, listeners, task_status=_Started(task_status))

    def cut(self) -> None:
        self.is_cut = True
        self._scope.cancel()
        self._scope = trio.CancelScope()

    def heal(self) -> None:
        self.is_cut = False

    async def _carry(self, near: trio.SocketStream) -> None:
        if self.is_cut:
            await trio.aclose_forcefully(near)
            return
        with self._scope:
            far = await trio.open_tcp_stream(self._host, self._port)
            async with near, far, trio.open_nursery() as nursery:
                nursery.start_soon(self._pass_on, near, far, nursery.cancel_scope)
                nursery.start_soon(self._pass_on, far, near, nursery.cancel_scope)

    async def _pass_on(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            async for data in source:
                self.bytes += len(data)
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


class _Started:
    def __init__(self, status: trio.TaskStatus[None]) -> None:
        self._status = status

    def started(self, _value: object = None) -> None:
        self._status.started()


def open_again(base: Path, name: str) -> Node:
    return open_node(base / name, SYSTEM_CLOCK)


def holders(node: Node) -> list[ReplicaId]:
    assert node.replicator is not None
    return node.replicator.holders()


def forget_addresses(node: Node) -> None:
    """Let the given addresses be the only way to the others."""
    for replica in node.store.peers():
        node.store.put_peer(replica, PeerRow())
