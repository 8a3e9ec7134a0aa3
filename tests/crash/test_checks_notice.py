"""The checks of `tools/crash` notice broken promises: checks that cannot fail prove nothing."""

import os
import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from crashing.recording import Flush, Write, record
from crashing.replay import Checker
from crashing.verify import BrokenPromiseError, File, History, Step, verify


def history(root: Path, *contents: bytes, promised: int = 0, first: int = 1) -> History:
    """A writer that saved one file again and again, each time for ten ticks."""
    root.mkdir()
    steps = []
    for n, content in enumerate(contents):
        begin = first + 20 * n
        steps.append(Step("save", begin, {"f": File(content)}, end=begin + 10))
    return History(root, steps, promised)


def save(root: Path, content: bytes) -> None:
    (root / "f").write_bytes(content)
    os.chmod(root / "f", 0o644)


def test_what_came_after_the_last_fsync_may_be_lost(tmp_path):
    writer = history(tmp_path / "w", b"1", b"2", b"3", promised=15)
    for kept in (b"1", b"2", b"3"):
        save(writer.root, kept)
        verify([writer])


def test_what_an_fsync_of_anybody_covered_may_not(tmp_path):
    one = history(tmp_path / "one", b"1", b"2")
    other = history(tmp_path / "other", b"x", promised=35, first=3)
    save(one.root, b"1")
    save(other.root, b"x")
    with pytest.raises(BrokenPromiseError, match="nothing explains"):
        verify([one, other])


def test_what_came_later_may_not_survive_what_came_before(tmp_path):
    one = history(tmp_path / "one", b"1")
    other = history(tmp_path / "other", b"x", first=15)
    save(other.root, b"x")
    with pytest.raises(BrokenPromiseError, match="nothing explains"):
        verify([one, other])


def test_a_step_that_writes_and_renames_may_end_in_between(tmp_path):
    writer = History(tmp_path)
    before, after = {"new": File(b""), "f": File(b"old")}, {"f": File(b"longer")}
    writer.steps = [
        Step("create", 1, before, end=2),
        Step("write and rename", 3, after, "new", b"longer", end=4),
    ]
    save(tmp_path, b"old")
    for part in (b"", b"long", b"longer"):
        (tmp_path / "new").write_bytes(part)
        (tmp_path / "new").chmod(0o644)
        verify([writer])
    (tmp_path / "new").write_bytes(b"other")
    with pytest.raises(BrokenPromiseError, match="no such tree"):
        verify([writer])


def test_a_tree_that_never_was_is_noticed(tmp_path):
    writer = history(tmp_path / "w", b"1", b"2")
    save(writer.root, b"12")
    with pytest.raises(BrokenPromiseError, match="no such tree"):
        verify([writer])


def test_a_store_that_forgets_to_flush_is_noticed(tmp_path):
    events = record(tmp_path, 1, 20)
    assert any(isinstance(event, Flush) for event in events)
    lazy = [
        Write(event.offset, event.data, durable=False) if isinstance(event, Write) else event
        for event in events
        if not isinstance(event, Flush) or event is events[2]
    ]
    with pytest.raises(BrokenPromiseError):
        Checker(tmp_path / "state", lazy).check(300, random.Random(1))
