"""An operation that claims to know others' writes takes effect once these are shown to exist."""

from pathlib import Path

import msgspec
import pytest

from piperfs.core.ids import InodeId
from piperfs.core.operation import decode_envelope, header_of
from piperfs.daemon import report
from piperfs.daemon.node import Node
from piperfs.protocol import messages as m
from piperfs.store.change import MoveLink, PutContent
from tests.replication.test_hostile_peers import STATE, ends, member
from tests.support import peers
from tests.support.forging import signed, version
from tests.support.peers import converged, names, read_file, running, until, write_file

pytestmark = pytest.mark.net
HOUR_MS = 3_600_000


def claim(ben: Node, anna: Node, inode: InodeId, ahead_ms: int) -> bytes:
    """Ben's version of Anna's file, said to know what she will write."""
    known = {anna.store.replica: anna.store.last_seq + ahead_ms}
    seq = ben.clock.now_ns() // 1_000_000
    return signed(ben, (version(ben, inode, b"mine", known),), seq)


def versions(node: Node, inode: InodeId) -> int:
    return len(node.store.contents(inode))


async def test_a_claim_ahead_of_its_author_waits_and_status_names_both(tmp_path: Path) -> None:
    async with member(tmp_path) as (anna, ben, channel):
        inode = write_file(anna, b"f", b"text")
        await anna.committer.commit()
        ahead = claim(ben, anna, inode, HOUR_MS)
        channel.send(STATE)
        channel.send(m.Operations((ahead,), 1))
        await channel.flush()
        await until(lambda: len(anna.store.waiting) == 1)
        assert not anna.store.log.has(decode_envelope(ahead).id)
        waiting = report.status(anna).waiting
        reasons = {(each.what, each.on) for each in waiting if "has shown" in each.reason}
        assert reasons == {("1 operations of ben", "ben")}
        write_file(anna, b"g", b"goes on")
        await anna.committer.commit()
        assert read_file(anna, b"f") == b"text"


async def test_what_waited_takes_effect_when_its_author_has_counted_as_far(tmp_path: Path) -> None:
    async with member(tmp_path) as (anna, ben, channel):
        inode = write_file(anna, b"f", b"text")
        await anna.committer.commit()
        ahead = claim(ben, anna, inode, 1)
        channel.send(STATE)
        channel.send(m.Operations((ahead,), 1))
        await channel.flush()
        await until(lambda: len(anna.store.waiting) == 1)
        write_file(anna, b"g", b"text")
        await anna.committer.commit()
        assert not anna.store.waiting
        assert versions(anna, inode) == 1
        assert anna.store.log.has(decode_envelope(ahead).id)


async def test_a_forged_proof_ends_the_connection(tmp_path: Path) -> None:
    async with member(tmp_path) as (anna, ben, channel):
        inode = write_file(anna, b"f", b"text")
        await anna.committer.commit()
        seq = anna.store.last_seq + HOUR_MS
        forged = signed(ben, (version(ben, inode, b"", {}),), seq, author=anna.store.replica)
        channel.send(STATE)
        channel.send(m.Authors((forged,)))
        await channel.flush()
        await ends(channel, within_s=3)
        assert anna.store.authors.highest(anna.store.replica) < seq


async def test_a_newcomer_is_shown_what_it_never_gets(tmp_path: Path) -> None:
    """Nothing of Ben's is alive any more, and he is away; Carl still believes Anna."""
    async with running(peers.founder(tmp_path)) as anna:
        ben = await peers.join(tmp_path, "ben", peers.make_ticket(anna))
        async with running(ben, peers.address_of(anna)):
            inode = write_file(ben, b"f", b"text")
            await converged(anna, ben)
        ben.close()
        take_over(anna, inode)
        await anna.committer.commit()
        live = anna.store.log.after_with_ids(0, 1 << 20)
        assert ben.store.replica not in {header_of(envelope).replica for _, _, envelope in live}
        carl = await peers.join(tmp_path, "carl", peers.make_ticket(anna))
        async with running(carl, peers.address_of(anna)):
            await until(lambda: names(carl) == {b"g"})
            assert not carl.store.waiting
            await converged(anna, carl)
        carl.close()
    anna.close()


def take_over(node: Node, inode: InodeId) -> None:
    """Give a file another name and another version, so that nothing of its author is alive."""
    found = node.store.lookup(node.store.root, b"f")
    assert found is not None
    assert found.place is not None
    head = node.store.contents(inode)[0]
    body = msgspec.structs.replace(head.body, mtime_ns=1)
    move = MoveLink(found.place.link, node.store.root, b"g")
    node.store.apply_local([move, PutContent(inode, body, head.refs)], node.clock.now_ns())
