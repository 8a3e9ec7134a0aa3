"""Collection frees what no version needs, and never what one does."""

import pytest
from blake3 import blake3

from piperfs.core.ids import ChunkId
from piperfs.core.record import ContentBody
from piperfs.store.change import DeleteContent, MoveLink, PutContent
from piperfs.store.collector import DAY_NS, RETENTION, Collector, Reason
from tests.store.test_withdrawal import unseal
from tests.support.stores import SECOND, Node, TestClock, exchange


@pytest.fixture
def node():
    return Node("alpha")


def save(node, file, data):
    chunk = ChunkId(blake3(data).digest())
    node.store.chunks.put(chunk, data)
    body = ContentBody(True, len(data), node.clock(), node.birth(), lengths=(len(data),))
    node.apply(PutContent(file, body, (chunk,)))
    node.commit()
    return chunk


def collect(node, in_use=()):
    collector = Collector(node.store)
    list(collector.steps(node.clock(), lambda: in_use))
    node.commit()
    return collector


def test_current_and_open_chunks_stay(node):
    file = node.create(node.root, b"f")
    current = save(node, file, b"current")
    loose, held = (ChunkId(blake3(data).digest()) for data in (b"loose", b"held"))
    node.store.chunks.put(loose, b"loose")
    node.store.chunks.put(held, b"held")
    node.commit()
    collector = collect(node, in_use=[(held, 0)])
    assert node.store.chunks.has(current)
    assert node.store.chunks.has(held)
    assert not node.store.chunks.has(loose)
    assert (collector.freed_chunks, collector.freed_bytes) == (1, 5)


def test_superseded_versions_stay_for_the_retention_time(node):
    file = node.create(node.root, b"f")
    versions = []
    for n in range(RETENTION.versions_min + 3):
        node.clock.ns += 60 * SECOND
        versions.append(save(node, file, b"version %d" % n))
    collect(node)
    assert all(map(node.store.chunks.has, versions))
    node.clock.ns += 40 * DAY_NS
    collect(node)
    present = [node.store.chunks.has(chunk) for chunk in versions]
    assert present == [False, False] + [True] * (RETENTION.versions_min + 1)


def test_a_deleted_file_is_kept_for_the_retention_time(node):
    file = node.create(node.root, b"f")
    chunk = save(node, file, b"deleted")
    node.apply(DeleteContent(file))
    node.commit()
    collect(node)
    assert node.store.chunks.has(chunk)
    node.clock.ns += 40 * DAY_NS
    collect(node)
    assert not node.store.chunks.has(chunk)


def test_a_chunk_referenced_while_collecting_stays(node):
    loose = ChunkId(blake3(b"loose").digest())
    node.store.chunks.put(loose, b"loose")
    node.store.chunks.remember_digest(b"digest" * 5 + b"!!", loose)
    node.commit()
    steps = Collector(node.store).steps(node.clock(), list)
    next(steps)
    assert node.store.chunks.known_digest(b"digest" * 5 + b"!!") == loose
    list(steps)
    assert node.store.chunks.has(loose)


def test_a_write_that_is_published_while_collecting_keeps_its_chunk(node):
    file = node.create(node.root, b"f")
    node.commit()
    chunk = ChunkId(blake3(b"new").digest())
    node.store.chunks.put(chunk, b"new")
    body = ContentBody(True, 3, node.clock(), node.birth(), lengths=(3,))
    node.apply(PutContent(file, body, (chunk,)))
    steps = Collector(node.store).steps(node.clock(), list)
    next(steps)
    node.commit()
    list(steps)
    assert node.store.chunks.has(chunk)


def test_commits_go_on_between_the_steps_and_wants_that_nothing_needs_end(node):
    file = node.create(node.root, b"f")
    for number in range(450):
        node.store.chunks.put(ChunkId(blake3(b"%d" % number).digest()), b"%d" % number)
    current = save(node, file, b"current")
    absent = ChunkId(b"gone" * 8)
    node.store.chunks.want(absent, 0)
    collector = Collector(node.store)
    for number, _ in enumerate(collector.steps(node.clock(), list)):
        node.create(node.root, b"g%d" % number)
        node.commit()
    assert collector.freed_chunks == 450
    assert node.store.chunks.has(current)
    assert not node.store.chunks.is_wanted(absent)


def test_versions_of_a_file_deleted_long_ago_go_too(node):
    file = node.create(node.root, b"f")
    versions = []
    for n in range(3):
        node.clock.ns += 60 * SECOND
        versions.append(save(node, file, b"version %d" % n))
    node.apply(DeleteContent(file))
    node.commit()
    collect(node)
    assert all(map(node.store.chunks.has, versions))
    node.clock.ns += 40 * DAY_NS
    collect(node)
    assert not any(map(node.store.chunks.has, versions))


