"""What programs make on one computer is whole and usable on the other."""

import os
import shutil
import sqlite3
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.apps.conftest import STDLIB, unforeseen
from tests.support.programs import git, run, shell
from tests.support.volumes import Replica, eventually, same_tree, two_mounted

pytestmark = pytest.mark.mount
INSTALLED = Path(sysconfig.get_path("purelib"))
TREE_FILES_MIN = 5000
GIB = 1 << 30


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two mounted replicas; both are sound and agree when the tests are done."""
    with two_mounted(tmp_path_factory.mktemp("pair")) as (a, b):
        yield a, b
        agree(a, b)
        for replica in (a, b):
            replica.umount()
            assert replica.piperfs("fsck", str(replica.state)) == "No findings.\n"
            assert unforeseen(replica) == []


def agree(a: Replica, b: Replica) -> None:
    """Wait until both hold the same, and one of them everything of the other."""
    run("sync", "-f", a.mountpoint)
    eventually(lambda: a.digest() == b.digest(), within_s=240)
    sync = ("sync", str(a.state), "--timeout", "30")
    eventually(lambda: a.run(*sync).returncode == 0, within_s=240)


@pytest.fixture
def folders(pair, request) -> tuple[Path, Path]:
    paths = tuple(replica.mountpoint / request.node.name for replica in pair)
    paths[0].mkdir()
    return paths


def test_a_repository(pair, folders, tree):
    here, there = folders
    git(here, "init", "-q")
    run("cp", "-a", f"{tree}/.", here)
    git(here, "add", "-A")
    git(here, "commit", "-qm", "on the first computer")
    git(here, "gc", "-q")
    agree(*pair)
    assert same_tree(here, there)
    assert git(there, "fsck", "--strict", "--full") == ""
    assert git(there, "status", "--porcelain") == ""
    (there / "new").write_text("on the second computer")
    git(there, "add", "new")
    git(there, "commit", "-qm", "on the second computer")
    agree(*pair)
    assert git(here, "log", "--format=%s").splitlines()[0] == "on the second computer"
    assert git(here, "status", "--porcelain") == ""
    assert git(here, "fsck", "--strict", "--full") == ""


def test_databases(pair, folders):
    here, there = folders
    for mode in ("delete", "wal"):
        base = sqlite3.connect(here / f"{mode}.db", isolation_level=None)
        base.execute(f"pragma journal_mode={mode}")
        base.execute("create table t(n integer primary key, x)")
        for _ in range(30):
            base.execute("insert into t(x) values(randomblob(3000))")
        base.close()
    agree(*pair)
    assert same_tree(here, there)
    for mode in ("delete", "wal"):
        base = sqlite3.connect(there / f"{mode}.db")
        assert base.execute("pragma integrity_check").fetchone() == ("ok",)
        assert base.execute("select count(*) from t").fetchone() == (30,)
        base.close()


def test_a_virtual_environment(pair, folders):
    here, there = folders
    run(sys.executable, "-m", "venv", "--without-pip", here / "v")
    library = next((here / "v/lib").glob("python3*")) / "site-packages"
    shutil.copytree(STDLIB / "json", library / "sample")
    run(here / "v/bin/python", "-m", "compileall", "-q", library)
    agree(*pair)
    assert same_tree(here, there)
    assert run(there / "v/bin/python", "-c", "import sample; print(sample.__file__)").startswith(
        f"{there}/v/lib"
    )


def test_both_directions_at_once(pair, folders, tree):
    here, there = folders
    eventually(there.is_dir)
    shell(f"cp -a '{tree}' '{here}/from a' & cp -a '{tree}' '{there}/from b' & wait")
    agree(*pair)
    agree(*reversed(pair))
    for folder in folders:
        assert same_tree(tree, folder / "from a")
        assert same_tree(tree, folder / "from b")


@pytest.mark.slow
def test_a_tree_of_five_thousand_files(pair, folders, tmp_path):
    """Copied by cp and by tar, as a repository, and after a change in the middle of it."""
    here, there = folders
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("*.so*", "*.a")
    shutil.copytree(INSTALLED, source, symlinks=True, ignore=ignored)
    git(source, "init", "-q")
    assert sum(len(files) for _, _, files in os.walk(source)) >= TREE_FILES_MIN
    shell(f"cp -a '{source}' '{here}/copied' && tar -C '{source}' -c trio | tar -C '{here}' -xp")
    agree(*pair)
    assert same_tree(source, there / "copied")
    assert same_tree(source / "trio", there / "trio")
    git(here / "copied", "add", "trio", "click", "rich")
    git(here / "copied", "commit", "-qm", "x")
    agree(*pair)
    assert git(there / "copied", "fsck", "--full") == ""
    assert git(there / "copied", "status", "--porcelain", "-uno") == ""


@pytest.mark.slow
def test_a_file_of_a_gibibyte(pair, folders):
    here, there = folders
    shell(f"head -c {GIB} /dev/urandom > '{here}/big'")
    eventually(lambda: (there / "big").stat().st_size == GIB, within_s=60)
    agree(*pair)
    run("cmp", here / "big", there / "big")


def test_tar_sees_no_churn_after_a_remount(tree, tmp_path):
    """Inode numbers, device and times are what an incremental backup goes by."""
    with two_mounted(tmp_path) as (a, b):
        run("cp", "-a", tree, a.mountpoint / "tree")
        snapshot, archive = tmp_path / "snapshot", tmp_path / "archive.tar"
        backup = ("tar", "-C", a.mountpoint, "--no-check-device", "-g", snapshot, "-cf", archive)
        run(*backup, "tree")
        a.umount()
        a.mount(f"peer={b.address}")
        run(*backup, "tree")
        assert [line for line in run("tar", "-tf", archive).splitlines() if line[-1] != "/"] == []
        (a.mountpoint / "tree/json/tool.py").write_text("changed")
        run(*backup, "tree")
        changed = [line for line in run("tar", "-tf", archive).splitlines() if line[-1] != "/"]
        assert changed == ["tree/json/tool.py"]
