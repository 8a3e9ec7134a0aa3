"""mount.piperfs as mount(8) calls it: flags in any order, and mount(8)'s exit codes.

The daemon is really started; the volume it is asked for does not exist, which is enough to see
that everything before that was understood.
"""

import subprocess
from pathlib import Path

import pytest

from piperfs.cli.mount_helper import MOUNT_FAILED, MOUNT_USAGE, run
from tests.support.volumes import PIPERFS


@pytest.mark.parametrize("arguments", [[], ["only"], ["a", "b", "c"], ["a", "b", "-Z"]])
def test_a_wrong_call_shows_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert run(arguments) == MOUNT_USAGE
    assert "usage: mount.piperfs VOLUME DIR" in capsys.readouterr().err


def test_a_faked_mount_looks_at_volume_and_options_and_mounts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    arguments = ["piperfs:x", "/nowhere", "-f", "-v", "-o"]
    assert run([*arguments, "rw"]) == MOUNT_FAILED
    assert "there is no volume" in capsys.readouterr().err
    subprocess.run([*PIPERFS, "init", "x"], check=True, timeout=60)
    assert run([*arguments, "rw"]) == 0
    assert run([*arguments, "-x"]) == MOUNT_USAGE
    assert "unknown option '-x'" in capsys.readouterr().err
    assert run([*arguments, "-x", "-s"]) == 0


def test_it_may_run_where_the_directory_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "lost").mkdir()
    monkeypatch.chdir(tmp_path / "lost")
    (tmp_path / "lost").rmdir()
    assert run([f"{tmp_path}/gone", str(tmp_path)]) == MOUNT_FAILED
    assert "there is no volume" in capsys.readouterr().err


def test_an_empty_directory_is_a_wrong_call(capsys: pytest.CaptureFixture[str]):
    assert run(["piperfs:x", ""]) == MOUNT_USAGE
    assert "the mount point is empty" in capsys.readouterr().err


def test_a_missing_volume_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code = run([f"{tmp_path}/gone", str(tmp_path), "-n", "-v", "-t", "piperfs", "-o", "rw,noatime"])
    assert code == MOUNT_FAILED
    assert capsys.readouterr().err == (
        f"piperfs: there is no volume at {tmp_path}/gone; "
        "make one with init or join, or mount its disk\n"
    )


def test_an_unknown_option_is_a_wrong_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run([f"{tmp_path}/gone", str(tmp_path), "-o", "discovry=off"]) == MOUNT_USAGE
    assert "did you mean 'discovery'" in capsys.readouterr().err