def test_a_deleted_file_that_a_rename_kept_keeps_its_bytes():
    a, b = Node("alpha"), Node("beta", clock=TestClock(1_700_000_100))
    file = a.create(a.root, b"f")
    chunk = save(a, file, b"kept")
    b.receive(a.operations())
    a.apply(DeleteContent(file))
    b.apply(MoveLink(b.link_of(b.root, b"f"), b.root, b"g"))
    exchange(a, b)
    late = Node("gamma")
    late.receive(a.operations())
    for node in (a, b, late):
        node.store.chunks.put(chunk, b"kept")
        node.commit()
        node.clock.ns += 400 * DAY_NS
        collect(node)
        assert node.store.lookup(node.root, b"g") is not None
        assert node.store.chunks.has(chunk)


def test_a_kept_deleted_file_is_wanted_by_whoever_joins_later():
    a, b = Node("alpha"), Node("beta", clock=TestClock(1_700_000_100))
    file = a.create(a.root, b"f")
    chunk = save(a, file, b"kept")
    b.receive(a.operations())
    a.apply(DeleteContent(file))
    b.apply(MoveLink(b.link_of(b.root, b"f"), b.root, b"g"))
    exchange(a, b)
    for order in (1, -1):
        late = Node("gamma")
        late.receive(a.operations()[::order])
        assert late.store.chunks.wanted(10) == [chunk]


def test_it_tells_why_chunks_stay(node):
    file, other = node.create(node.root, b"f"), node.create(node.root, b"g")
    save(node, file, b"first")
    node.clock.ns += 60 * SECOND
    save(node, file, b"second")
    save(node, other, b"deleted")
    node.apply(DeleteContent(other))
    node.commit()
    held = ChunkId(blake3(b"held").digest())
    node.store.chunks.put(held, b"held")
    node.commit()
    kept = collect(node, [(held, 0)]).kept
    assert {reason.value: count for reason, count in kept.items() if count} == {
        "open": 1, "current": 1, "deleted": 1, "superseded": 1,
    }  # fmt: skip


def test_what_only_a_quick_save_needed_is_doubted_and_wanted_no_more():
    author, other = Node("alpha"), Node("beta", clock=TestClock(1_700_000_100))
    file = author.create(author.root, b"f")
    save(author, file, b"first")
    other.receive(author.operations())
    assert not other.store.chunks.is_doubtful
    last = save(author, file, b"second")
    other.receive(author.operations())
    assert other.store.chunks.want_count == 2
    assert other.store.chunks.is_doubtful
    collect(other)
    assert other.store.chunks.wanted(10) == [last]
    assert not other.store.chunks.is_doubtful


@pytest.mark.parametrize("victim", [0, 1])
def test_what_only_a_deleted_file_needed_is_wanted_no_more(victim):
    author, other = Node("alpha"), Node("beta", clock=TestClock(1_700_000_100))
    alike = sorted(author.create(author.root, name) for name in (b"a", b"b"))
    shared, _ = (save(author, file, b"in both") for file in alike)
    gone = author.create(author.root, b"gone")
    save(author, gone, b"nowhere else")
    other.receive(author.operations())
    assert other.store.chunks.want_count == 2
    author.apply(DeleteContent(gone), DeleteContent(alike[victim]))
    other.receive(author.operations())
    assert other.store.chunks.is_doubtful
    collect(other)
    assert other.store.chunks.wanted(10) == [shared]


def test_content_of_what_waits_for_the_clock_is_wanted_and_stays_while_it_waits(node):
    late = Node("late", clock=TestClock(node.clock() // SECOND + 10 * 365 * 86_400))
    chunk = save(late, late.create(late.root, b"late"), b"of another year")
    applied = node.store.apply_remote(late.operations(), node.clock(), late.replica)
    assert applied.ahead == len(late.operations())
    assert node.store.chunks.is_wanted(chunk)
    collect(node)
    assert node.store.chunks.is_wanted(chunk)
    node.store.chunks.put(chunk, late.store.chunks.get(chunk))
    node.commit()
    assert collect(node).kept[Reason.AHEAD] == 1
    assert node.store.chunks.has(chunk)
    node.store.ahead.drop(lambda _author, _seq: False)
    collect(node)
    assert not node.store.chunks.has(chunk)


def test_content_of_what_a_fork_holds_back_is_wanted_and_stays_while_it_is_held(node):
    carl, late = Node("carl"), Node("late")
    files = [carl.create(carl.root, name) for name in (b"f", b"g")]
    carl.commit()
    until = {carl.replica: carl.store.last_seq}
    here, absent = (save(carl, file, b"text of " + file) for file in files)
    node.receive(carl.operations())
    for each in (node, late):
        each.store.forks.limits = until
        each.store.withdraw(until, unseal, each.clock())
    late.receive(carl.operations())
    for each in (node, late):
        assert each.store.forks.held_count == 2
        each.store.chunks.put(here, carl.store.chunks.get(here))
        each.commit()
        assert collect(each).kept[Reason.HELD] == 1
        assert each.store.chunks.has(here)
        assert each.store.chunks.is_wanted(absent)
        each.store.forks.limits = {}
        each.store.release(carl.replica, until[carl.replica], unseal, each.clock())
        assert each.store.chunks.is_doubtful
        collect(each)
        assert not each.store.chunks.has(here)
        assert not each.store.chunks.want_count
