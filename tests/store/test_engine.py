"""One contract for both engines: ordered tables, atomic commits, reads of the newest commit."""

import pytest

from piperfs.store.engine import LmdbEngine, MemoryEngine

TABLES = ("one", "two")


@pytest.fixture(params=["lmdb", "memory"])
def engine(request, tmp_path):
    engine = (
        LmdbEngine(tmp_path / "store", TABLES) if request.param == "lmdb" else MemoryEngine(TABLES)
    )
    yield engine
    engine.close()


def commit(engine, **tables):
    engine.commit(tables)
    engine.refresh()


def test_committed_values_are_read_back(engine):
    commit(engine, one={b"k": b"v"}, two={b"k": b"w"})
    assert (engine.get("one", b"k"), engine.get("two", b"k")) == (b"v", b"w")
    assert engine.get_anywhere("one", b"k") == b"v"
    assert engine.has("one", b"k")
    assert not engine.has("one", b"x")
    assert engine.get("one", b"x") is None


def test_none_deletes_and_absent_keys_may_be_deleted(engine):
    commit(engine, one={b"a": b"1", b"b": b"2"})
    commit(engine, one={b"a": None, b"zz": None})
    assert engine.get("one", b"a") is None
    assert engine.count("one") == 1


def test_scan_is_ordered_and_half_open(engine):
    commit(engine, one={bytes([n]): b"%d" % n for n in (5, 1, 3, 2, 4)})
    assert [key for key, _ in engine.scan("one", b"\x02", b"\x05")] == [b"\x02", b"\x03", b"\x04"]
    assert list(engine.scan("one", b"\x09", b"\x0a")) == []
    assert list(engine.scan("two", b"", b"\xff")) == []


def test_reads_see_a_commit_when_they_are_refreshed(engine):
    commit(engine, one={b"k": b"v"})
    engine.commit({"one": {b"k": b"new", b"l": b"x"}})
    assert (engine.get("one", b"k"), engine.has("one", b"l")) == (b"v", False)
    assert [key for key, _ in engine.scan("one", b"", b"z")] == [b"k"]
    assert engine.count("one") == 1
    assert engine.get_anywhere("one", b"k") == b"new"
    assert engine.get_anywhere("one", b"l") == b"x"
    engine.refresh()
    assert (engine.get("one", b"k"), engine.count("one")) == (b"new", 2)


def test_a_snapshot_is_the_newest_commit_and_stays_as_it_is(engine):
    commit(engine, one={b"k": b"v"})
    engine.commit({"one": {b"k": b"new"}})
    snapshot = engine.snapshot()
    assert snapshot.get("one", b"k") == b"new"
    engine.refresh()
    commit(engine, one={b"k": b"newer", b"l": b"x"})
    assert snapshot.get("one", b"k") == b"new"
    assert not snapshot.has("one", b"l")
    snapshot.close()


def test_large_values_survive(engine):
    value = bytes(range(256)) * 4096
    commit(engine, one={b"big": value})
    assert engine.get("one", b"big") == value


def test_values_survive_closing_the_file(tmp_path):
    engine = LmdbEngine(tmp_path / "store", TABLES)
    engine.commit({"one": {b"k": b"v"}})
    engine.close()
    again = LmdbEngine(tmp_path / "store", TABLES)
    assert again.get("one", b"k") == b"v"
    again.close()


def test_keys_and_sizes_are_told_without_the_values(engine):
    commit(engine, one={b"a": b"1" * 9000, b"b": b"2", b"c": b"3"})
    assert list(engine.keys("one", b"a", b"c")) == [b"a", b"b"]
    assert list(engine.keys("two", b"", b"z")) == []
    assert engine.table_bytes("one") > 9000 > engine.table_bytes("two")
