"""A copy of a state directory is told from the one that was made here."""

import shutil
from pathlib import Path

import pytest

from piperfs.daemon import origin
from piperfs.daemon.origin import is_copy, write_origin
from piperfs.daemon.repairing import repair
from tests.support import peers
from tests.support.peers import connected, names, running, until, write_file


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir()
    (path / "data").write_bytes(b"store")
    write_origin(path, path / "data")
    return path


def test_what_stays_in_its_place_or_is_moved_is_at_home(state: Path) -> None:
    assert not is_copy(state, state / "data")
    moved = state.rename(state.parent / "moved")
    assert not is_copy(moved, moved / "data")


def test_what_is_noted_already_costs_no_write(state: Path) -> None:
    """Each command opens the state; a disk that is full or slow must not keep it from that."""
    before = (state / origin.ORIGIN_FILE).stat()
    write_origin(state, state / "data")
    after = (state / origin.ORIGIN_FILE).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_copy_is_none(state: Path) -> None:
    copy = shutil.copytree(state, state.parent / "copy")
    assert is_copy(copy, copy / "data")


def test_another_computer_is_told(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (state / "another").write_text("machine")
    monkeypatch.setattr(origin, "MACHINE_ID", state / "another")
    assert is_copy(state, state / "data")


def test_without_a_word_of_its_origin_it_is_believed(state: Path) -> None:
    (state / origin.ORIGIN_FILE).write_text("nonsense")
    assert not is_copy(state, state / "data")
    (state / origin.ORIGIN_FILE).unlink()
    assert not is_copy(state, state / "data")


@pytest.mark.net
async def test_a_copy_meets_the_original_without_anybody_in_between(tmp_path: Path) -> None:
    """Also when the original knows nothing of what the copy builds on."""
    anna = peers.founder(tmp_path)
    anna.author(peers.invitation(anna))
    anna.store.commit(anna.clock.now_ns())
    anna.close()
    shutil.copytree(tmp_path / "anna", tmp_path / "copy")
    twin = peers.open_again(tmp_path, "copy")
    twin.author(peers.invitation(twin))
    twin.store.commit(twin.clock.now_ns())
    twin.close()
    shutil.copytree(tmp_path / "copy", tmp_path / "third")
    third, anna = peers.open_again(tmp_path, "third"), peers.open_again(tmp_path, "anna")
    before = anna.store.replica
    write_file(third, b"by the third", b"text")
    write_file(anna, b"by the first", b"text")
    async with running(anna), running(third, peers.address_of(anna)):
        await peers.converged(anna, third)
        await until(lambda: connected(anna) == connected(third) == 1)
        assert names(anna) == names(third) == {b"by the first", b"by the third"}
        chain = [member.succeeds for member in anna.members()]
        assert chain == [None, before, twin.store.replica]
        assert third.role == "admin"
    anna.close()
    third.close()


def test_a_removed_computer_stays_what_it_is(tmp_path: Path) -> None:
    anna = peers.founder(tmp_path)
    anna.close()
    shutil.copytree(tmp_path / "anna", tmp_path / "copy")
    twin = peers.open_again(tmp_path, "copy")
    first = anna.store.replica
    twin.remove_member(next(m for m in twin.members() if m.replica == first))
    assert [m.removed for m in twin.members()] == [True, False]
    twin.store.commit(twin.clock.now_ns())
    twin.close()


def test_a_repaired_store_is_at_home(tmp_path: Path) -> None:
    anna = peers.founder(tmp_path)
    [row] = anna.store.keys("operation")
    anna.store.tables.operation.delete(row)
    anna.store.commit(anna.clock.now_ns())
    assert repair(anna)
    anna.close()
    again = peers.open_again(tmp_path, "anna")
    assert again.store.replica == anna.store.replica
    again.close()
