"""The consistency check finds every kind of damage, and a repair saves what is in order."""

import pytest
from blake3 import blake3

from piperfs.core.errors import StoreError
from piperfs.core.ids import ChunkId
from piperfs.core.record import ContentBody
from piperfs.store.change import DeleteContent, MoveLink, PutContent
from piperfs.store.check import Damage, check_store
from piperfs.store.engine import MemoryEngine
from piperfs.store.repair import Salvage, copy_facts, rebuild
from piperfs.store.schema import NAMES
from tests.support.stores import Node, exchange


def put_chunk(node, data):
    chunk = ChunkId(blake3(data).digest())
    node.store.chunks.put(chunk, data)
    return chunk


@pytest.fixture
def node():
    node = Node("alpha")
    folder = node.mkdir(node.root, b"d")
    for n in range(20):
        file = node.create(folder, b"f%d" % n)
        chunk = put_chunk(node, b"bytes of %d" % n)
        body = ContentBody(True, 10, node.clock(), node.birth(), lengths=(10,))
        node.apply(PutContent(file, body, (chunk,)))
    node.commit()
    return node


def flip(node, table, key):
    raw = bytearray(node.engine.get(table, key))
    raw[len(raw) // 2] ^= 1
    node.engine.damage(table, key, bytes(raw))


def test_a_sound_store_has_no_findings(node):
    assert list(check_store(node.store)) == []


@pytest.mark.parametrize("table", ["link", "content", "inode", "entry", "operation", "envelope"])
def test_one_flipped_bit_in_a_value_is_found(node, table):
    flip(node, table, node.store.keys(table)[0])
    assert Damage.VALUE in {finding.damage for finding in check_store(node.store)}


def test_a_flipped_bit_in_a_chunk_is_found_and_never_read(node):
    key = node.store.keys("chunk")[0]
    flip(node, "chunk", key)
    assert [f.damage for f in check_store(node.store)] == [Damage.CHUNK]
    assert node.store.chunks.get(key) is None
    assert node.store.chunks.is_wanted(key)


def test_wrong_counts_in_the_log_are_found(node):
    key = node.store.keys("bucket")[0]
    node.engine.damage("bucket", key, None)
    assert [f.damage for f in check_store(node.store)] == [Damage.BUCKET]


def test_a_repaired_store_is_whole_again_with_a_peer(node):
    other = Node("beta")
    exchange(node, other)
    before = node.tree()
    for table in ("content", "entry", "inode"):
        flip(node, table, node.store.keys(table)[3])
    lost = node.store.keys("envelope")[5]
    flip(node, "envelope", lost)
    salvage = Salvage()
    engine = MemoryEngine(NAMES)
    copy_facts(node.store, engine, salvage)
    engine.refresh()
    repaired = Node("alpha", engine)
    list(rebuild(node.store, repaired.store, lambda *parts: parts[2], 1, salvage))
    assert list(check_store(repaired.store)) == []
    assert (salvage.lost_operations, salvage.chunks) == (1, 20)
    assert repaired.store.last_seq == node.store.last_seq
    repaired.receive(other.operations())
    assert repaired.tree() == before
    assert repaired.store.digest() == other.store.digest()


def test_a_change_is_made_whole_beside_damaged_rows_of_the_log(node):
    """Else a rename over a file could fail when the old file is gone already."""
    file = node.create(node.root, b"f", b"before")
    node.commit()
    for key in node.store.keys("operation"):
        flip(node, "operation", key)
    node.write(file, b"after")
    node.commit()
    assert node.tree()[b"f"] == b"after"


def test_a_damaged_bucket_is_counted_anew_by_the_next_change_that_meets_it(node):
    file = node.create(node.root, b"f", b"before")
    node.commit()
    node.write(file, b"once")
    node.commit()
    (head,) = node.store.contents(file)
    bucket = head.operation[:2]
    flip(node, "bucket", bucket)
    node.write(file, b"twice")  # takes the place of that operation
    node.commit()
    assert node.store.tables.bucket.get(bucket).count == 0
    assert list(check_store(node.store)) == []


def test_replicas_can_be_compared_beside_damaged_buckets_and_rows(node):
    log = node.store.log
    first, last = b"\x01", b"\xf0"
    before, ids = log.fingerprint(first, last), log.ids(first, last, 1 << 20)
    for table in ("bucket", "operation"):
        for key in node.store.keys(table):
            flip(node, table, key)
    assert log.fingerprint(first, last) == before
    assert log.ids(first, last, 1 << 20) == ids


def test_half_of_a_change_never_reaches_the_disk(node, monkeypatch):
    """What is damaged is met before anything is changed, or else ends all writing."""
    one, two = (node.create(node.root, name, b"text") for name in (b"one", b"two"))
    node.commit()
    flip(node, "content", two)
    change = [MoveLink(node.link_of(node.root, b"one"), node.root, b"two"), DeleteContent(two)]
    with pytest.raises(StoreError):
        node.apply(*change)
    assert not node.store.is_failing
    node.commit()
    assert node.store.lookup(node.root, b"one").inode == one
    monkeypatch.setattr(type(node.store._parts.records), "heads", lambda *_: ())
    monkeypatch.setattr(node.store._local, "_put_change", damaged)
    with pytest.raises(StoreError):
        node.apply(*change)
    assert node.store.is_failing


def damaged(*_: object) -> None:
    raise StoreError("the store holds a damaged value")
