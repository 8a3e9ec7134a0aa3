"""Where a PATH is: alone a place in a mount, behind a VOLUME from its root, with dots a place."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.volumes import Replica, replicas

pytestmark = pytest.mark.mount
DIRECTORIES = (".", "s", "s/d")


@pytest.fixture(scope="module")
def anna(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with replicas(tmp_path_factory.mktemp("places"), "anna") as (anna,):
        anna.init().mount()
        for size, place in enumerate(DIRECTORIES, start=1):
            (anna.mountpoint / place).mkdir(exist_ok=True)
            (anna.mountpoint / place / "dup").write_text("x" * size)
        (anna.base / "link").symlink_to(anna.base)
        yield anna


def run(anna: Replica, where: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*anna.program, *words], cwd=where, env=anna.environment, text=True,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def size_of(anna: Replica, where: str, *words: str) -> int:
    """Which of the files of one name is meant: each has another size."""
    done = run(anna, anna.mountpoint / where, "history", *words, "--json")
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)[0]["size"])


@pytest.mark.parametrize(
    ("where", "path", "size"),
    [
        ("s", "dup", 2),
        ("s", "./dup", 2),
        ("s", "../dup", 1),
        ("s/d", "../../s/dup", 2),
        (".", "s/d/../dup", 2),
        ("..", "mnt/s/dup", 2),
        ("..", "link/mnt/s/dup", 2),
    ],
)
def test_a_path_alone_is_a_place(anna: Replica, where: str, path: str, size: int):
    assert size_of(anna, where, path) == size


@pytest.mark.parametrize(
    ("where", "path", "size"),
    [
        ("s", "dup", 1),
        ("s", "/dup", 1),
        ("s", "s/dup", 2),
        ("s", "s/./d/../dup", 2),
        ("s", "./dup", 2),
        ("s", "../s/d/dup", 3),
        ("..", "s/dup", 2),
        ("..", "./mnt/s/dup", 2),
        ("..", "./link/mnt/s/dup", 2),
    ],
)
def test_behind_a_volume_it_begins_at_the_root(anna: Replica, where: str, path: str, size: int):
    assert size_of(anna, where, str(anna.state), path) == size
    assert size_of(anna, where, str(anna.mountpoint), path) == size


def test_a_deleted_file_is_meant_as_it_was_before(anna: Replica):
    gone = anna.mountpoint / "s/gone"
    gone.write_text("12345")
    before = [size_of(anna, "s", *words) for words in ways(anna)]
    gone.unlink()
    for words in ways(anna):
        done = run(anna, anna.mountpoint / "s", "history", *words, "--json")
        assert json.loads(done.stdout)[-1]["size"] == 5, words
    assert before == [5, 5, 5]
    assert run(anna, anna.mountpoint / "s", "history", str(anna.state), "gone").returncode == 4


def ways(anna: Replica) -> list[tuple[str, ...]]:
    return [("gone",), (str(anna.state), "./gone"), (str(anna.state), "s/gone")]


def test_a_restored_file_goes_where_a_path_like_the_first_leads(anna: Replica):
    state, s = str(anna.state), anna.mountpoint / "s"
    (version,) = json.loads(anna.piperfs("history", str(s / "dup"), "--json"))
    named = f"dup@{version['version']}"
    for to, made in (("one", "s/one"), ("./two", "s/two"), ("../three", "three")):
        assert run(anna, s, "restore", named, "--to", to).returncode == 0
        assert (anna.mountpoint / made).read_text() == "xx"
    for to, made in (("four", "four"), ("./five", "s/five"), ("/s/d/../six", "s/six")):
        assert run(anna, s, "restore", state, f"s/{named}", "--to", to).returncode == 0
        assert (anna.mountpoint / made).read_text() == "xx"


@pytest.mark.parametrize(
    ("to", "code", "words"),
    [
        ("..", 5, "exists already"),
        ("/", 5, "exists already"),
        ("x" * 300, 2, "a name has at most 255 bytes"),
        ("nowhere/x", 4, "no such directory"),
        ("", 2, "the path is empty"),
    ],
)
def test_a_place_that_cannot_be_is_told(anna: Replica, to: str, code: int, words: str):
    (version,) = json.loads(anna.piperfs("history", str(anna.mountpoint / "s/dup"), "--json"))
    named = f"s/dup@{version['version']}"
    done = run(anna, anna.mountpoint / "s", "restore", str(anna.state), named, "--to", to)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1)
    assert words in done.stderr


def test_outside_of_mounts_nothing_is_guessed(anna: Replica):
    for words in (("dup",), (str(anna.state), "./dup"), (str(anna.state), "../dup")):
        done = run(anna, Path("/"), "history", *words)
        assert done.returncode == 4
        assert "is not below a mount point" in done.stderr
    for root in ((str(anna.mountpoint),), (str(anna.state), "/")):
        done = run(anna, Path("/"), "history", *root)
        assert (done.returncode, "a directory has no versions" in done.stderr) == (2, True)


def test_a_place_is_found_through_a_symlink(anna: Replica):
    known = anna.digest()
    for place in ("link/mnt", "link/mnt/s/dup", "link/link/mnt/nothing"):
        assert run(anna, anna.base, "digest", place).stdout.strip() == known
