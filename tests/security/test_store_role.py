"""A member that stores without reading: it passes everything on, sees nothing, changes nothing."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import trio

from piperfs.core.errors import ExitCode, PeerError, UserError
from piperfs.core.ids import SYMLINK, LinkId, make_inode_id
from piperfs.core.operation import Envelope, decode_envelope, decode_header
from piperfs.core.record import Birth, ContentBody
from piperfs.core.sealing import padded_length
from piperfs.daemon.clock import SYSTEM_CLOCK
from piperfs.daemon.node import Node, open_node
from piperfs.daemon.notify import Starter
from piperfs.daemon.options import parse_options
from piperfs.daemon.run import Job, run
from piperfs.replication import channel as channels
from piperfs.replication.fetching import Fetcher
from piperfs.replication.verifying import Refusal, verify_operations
from piperfs.store import check
from piperfs.store.change import DeleteContent, KillLink, PutContent, PutLink, SetXattr
from tests.support import peers
from tests.support.markers import Markers
from tests.support.peers import names, read_file, running, until, write_file

pytestmark = pytest.mark.net

MARKERS = 10_000
FILES = 80


def plant(node: Node, markers: Markers) -> dict[bytes, bytes]:
    """Files whose names, contents, attributes and targets are markers; returns the files."""
    files: dict[bytes, bytes] = {}
    for _ in range(FILES):
        name, text = markers.take(), markers.take(MARKERS // FILES - 5)
        files[name] = text
        inode = write_file(node, name, text)
        change = SetXattr(inode, b"user." + markers.take(), markers.take())
        node.store.apply_local([change], node.clock.now_ns())
        link = make_inode_id(SYMLINK, os.urandom(15))
        birth = Birth(0o777, "root", "root", node.store.replica)
        body = ContentBody(True, 0, node.clock.now_ns(), birth, target=markers.take())
        put = PutLink(LinkId(os.urandom(16)), node.store.root, markers.take(), link)
        node.store.apply_local([put, PutContent(link, body)], node.clock.now_ns())
    return files


@pytest.fixture
def traffic() -> Iterator[list[bytes]]:
    """Everything that is said on any connection, as it is inside TLS."""
    heard: list[bytes] = []

    def encode(message: object) -> bytes:
        frame = real(message)
        heard.append(frame)
        return frame

    real = channels.encode
    with mock.patch.object(channels, "encode", encode):
        yield heard


async def test_two_writers_that_meet_only_through_a_store(
    tmp_path: Path, traffic: list[bytes]
) -> None:
    """They are never there at the same time."""
    markers = Markers(MARKERS)
    async with running(peers.founder(tmp_path)) as anna:
        shelf = await peers.join(tmp_path, "shelf", peers.make_ticket(anna, "store"))
        ben = await peers.join(tmp_path, "ben", peers.make_ticket(anna))
        assert shelf.store.is_blind
        files = plant(anna, markers)
        async with running(shelf, peers.address_of(anna)):
            await peers.converged(anna, shelf)
    async with running(shelf), running(ben, peers.address_of(shelf)):
        await peers.converged(shelf, ben)
        assert all(read_file(ben, name) == text for name, text in files.items())
        write_file(ben, b"from ben", b"text of ben")
        delete(ben, min(files))
        await peers.converged(shelf, ben)
    async with running(shelf), running(anna, peers.address_of(shelf)):
        await peers.converged(anna, shelf)
        assert read_file(anna, b"from ben") == b"text of ben"
        assert min(files) not in names(anna)
    assert markers.left < FILES
    assert len(traffic) > 50
    assert not markers.found_in_all(traffic)
    assert not list(check.check_store(shelf.store))
    assert not shelf.keyring._sealers
    for node in (anna, ben, shelf):
        node.close()
        assert not markers.found_in_files(node.state.path)


def told(node: Node) -> list[str]:
    """What the status says of each peer."""
    assert node.replicator is not None
    return [str(peer.waits_for) for peer in node.replicator.status()]


def delete(node: Node, name: bytes) -> None:
    found = node.store.lookup(node.store.root, name)
    assert found is not None
    assert found.place is not None
    changes = [KillLink(found.place.link), DeleteContent(found.inode)]
    node.store.apply_local(changes, node.clock.now_ns())


async def test_a_store_opens_again_and_serves_alone(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna:
        write_file(anna, b"file", b"text")
        shelf = await peers.join(tmp_path, "shelf", peers.make_ticket(anna, "store"))
        ben = await peers.join(tmp_path, "ben", peers.make_ticket(anna))
        async with running(shelf, peers.address_of(anna)):
            await peers.converged(anna, shelf)
    anna.close()
    shelf.close()
    peers.forget_addresses(ben)
    async with running(open_node(tmp_path / "shelf", SYSTEM_CLOCK)) as shelf:
        assert shelf.store.is_blind
        async with running(ben, peers.address_of(shelf)):
            await until(lambda: read_file(ben, b"file") == b"text")
    ben.close()
    shelf.close()


async def test_a_store_is_not_mounted(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna:
        shelf = await peers.join(tmp_path, "shelf", peers.make_ticket(anna, "store"))
        shelf.close()
    anna.close()
    (tmp_path / "mount").mkdir()
    options = parse_options("listen=127.0.0.1:0,discovery=off")
    job = Job(tmp_path / "shelf", tmp_path / "mount", options, in_front=True)
    with pytest.raises(ExceptionGroup) as caught, trio.fail_after(20):
        await run(job, Starter(None), SYSTEM_CLOCK)
    error = caught.value
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, UserError)
    assert error.code is ExitCode.REFUSED
    assert "piperfs serve" in str(error)


async def test_a_store_lets_nobody_in(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna:
        shelf = await peers.join(tmp_path, "shelf", peers.make_ticket(anna, "store"))
        ticket = peers.make_ticket(anna)
        async with running(shelf, peers.address_of(anna)):
            await until(lambda: shelf.graph.state() == anna.graph.state())
            ticket = peers.at_address(ticket, peers.address_of(shelf))
            with pytest.raises(UserError, match="ask another member"):
                await peers.join(tmp_path, "ben", ticket)
        shelf.close()
    anna.close()


def envelopes(node: Node) -> list[Envelope]:
    return [decode_envelope(raw) for _, raw in node.store.log.after(0, 1 << 30)]


def verdict(node: Node, envelope: Envelope) -> list[Refusal]:
    batch = [(envelope.encode(), envelope)]
    state, unseal = node.graph.state(), node.keyring.unseal_bodies
    return verify_operations(batch, node.store.volume, state, unseal).refusals


async def test_nothing_is_altered_spliced_or_swapped_unnoticed(tmp_path: Path) -> None:
    """Whatever a store may do to operations and chunks that pass through its hands."""
    anna = peers.founder(tmp_path)
    for name in (b"first", b"second"):
        write_file(anna, name, name * 100)
        anna.store.commit(anna.clock.now_ns())
    one, two = envelopes(anna)[-2:]
    assert not verdict(anna, one)
    spliced = [
        Envelope(one.header, two.sealed, one.signature),
        Envelope(two.header, one.sealed, one.signature),
        Envelope(one.header, one.sealed, two.signature),
        Envelope(two.header, one.sealed, two.signature),
    ]
    assert all(verdict(anna, envelope) for envelope in spliced)
    raw = one.encode()
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 1 << (at % 8)
        try:
            envelope = decode_envelope(bytes(changed))
        except PeerError:
            continue
        assert verdict(anna, envelope), f"a changed bit in byte {at} goes unnoticed"
    ids = [peers.chunks_of(anna, name)[0] for name in (b"first", b"second")]
    sealed = anna.store.chunks.get(ids[0])
    assert sealed is not None
    with pytest.raises(PeerError, match="does not match its name"):
        Fetcher(anna.store).receive(mock.Mock(), [(ids[1], sealed)], ())
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(PeerError):
            anna.keyring.open_chunk(bytes(changed))
    with pytest.raises(PeerError):  # a body is no chunk
        anna.keyring.open_chunk(one.sealed)
    anna.close()


async def test_a_store_refuses_what_its_author_had_no_right_to(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna:
        shelf = await peers.join(tmp_path, "shelf", peers.make_ticket(anna, "store"))
        rita = await peers.join(tmp_path, "rita", peers.make_ticket(anna, "reader"))
        async with running(shelf, peers.address_of(anna)), running(rita, peers.address_of(shelf)):
            await until(lambda: shelf.graph.state() == anna.graph.state())
            rita.store.may_write = lambda: True  # as a program of its own would
            write_file(rita, b"forbidden", b"text")
            await rita.committer.commit()
            await until(lambda: any("no right" in text for text in told(shelf)))
            assert not shelf.store.log.count() - anna.store.log.count()
        rita.close()
        shelf.close()
    anna.close()


async def test_a_store_that_goes_back_in_time_is_noticed_and_named(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna:
        shelf = await peers.join(tmp_path, "shelf", peers.make_ticket(anna, "store"))
        async with running(shelf, peers.address_of(anna)):
            write_file(anna, b"old", b"text")
            await peers.converged(anna, shelf)
        shelf.close()
        copy = {path: path.read_bytes() for path in shelf.state.store.iterdir()}
        async with running(peers.open_again(tmp_path, "shelf"), peers.address_of(anna)) as shelf:
            write_file(anna, b"new", b"text")
            await peers.converged(anna, shelf)
            known = shelf.store.replica
            await until(
                lambda: anna.store.peer(known).cursor == shelf.store.log.durable_lseq, within_s=20
            )
        shelf.close()
        for path, data in copy.items():
            path.write_bytes(data)
        ben = await peers.join(tmp_path, "ben", peers.make_ticket(anna))
        async with running(ben, peers.address_of(anna)):
            await peers.converged(anna, ben)
            shelf = peers.open_again(tmp_path, "shelf")
            async with running(shelf, peers.address_of(anna)):
                await until(lambda: any("it lacked" in text for text in told(anna)))
                await peers.converged(anna, ben, shelf)
        ben.close()
        shelf.close()
    anna.close()


def test_sizes_say_little_where_a_member_stores_without_reading(tmp_path: Path) -> None:
    lengths = {padded_length(length) for length in range(1, 1 << 16)}
    assert len(lengths) < 400
    for length in range(1, 1 << 16):
        assert length <= padded_length(length) <= length * 1.12 + 1
    anna = peers.founder(tmp_path)
    anna.keyring.pads = True
    sizes = set()
    for extra in range(200):
        _, sealed = anna.keyring.seal_chunk(b"x" * (10_000 + extra))
        assert anna.keyring.open_chunk(sealed) == b"x" * (10_000 + extra)
        sizes.add(len(sealed))
    assert len(sizes) <= 2
    anna.close()


async def test_padding_begins_when_a_store_joins(tmp_path: Path) -> None:
    async with running(peers.founder(tmp_path)) as anna:
        assert not anna.keyring.pads
        shelf = await peers.join(tmp_path, "shelf", peers.make_ticket(anna, "store"))
        assert anna.keyring.pads
        write_file(anna, b"file", b"text")
        anna.store.commit(anna.clock.now_ns())
        assert decode_header(envelopes(anna)[-1].encode()).epoch == anna.keyring.epoch
        assert read_file(anna, b"file") == b"text"
        shelf.close()
    anna.close()
