"""Wrong ways to do it, each plausible once, and the oracle that tells it from the right one.

Every scenario must pass with the code as it is and fail with its mutant. A scenario that a mutant
survives proves nothing about the code either.
"""

import inspect
import textwrap

import pytest
from msgspec.structs import replace

from piperfs.core import merge, names, resolve
from piperfs.core.ids import OperationId, ReplicaId
from piperfs.core.merge import insert
from piperfs.core.operation import decode as remote_decode
from piperfs.core.record import ContentBody, Head, Kind
from piperfs.core.version_vector import join
from piperfs.fs import conflicts
from piperfs.fs.files import Files
from piperfs.store import local, remote
from piperfs.store.change import Pin
from piperfs.store.local import LocalWriter
from piperfs.store.oplog import OperationLog
from piperfs.store.remote import RemoteWriter
from tests.support.judging import HERE, START_S, Group
from tests.support.stores import TestClock

# Scenarios


def both_write():
    group = Group()
    a, b = group.people
    a.write("f", b"base")
    group.meet()
    a.write("f", b"from a")
    b.write("f", b"from b")
    return group.judge()


def edit_and_delete():
    group = Group()
    a, b = group.people
    a.write("f", b"base")
    group.meet()
    a.write("f", b"edit")
    b.unlink("f")
    return group.judge()


def own_loser_is_overwritten():
    """A's version lost; A then edits what is shown, which is B's."""
    group = Group()
    a, b = group.people
    a.write("f", b"base")
    group.meet()
    a.write("f", b"a lost")
    b.write("f", b"b won")
    group.meet()
    a.computer.clock.ns += 3600 * 10**9
    a.write("f", b"a again")
    return group.judge()


def news_while_a_file_is_open():
    group = Group()
    a, b = group.people
    a.write("f", b"base")
    group.meet()
    fh = a.computer.open("f")
    b.write("f", b"news")
    group.meet()
    a.computer.fs.write(fh, 0, b"made from base")
    a.computer.close(fh)
    group.ledger.write(b"base", b"made from base")
    return group.judge()


def conflicted_file_is_deleted():
    group = Group()
    both = group.people
    both[0].write("f", b"base")
    group.meet()
    for person in both:
        person.write("f", person.say("f"))
    group.meet()
    both[0].unlink("f")
    return group.judge()


def crash_while_a_commit_runs():
    """What a peer heard must not be un-said; what nobody heard may be lost with the crash."""
    group = Group()
    a, b = group.people
    a.write("f", b"base")
    group.meet()
    store = a.computer.store
    a.computer.write("f", b"not yet durable")
    store.freeze(a.computer.clock())
    told = [raw for _, raw in store.log.after(0, 1 << 40)]
    operations = [remote_decode(raw, a.computer.keyring.unseal_bodies) for raw in told]
    b.computer.store.apply_remote(operations, b.computer.clock())
    for chunk in b.computer.store.chunks.wanted(10):
        b.computer.store.chunks.put(chunk, store.chunks.get(chunk))
    group.ledger.written |= b.visible()
    a.computer.start()
    a.write("f", b"after the crash")
    return group.judge()


def restored_from_an_old_copy():
    group = Group()
    a, _ = group.people
    a.write("f", b"base")
    group.meet()
    old = a.computer.engine.snapshot()
    a.write("g", b"after the backup")
    group.meet()
    a.computer.engine, a.computer.clock = old, TestClock(START_S + 3600)
    a.computer.start()
    a.write("h", b"after the restore")
    return group.judge()


def three_writes_with_a_forged_vector():
    """The third claims to know the second, and not the first, which the second knows."""
    r1, r2, r3 = (ReplicaId(bytes((n,)) * 16) for n in (1, 2, 3))
    body = ContentBody(True, 0, 0, None)
    one = Head(r1, 1, 1, {r1: 1}, (), body, OperationId(b"1" * 32))
    two = Head(r2, 1, 2, {r1: 1, r2: 1}, (), body, OperationId(b"2" * 32))
    three = Head(r3, 1, 3, {r2: 1, r3: 1}, (), body, OperationId(b"3" * 32))
    left = insert(insert(insert((), one), two), three)
    right = insert(insert(insert((), two), three), one)
    assert left == right, "O1: the order decides"


# Mutants


def origin_merge(monkeypatch):
    """The founding text's Merge: the receiver's value beside the joined clock."""

    def keep_mine(self, operation, write, released):
        before = self._parts.records.heads(write.kind, write.key)
        if not before or write.kind is not Kind.CONTENT:
            return right(self, operation, write, released)
        clock = join([before[0].vector, operation.head(write).vector])
        self._parts.records.put(write.kind, write.key, (replace(before[0], vector=clock),))
        return False

    right = RemoteWriter._merge
    monkeypatch.setattr(RemoteWriter, "_merge", keep_mine)


