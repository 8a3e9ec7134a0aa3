"""Merge and view over writes that no honest replica makes: the laws hold for any bytes at all."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from piperfs.core.ids import ORPHANS, InodeId, LinkId, OperationId, ReplicaId, is_directory
from piperfs.core.merge import insert, is_covered, merge
from piperfs.core.record import (
    AttributesBody,
    Birth,
    ContentBody,
    Field,
    Head,
    Kind,
    LinkBody,
    PreviousPlace,
    Stamp,
    Times,
    XattrBody,
    xattr_key,
)
from piperfs.core.resolve import conflict_copies, current_content
from piperfs.core.view import view

ROOT = InodeId(b"d" + b"r" * 15)
DIRECTORIES = [InodeId(b"d" + bytes((n,)) * 15) for n in range(6)]
FILES = [InodeId(b"f" + bytes((n,)) * 15) for n in range(3)] + [InodeId(b"l" + b"s" * 15)]
LINKS = [LinkId(b"L" + bytes((n,)) * 15) for n in range(4)]
REPLICAS = [ReplicaId(bytes((n,)) * 16) for n in range(3)]

small = st.integers(0, 4)
replicas = st.sampled_from(REPLICAS)
stamps = st.builds(Stamp, small, replicas)
parents = st.sampled_from([ROOT, ORPHANS, *DIRECTORIES])
names = st.sampled_from([b"a", b"a.txt", b"a.conflict-19700101-aaaaaa-0000", b"\xff" * 255])
births = st.builds(Birth, st.just(0o644), st.just("o"), st.just("g"), replicas)
previous = st.lists(st.builds(PreviousPlace, parents, stamps), max_size=2).map(tuple)
vectors = st.dictionaries(replicas, st.integers(1, 4), max_size=3)


@st.composite
def link_writes(draw):
    is_dir = draw(st.booleans())
    target = draw(st.sampled_from(DIRECTORIES if is_dir else FILES))
    key = target if is_dir else draw(st.sampled_from(LINKS))
    body = LinkBody(
        draw(st.booleans()), draw(parents), draw(names), target, draw(stamps), draw(previous),
        draw(births) if is_dir else None,
    )  # fmt: skip
    return (Kind.LINK, key), body


@st.composite
def content_writes(draw):
    body = ContentBody(
        draw(st.booleans()), 0, 7, draw(births), target=draw(st.sampled_from([b"x", b"y", b"z"])),
        links_seen=draw(st.dictionaries(st.sampled_from(LINKS), vectors, max_size=2)),
    )  # fmt: skip
    return (Kind.CONTENT, draw(st.sampled_from(FILES))), body


@st.composite
def attribute_writes(draw):
    inode = draw(st.sampled_from([ROOT, *DIRECTORIES, *FILES]))
    if draw(st.booleans()):
        field = st.none() | st.builds(Field, st.just(0o600), stamps)
        times = st.none() | st.builds(Times, small, stamps, replicas, small)
        return (Kind.ATTRIBUTES, inode), AttributesBody(mode=draw(field), times=draw(times))
    name = draw(st.sampled_from([b"user.a", b"user.b"]))
    body = XattrBody(inode, name, draw(st.none() | st.just(b"v")))
    return (Kind.XATTR, xattr_key(inode, name)), body


@st.composite
def writes(draw):
    """A write with any vector: equal dots, claims of things never seen, anything."""
    key, body = draw(st.one_of(link_writes(), content_writes(), attribute_writes()))
    replica, seq = draw(replicas), draw(st.integers(1, 4))
    vector = {**draw(vectors), replica: seq}
    identity = OperationId(draw(st.binary(min_size=1, max_size=1)) * 32)
    return key, Head(replica, seq, draw(small), vector, (), body, identity)


def state_of(family):
    records = {}
    for key, write in family:
        records[key] = insert(records.get(key, ()), write)
    return records


def as_sets(records):
    return {key: {(h.replica, h.seq, h.operation) for h in heads} for key, heads in records.items()}


hostile = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


def distinct(family):
    """An operation id stands for one write of a record, as the hash it is; no two may share it."""
    seen = {}
    return [w for w in family if seen.setdefault((w[0], w[1].operation), w) is w]


@hostile
@given(st.lists(writes(), max_size=25), st.data())
def test_merge_does_not_depend_on_order_or_grouping(family, data):
    family = distinct(family)
    shuffled = data.draw(st.permutations(family))
    assert as_sets(state_of(shuffled)) == as_sets(state_of(family))
    cut = data.draw(st.integers(0, len(family)))
    left, right = state_of(family[:cut]), state_of(family[cut:])
    for key in left.keys() | right.keys():
        one, other = left.get(key, ()), right.get(key, ())
        joined = merge(one, other)
        assert joined == merge(other, one) == merge(joined, one) == merge(joined, joined)
        assert joined == state_of(family)[key]


@hostile
@given(st.lists(writes(), max_size=25))
def test_heads_cover_everything_and_not_each_other(family):
    family = distinct(family)
    records = state_of(family)
    for key, write in family:
        heads = records[key]
        assert any(write is head or is_covered(write, head) for head in heads)
    for heads in records.values():
        assert not any(is_covered(one, other) for one in heads for other in heads)


@hostile
@given(st.lists(writes(), max_size=40), st.data())
def test_any_records_mean_one_tree(family, data):
    family = distinct(family)
    tree = view(state_of(family), ROOT)
    assert tree == view(state_of(data.draw(st.permutations(family))), ROOT)
    tops = [ROOT] + ([ORPHANS] if ORPHANS in tree.folders else [])
    met = [item.inode for top in tops for item in tree.paths(top).values()]
    folders = [inode for inode in met if is_directory(inode)]
    assert len(folders) == len(set(folders)), "a directory hangs in one place"
    assert {*folders, *tops} == tree.folders.keys(), "every folder is reached"


@hostile
@given(st.lists(writes(), max_size=40))
def test_every_content_that_shows_somewhere_is_shown_whole(family):
    records = state_of(distinct(family))
    tree = view(records, ROOT)
    tops = [ROOT] + ([ORPHANS] if ORPHANS in tree.folders else [])
    shown = [item for top in tops for item in tree.paths(top).values()]
    for inode in FILES:
        heads = records.get((Kind.CONTENT, inode), ())
        if inode not in tree.facts or not heads or not current_content(heads).body.alive:
            continue
        if not tree.facts[inode].links:
            continue
        versions = {item.version for item in shown if inode in (item.inode, item.copy_of)}
        assert len(versions) >= 1 + len(conflict_copies(heads))


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1 << 30))
def test_two_thousand_heads_of_one_name(seed):
    records = {}
    for n in range(2000):
        replica = ReplicaId(bytes((n % 256, n // 256, seed % 256)) + b"\0" * 13)
        operation = OperationId(n.to_bytes(32, "big"))
        body = ContentBody(True, 0, n, Birth(0o644, "", ""), target=b"%d" % n)
        head = Head(replica, 1, n, {replica: 1}, (), body, operation)
        key = (Kind.CONTENT, FILES[0])
        records.setdefault(key, []).append(head)
    link = LinkBody(True, ROOT, b"f", FILES[0], Stamp(0, REPLICAS[0]))
    records[Kind.LINK, LINKS[0]] = [Head(REPLICAS[0], 1, 0, {REPLICAS[0]: 1}, (), link, b"o" * 32)]
    tree = view(records, ROOT)
    assert len(tree.paths()) == 2000
    assert len({item.version for item in tree.paths().values()}) == 2000


def test_a_thousand_directories_in_each_other_end_as_a_tree():
    chain = [InodeId(b"d" + n.to_bytes(15, "big")) for n in range(1000)]
    records = {}
    for n, inode in enumerate(chain):
        body = LinkBody(
            True, chain[(n + 1) % len(chain)], b"d", inode, Stamp(n, REPLICAS[0]), (),
            Birth(0o755, "", ""),
        )  # fmt: skip
        head = Head(REPLICAS[0], n + 1, n, {REPLICAS[0]: n + 1}, (), body, b"o" * 32)
        records[Kind.LINK, LinkId(inode)] = [head]
    tree = view(records, ROOT)
    assert len(tree.paths(ORPHANS)) == 1000
