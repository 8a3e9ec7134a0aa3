"""System tools around a mount: binds, overlays, indexers, counters, locks, and mapped memory."""

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import kernel_only, run, shell

pytestmark = pytest.mark.mount
MIB = 1 << 20
TOOLS = str(Path(__file__).parents[2] / "tools")


@contextlib.contextmanager
def mounted(*words: object, at: Path) -> Iterator[Path]:
    run("mount", *words, at)
    try:
        yield at
    finally:
        run("umount", at)


@kernel_only
def test_bind_mount(folder, tmp_path):
    with mounted("--bind", folder, at=tmp_path):
        (tmp_path / "x").write_text("through the bind")
        assert (folder / "x").read_text() == "through the bind"
        run("mount", "-o", "remount,bind,ro", tmp_path)
        with pytest.raises(OSError, match="Read-only"):
            (tmp_path / "y").write_text("")
        (folder / "x").unlink()
        assert os.listdir(tmp_path) == []


@kernel_only
def test_overlay_with_a_lower_layer_here(folder, tree, tmp_path):
    run("cp", "-a", f"{tree}/.", folder)
    upper, work, at = (tmp_path / name for name in ("upper", "work", "merged"))
    for path in (upper, work, at):
        path.mkdir()
    layers = f"lowerdir={folder},upperdir={upper},workdir={work}"
    with mounted("-t", "overlay", "overlay", "-o", layers, at=at):
        assert (at / "json/decoder.py").read_bytes() == (tree / "json/decoder.py").read_bytes()
        (at / "json/decoder.py").write_text("changed above")
        run("rm", "-r", at / "xml")
        (at / "json/tool.py").rename(at / "json/moved.py")
        assert not (at / "xml").exists()
        assert os.getxattr(at / "hard", "user.note") == b"\x00\xff"
    assert (folder / "json/decoder.py").read_bytes() == (tree / "json/decoder.py").read_bytes()
    assert (folder / "xml").is_dir()
    assert (upper / "json/decoder.py").read_text() == "changed above"


@kernel_only
def test_updatedb_stays_away(folder, tmp_path):
    """With what `tools/up --system` adds to its configuration, the indexer leaves mounts alone."""
    code = "import updatedb; print(updatedb.with_names(open('/etc/updatedb.conf').read()))"
    settings = run(sys.executable, "-c", code, PYTHONPATH=TOOLS)
    pruned = next(line for line in settings.splitlines() if line.startswith("PRUNEFS="))
    (folder / "secret name").touch()
    (tmp_path / "plain name").touch()

    def found(names: str, name: str) -> bool:
        database = tmp_path / "database"
        run("updatedb", "-l", "no", "-o", database, "--prunefs", names, "--prunepaths", "/proc",
            "-U", tmp_path.parent)  # fmt: skip
        return name in shell(f"locate -d '{database}' '{name}' || true")

    names = pruned.partition('"')[2].rstrip('"')
    assert found(names, "plain name")
    assert not found(names, "secret name")


def test_df_find_and_du_count_right(folder):
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/big").write_bytes(os.urandom(3 * MIB))
    (folder / "a/empty").touch()
    os.utime(folder / "a/empty", (0, 0))
    source, kind, size, available = shell(
        f"df --output=source,fstype,size,avail '{folder}' | tail -1"
    ).split()
    assert (source, kind) == ("piperfs:test", "fuse.piperfs")
    assert 0 < int(available) < int(size)
    assert int(run("du", "-sk", folder).split()[0]) in range(3072, 3200)
    assert int(run("du", "-sb", "--apparent-size", folder).split()[0]) in range(
        3 * MIB, 3 * MIB + 20000
    )
    find = ("find", folder, "-xdev")
    assert run(*find, "-empty", "-printf", "%f") == "empty"
    assert run(*find, "-size", "+2M", "-newermt", "2001-01-01", "-printf", "%f") == "big"
    assert run(*find, "-type", "d", "-links", 3, "-printf", "%f\n").splitlines()[-1] == "a"
    assert run("stat", "-f", "-c", "%l", folder) == "255\n"


def test_inotifywait_sees_local_changes(folder):
    with subprocess.Popen(
        ["inotifywait", "-q", "-m", "-r", "--format", "%e %f", folder],
        stdout=subprocess.PIPE, text=True,
    ) as watcher:  # fmt: skip
        shell(f"until grep -qs inotify /proc/{watcher.pid}/fdinfo/*; do :; done")
        shell("echo x > f; mv f g; chmod 600 g; rm g; mkdir d", cwd=folder)
        told = [watcher.stdout.readline().strip() for _ in range(8)]
        watcher.kill()
    assert told == [
        "CREATE f", "OPEN f", "MODIFY f", "CLOSE_WRITE,CLOSE f", "MOVED_FROM f", "MOVED_TO g",
        "ATTRIB g", "DELETE g",
    ]  # fmt: skip


def test_locks_between_processes(folder):
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
    step = "flock lock sh -c 'read x < counter; echo $((x + 1)) > counter'"
    script = f"for n in $(seq 20); do {step}; done"
    (folder / "counter").write_text("0\n")
    shell(f"({script}) & ({script}) & wait", cwd=folder)
    assert (folder / "counter").read_text() == "40\n"


MAPPER = """
import mmap, os, sys
path, number = sys.argv[1], int(sys.argv[2])
with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
    for page in range(number, len(shared) // 4096, 4):
        shared[page * 4096 : page * 4096 + 8] = page.to_bytes(8, "big")
        if page % 64 == number:
            shared.flush()
"""


def test_memory_mapped_by_several_processes(folder):
    path = folder / "mapped"
    path.write_bytes(bytes(8 * MIB))
    mappers = [subprocess.Popen([sys.executable, "-c", MAPPER, path, str(n)]) for n in range(4)]
    assert [mapper.wait() for mapper in mappers] == [0] * 4
    run("sync", path)
    data = path.read_bytes()
    pages = [int.from_bytes(data[n : n + 8], "big") for n in range(0, len(data), 4096)]
    assert pages == list(range(len(pages)))
