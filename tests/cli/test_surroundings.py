"""Commands in surroundings that are not what they should be: no home, no directory, a full disk.

Each ends with one line and the right exit code, or does what was asked where it still can.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.volumes import NOBODY, Replica, replicas, use_readable_python

pytestmark = [pytest.mark.net, pytest.mark.mount]
STRANGER = 54321  # a user that this computer does not know


@pytest.fixture(scope="module")
def anna(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with replicas(tmp_path_factory.mktemp("surroundings"), "anna") as (replica,):
        yield replica.init()


@pytest.fixture
def nobody(tmp_path: Path) -> Iterator[Replica]:
    """A replica of somebody who is not root."""
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o711)
    with replicas(tmp_path / "base", "ben") as (replica,):
        use_readable_python(replica)
        become = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
        replica.program = (*become, *replica.program)
        replica.environment |= {"HOME": str(replica.base)}
        for path in (replica.base, *replica.base.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        yield replica


def says(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """The exit code, and the one line that may be there."""
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("arguments", [("status", "./x"), ("history", "f"), ("umount", "x")])
def test_a_working_directory_that_is_gone_is_told(
    anna: Replica, tmp_path: Path, arguments: tuple[str, ...]
):
    code, line = says(run_in_a_lost_directory(anna, tmp_path, *arguments))
    assert code == 1
    assert "the working directory is gone" in line


def test_from_a_lost_directory_absolute_paths_can_be_mounted(anna: Replica, tmp_path: Path):
    quiet = ("-o", "listen=127.0.0.1:0,discovery=off")
    place = str(anna.mountpoint)
    mounted = run_in_a_lost_directory(anna, tmp_path, "mount", str(anna.state), place, *quiet)
    assert mounted.returncode == 0, mounted.stderr
    assert anna.is_mounted()
    done = run_in_a_lost_directory(anna, tmp_path, "umount", place)
    assert done.returncode == 0, done.stderr


def run_in_a_lost_directory(
    replica: Replica, tmp_path: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    lost = tmp_path / "lost"
    lost.mkdir()
    script = ("sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *replica.program, *arguments)
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        script, cwd=lost, env=replica.environment | {"PYTHONPATH": root}, text=True,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [("status",), ("members",), ("--help",)])
def test_an_answer_that_cannot_be_written_is_a_failure(anna: Replica, arguments: tuple[str, ...]):
    volume = () if arguments == ("--help",) else (str(anna.state),)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*anna.program, *arguments, *volume], env=anna.environment, stdout=full, text=True,
            stderr=subprocess.PIPE, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "piperfs: cannot write the answer: No space left on device\n"


@pytest.mark.parametrize("place", ["/proc/nope", "/etc/passwd"])
def test_a_runtime_directory_that_cannot_be_made_is_told_and_does_not_hide_a_volume(
    anna: Replica, monkeypatch: pytest.MonkeyPatch, place: str
):
    monkeypatch.setitem(anna.environment, "XDG_RUNTIME_DIR", place)
    code, line = says(anna.run("mount", str(anna.state), str(anna.mountpoint)))
    assert code == 1
    assert "cannot make it" in line
    assert "set XDG_RUNTIME_DIR" in line
    assert anna.piperfs("digest", str(anna.state))


def test_the_runtime_directory_of_somebody_else_hides_no_daemon(nobody: Replica):
    nobody.init()
    nobody.piperfs("serve", str(nobody.state), "-d", "-o", "listen=127.0.0.1:0,discovery=off")
    theirs = nobody.base.parent / "theirs"
    theirs.mkdir(mode=0o700)
    own, nobody.environment["XDG_RUNTIME_DIR"] = nobody.environment["XDG_RUNTIME_DIR"], str(theirs)
    assert nobody.pid
    code, line = says(nobody.run("umount", str(nobody.mountpoint)))
    assert code == 4
    assert "no volume is mounted here" in line
    code, line = says(nobody.run("init", str(theirs / "new")))
    assert code == 5
    nobody.environment["XDG_RUNTIME_DIR"] = own


def test_without_a_home_a_name_cannot_be_looked_up(nobody: Replica):
    become = ("setpriv", f"--reuid={STRANGER}", "--clear-groups")
    nobody.program = (*become, *nobody.program[4:])
    for variable in ("HOME", "XDG_DATA_HOME"):
        del nobody.environment[variable]
    for arguments in (("init", "new"), ("status", "new"), ("status", "~nosuchuser/x")):
        code, line = says(nobody.run(*arguments))
        assert code == 4
        assert "no home directory is known" in line


def test_a_volume_of_a_user_unknown_here_is_refused(anna: Replica, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(anna.state, copy)
    os.chown(copy, STRANGER, STRANGER)
    for command in ("status", "fsck", "serve"):
        code, line = says(anna.run(command, str(copy)))
        assert code == 5
        assert f"belongs to user {STRANGER}, whom this computer does not know; chown it" in line
