"""The page reader sees what LMDB sees, and notices every kind of structural damage."""

import random

import pytest

from piperfs.store.engine import DATA_FILE, LmdbEngine
from piperfs.store.pages import PAGE_BYTES, check_file, rows_in
from piperfs.store.salvage import SalvageEngine

TABLES = ("one", "two")
ROWS = {b"%05d" % n: b"v" * (n % 900) for n in range(400)}
LARGE = bytes(range(250)) * 280


@pytest.fixture
def directory(tmp_path):
    engine = LmdbEngine(tmp_path / "store", TABLES)
    engine.commit({"one": ROWS, "two": {b"k": b"w"}})
    engine.commit({"one": dict.fromkeys(list(ROWS)[::3])})
    engine.commit({"one": {b"00001": b"last", b"large": LARGE}})
    engine.close()
    return tmp_path / "store"


def rows(engine):
    return {name: list(engine.scan(name, b"", b"\xff" * 9)) for name in TABLES}


def wipe(directory, number, data=bytes(PAGE_BYTES)):
    with (directory / DATA_FILE).open("r+b") as file:
        file.seek(number * PAGE_BYTES)
        file.write(data)


def test_it_reads_what_was_written(directory):
    salvage, real = SalvageEngine(directory, TABLES), LmdbEngine(directory, TABLES)
    assert salvage.damage == []
    assert rows(salvage) == rows(real)
    assert salvage.get("one", b"large") == LARGE
    assert salvage.count("one") == real.count("one")
    salvage.close()
    real.close()


def test_an_old_snapshot_is_sound_while_commits_go_on(tmp_path):
    engine = LmdbEngine(tmp_path / "store", TABLES)
    engine.commit({"one": ROWS})
    snapshot = engine.snapshot()
    engine.commit({"one": {b"x": b"y"}})
    assert check_file(tmp_path / "store" / DATA_FILE, snapshot.transaction) == []
    snapshot.close()
    engine.close()


def test_a_wiped_root_leaves_the_commit_before_it(directory):
    wipe(directory, 1)
    salvage = SalvageEngine(directory, TABLES)
    assert any("no root" in text for text in salvage.damage)
    assert salvage.get("one", b"00002") == b"vv"
    salvage.close()


def test_every_wiped_page_is_noticed_or_holds_no_key(directory):
    pages = (directory / DATA_FILE).stat().st_size // PAGE_BYTES
    raw = (directory / DATA_FILE).read_bytes()
    keys = keys_of(directory)
    for number in range(2, pages):
        wipe(directory, number, b"\xff" * PAGE_BYTES)
        assert check_file(directory / DATA_FILE) or keys_of(directory) == keys, number
        wipe(directory, number, raw[number * PAGE_BYTES : (number + 1) * PAGE_BYTES])


def keys_of(directory):
    engine = SalvageEngine(directory, TABLES)
    try:
        return {name: [key for key, _ in found] for name, found in rows(engine).items()}
    finally:
        engine.close()


def test_no_flipped_bit_breaks_the_reader(directory):
    rng = random.Random(5)
    raw = (directory / DATA_FILE).read_bytes()
    for _ in range(100):
        damaged = bytearray(raw)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(2 * PAGE_BYTES, len(raw))] ^= 1 << rng.randrange(8)
        (directory / DATA_FILE).write_bytes(damaged)
        engine = SalvageEngine(directory, TABLES)
        rows(engine)
        engine.close()


def test_a_file_that_lost_its_end_is_an_error_and_no_crash(directory):
    with (directory / DATA_FILE).open("r+b") as file:
        file.truncate(3 * PAGE_BYTES)
    assert check_file(directory / DATA_FILE)


def test_free_rows_are_those_that_the_next_commit_may_use(tmp_path):
    engine = LmdbEngine(tmp_path / "store", TABLES)
    engine.commit({"one": {b"%d" % n: LARGE for n in range(4)}})
    engine.refresh()
    large = len(LARGE) // PAGE_BYTES + 1
    assert max(engine.free_rows(), default=0) < large
    engine.commit({"one": {b"0": None, b"2": None}})
    engine.refresh()
    assert max(engine.free_rows(), default=0) < large  # the commit before is still read
    engine.commit({"two": {b"k": b"v"}})
    engine.refresh()
    assert max(engine.free_rows()) >= large
    before = engine.bytes_used()
    engine.commit({"one": {b"4": LARGE}})
    assert engine.bytes_used() == before
    engine.close()


def test_rows_are_counted_by_their_length():
    assert rows_in([]) == {}
    assert rows_in([3, 4, 5, 9, 11, 12]) == {3: 1, 1: 1, 2: 1}
