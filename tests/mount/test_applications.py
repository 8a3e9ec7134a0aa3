"""Real programs on a real mount: they must not be able to tell it from a local disk."""

import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.support.volumes import replicas, same_tree

pytestmark = pytest.mark.mount
STDLIB = Path(sysconfig.get_path("stdlib"))


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A mounted volume that the tests of this file share, each in a directory of its own."""
    with replicas(tmp_path_factory.mktemp("apps"), "anna") as (a,):
        yield a.init().mount().mountpoint


@pytest.fixture
def folder(disk, request):
    path = disk / request.node.name.replace("/", "_")
    path.mkdir()
    return path


def run(*command: object, cwd: Path | None = None, **extra: str) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env={**os.environ, **extra}, text=True,
        capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def git(folder: Path, *words: str) -> str:
    return run(
        "git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "gc.autoDetach=false", *words,
        cwd=folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Some hundred source files, with a symlink, a hard link and odd names."""
    path = tmp_path_factory.mktemp("tree")
    for package in ("email", "json", "encodings", "unittest"):
        shutil.copytree(STDLIB / package, path / package)
    (path / "link").symlink_to("json/decoder.py")
    os.link(path / "json/encoder.py", path / "hard")
    (path / "name with spaces").write_text("x")
    Path(os.fsdecode(os.fsencode(path) + b"/not utf-8 \xff")).write_text("y")
    (path / ("n" * 255)).write_text("z")
    return path


def test_cp_keeps_everything(folder, tree):
    run("cp", "-a", f"{tree}/.", folder)
    assert same_tree(tree, folder)


def test_tar_round_trip_is_identical(folder, tree):
    run("sh", "-c", f"tar -C '{tree}' -c . | tar -C '{folder}' -x")
    assert same_tree(tree, folder)
    run("sh", "-c", f"tar -C '{tree}' -c . | tar -C '{folder}' --diff")


def test_rsync_in_place_and_sparse(folder, tree):
    run("rsync", "-aHAX", f"{tree}/", folder)
    run("rsync", "-a", "--inplace", f"{tree}/", folder)
    assert same_tree(tree, folder)
    sparse = folder.parent / "sparse source"
    with sparse.open("wb") as file:
        file.truncate(1 << 30)
    run("rsync", "-a", "--sparse", sparse, folder)
    assert (folder / sparse.name).stat().st_size == 1 << 30


def test_git_works_and_stays_clean(folder, tree):
    git(folder, "init", "-q", ".")
    run("cp", "-a", f"{tree}/email", folder)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    assert git(folder, "status", "--porcelain") == ""
    git(folder, "worktree", "add", "-q", "../other tree", "-b", "branch")
    git(folder, "gc", "-q")
    assert "dangling" not in git(folder, "fsck", "--strict")
    git(folder, "clone", "-q", ".", "../clone")
    assert git(folder.parent / "clone", "status", "--porcelain") == ""


@pytest.mark.parametrize("mode", ["delete", "wal", "truncate"])
def test_sqlite_keeps_its_integrity(folder, mode):
    path = folder / "data.db"
    first = sqlite3.connect(path, isolation_level=None)
    first.execute(f"pragma journal_mode={mode}")
    first.execute("pragma mmap_size=268435456")
    first.execute("create table t(n integer primary key, x)")
    code = (
        "import sqlite3,sys\nc=sqlite3.connect(sys.argv[1],timeout=60,isolation_level=None)\n"
        "for n in range(40): c.execute('insert into t(x) values(randomblob(2000))')\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, path]) for _ in range(3)]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    assert first.execute("select count(*) from t").fetchone() == (120,)
    assert first.execute("pragma integrity_check").fetchone() == ("ok",)
    first.close()


def test_virtual_environment_runs_from_the_mount(folder):
    venv.EnvBuilder(with_pip=True, symlinks=True).create(folder / "v")
    assert run(folder / "v/bin/python", "-m", "pip", "--version").startswith("pip")


def test_c_project_builds_in_parallel(folder):
    for n in range(20):
        (folder / f"f{n}.c").write_text(f"int f{n}(void) {{ return {n}; }}\n")
    calls = " + ".join(f"f{n}()" for n in range(20))
    heads = "".join(f"int f{n}(void);" for n in range(20))
    (folder / "main.c").write_text(f"{heads} int main(void) {{ return ({calls}) != 190; }}\n")
    (folder / "Makefile").write_text(
        "O := $(patsubst %.c,%.o,$(wildcard *.c))\nprogram: $(O)\n\tcc -o $@ $^\n"
    )
    run("make", "-j2", cwd=folder)
    run(folder / "program")
    assert "up to date" in run("make", cwd=folder)


def test_editors_saves_keep_hard_links_and_modes(folder):
    path = folder / "text"
    path.write_text("one\n")
    path.chmod(0o600)
    run("sed", "-i", "s/one/two/", path)
    assert path.read_text() == "two\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_locks_work_between_processes(folder):
    lock = folder / "lock"
    lock.touch()
    code = "import fcntl,sys\nf=open(sys.argv[1],'r+')\nfcntl.{0}(f,fcntl.LOCK_EX|fcntl.LOCK_NB)"
    for call in ("flock", "lockf"):
        with lock.open("r+") as file:
            getattr(fcntl, call)(file, fcntl.LOCK_EX)
            done = subprocess.run(
                [sys.executable, "-c", code.format(call), lock], capture_output=True, check=False
            )
            assert b"BlockingIOError" in done.stderr
