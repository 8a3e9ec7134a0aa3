"""State directories: every wrong one is told apart in words, and none is ever damaged.

A second process is played by a second open file description, which is what flock looks at.
"""

import os
from pathlib import Path

import pytest

from piperfs.core.errors import ExitCode, UserError
from piperfs.core.ids import VolumeId
from piperfs.daemon.statedir import StateDirectory, VolumeFile

VOLUME = VolumeFile(VolumeId(bytes(range(32))), "photos")


def make(path: Path) -> None:
    state = StateDirectory.create(path)
    state.publish(VOLUME)
    state.close()


def refusal(path: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        StateDirectory.open(path)
    return caught.value


def test_a_made_volume_is_recognised(tmp_path: Path):
    make(tmp_path / "deep/volume")
    state = StateDirectory.open(tmp_path / "deep/volume")
    assert state.read() == VOLUME
    assert (tmp_path / "deep/volume").stat().st_mode & 0o777 == 0o700
    state.close()


def test_a_missing_directory_is_not_found(tmp_path: Path):
    error = refusal(tmp_path / "gone")
    assert error.code is ExitCode.NOT_FOUND
    assert "there is no volume" in str(error)
    assert not (tmp_path / "gone").exists()


def test_an_empty_directory_may_be_an_unmounted_disk(tmp_path: Path):
    error = refusal(tmp_path)
    assert error.code is ExitCode.NOT_FOUND
    assert "is its disk mounted" in str(error)
    assert not any(tmp_path.iterdir())


def test_a_foreign_directory_is_left_alone(tmp_path: Path):
    (tmp_path / "letter.txt").write_text("dear")
    assert "is not a volume" in str(refusal(tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(UserError, match="not empty"):
        StateDirectory.create(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format":1,"volume":"zz","label":"a"}', "\0"])
def test_a_mangled_volume_file_is_refused(tmp_path: Path, text: str):
    (tmp_path / "volume.json").write_text(text)
    error = refusal(tmp_path)
    assert error.code is ExitCode.REFUSED
    assert "nothing was changed" in str(error)


def test_a_newer_format_asks_for_an_update(tmp_path: Path):
    (tmp_path / "volume.json").write_text('{"format": 2}')
    assert "update it" in str(refusal(tmp_path))


def test_a_volume_in_use_names_the_process(tmp_path: Path):
    make(tmp_path / "volume")
    state = StateDirectory.open(tmp_path / "volume")
    error = refusal(tmp_path / "volume")
    assert error.code is ExitCode.REFUSED
    assert f"in use by process {os.getpid()}" in str(error)
    state.close()
    StateDirectory.open(tmp_path / "volume").close()


def test_a_volume_is_never_made_twice(tmp_path: Path):
    make(tmp_path / "volume")
    with pytest.raises(UserError, match="is a volume already"):
        StateDirectory.create(tmp_path / "volume")


def test_a_failed_creation_leaves_nothing_behind(tmp_path: Path):
    state = StateDirectory.create(tmp_path / "volume")
    (state.path / "keys").mkdir()
    state.discard()
    assert not (tmp_path / "volume").exists()