def last_writer_wins(monkeypatch):
    """One version a file: the newest."""

    def newest(heads, write):
        merged = insert(heads, write)
        return merged[:1] if isinstance(write.body, ContentBody) else merged

    monkeypatch.setattr(remote, "insert", newest)


def dot_in_context(monkeypatch):
    """A write is old if its dot lies inside another's vector."""
    inside = lambda w, by: w is not by and by.vector.get(w.replica, 0) >= w.seq
    monkeypatch.setattr(merge, "is_covered", inside)


def extend_the_opened_branch(monkeypatch):
    """A save extends the version that was shown and forgets the others."""
    shown = lambda self, inode: self._pins.setdefault(
        inode, Pin(inode, (resolve.current_content(self._parts.records.contents(inode)),))
    )
    monkeypatch.setattr(LocalWriter, "pin", shown)
    monkeypatch.setattr(conflicts, "superseded_unseen", lambda store, pin: [])


def no_assertions(monkeypatch):
    """What is left when asserts are compiled away."""
    monkeypatch.setattr(LocalWriter, "_put", altered(LocalWriter._put, optimize=1))


def commit_on_current_heads(monkeypatch):
    """A save supersedes whatever is there by then."""
    right = Files.put_extents
    unpinned = lambda self, node, extents, mtime_ns, pin: right(self, node, extents, mtime_ns, None)
    monkeypatch.setattr(Files, "put_extents", unpinned)


def delete_wins(monkeypatch):
    """A deletion anywhere hides the file."""
    right = resolve.shown_links
    hide = lambda contents, links: (
        [] if any(not head.body.alive for head in contents) else right(contents, links)
    )
    monkeypatch.setattr(resolve, "shown_links", hide)


def local_date_in_names(monkeypatch):
    """Conflict names with the date where the reader lives."""
    monkeypatch.setattr(names, "_utc_day", lambda hlc: f"2026010{HERE[0]}")


def forget_losers_on_delete(monkeypatch):
    """Deleting a conflicted file deletes the versions beside it."""
    monkeypatch.setattr(conflicts, "materialise", lambda store, inode: [])


def replicate_before_durable(monkeypatch):
    """Peers hear of operations that no disk holds yet."""

    def after(self, lseq, bytes_max):
        rows = self._tables.envelope.scan((lseq + 1).to_bytes(8, "big"), b"\xff" * 9)
        return [(int.from_bytes(key, "big"), envelope.encode()) for key, envelope in rows]

    monkeypatch.setattr(OperationLog, "after", after)


def no_sequence_floor(monkeypatch):
    """Numbers go on from whatever the store remembers."""
    floor = "max(self.last_seq + 1, now_ns // 1_000_000)"
    counted = altered(LocalWriter._publish, (floor, "self.last_seq + 1"))
    monkeypatch.setattr(LocalWriter, "_publish", counted)


def altered(function, change=None, optimize=0):
    """The same function with other words in its source, or without its assertions."""
    source = textwrap.dedent(inspect.getsource(function))
    if change is not None:
        assert change[0] in source
        source = source.replace(*change)
    scope = dict(vars(local))
    exec(compile(source, "mutant", "exec", optimize=optimize), scope)
    return scope[function.__name__]


MUTANTS = [
    (both_write, [origin_merge], "O1"),
    (both_write, [last_writer_wins], "O3"),
    (three_writes_with_a_forged_vector, [dot_in_context], "O1"),
    (own_loser_is_overwritten, [extend_the_opened_branch], "covers only what it knows"),
    (own_loser_is_overwritten, [extend_the_opened_branch, no_assertions], "O3"),
    (news_while_a_file_is_open, [commit_on_current_heads], "O3"),
    (edit_and_delete, [delete_wins], "O3"),
    (both_write, [local_date_in_names], "O1"),
    (conflicted_file_is_deleted, [forget_losers_on_delete], "O3"),
    (crash_while_a_commit_runs, [replicate_before_durable], "O3"),
    (restored_from_an_old_copy, [no_sequence_floor], "O7"),
]


@pytest.mark.parametrize("scenario", {row[0]: None for row in MUTANTS})
def test_the_code_passes(scenario):
    scenario()


@pytest.mark.parametrize(("scenario", "mutant", "oracle"), MUTANTS)
def test_the_mutant_is_killed(monkeypatch, scenario, mutant, oracle):
    for change in mutant:
        change(monkeypatch)
    with pytest.raises(AssertionError, match=oracle):
        scenario()


def test_the_founding_texts_merge_ends_with_equal_clocks_and_other_hashes():
    """As published: `Hash: f.Hash` beside the merged clock."""

    def origin(f, g):
        return {"hash": f["hash"], "clock": join([f["clock"], g["clock"]])}

    f, g = {"hash": "H1", "clock": {b"A": 1}}, {"hash": "H2", "clock": {b"B": 1}}
    left, right = origin(f, g), origin(g, f)
    assert left["clock"] == right["clock"]
    assert left["hash"] != right["hash"], "no later exchange can ever notice"
