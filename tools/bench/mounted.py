"""One mounted volume beside the local disk and a pass-through in C: names, streams, git."""

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lab import Side, drop_caches, print_table, three_sides

MIB = 1 << 20
NAMES = 1000
STREAM_MIB = 512


def metadata(base: Path, rounds: int) -> None:
    """Operations on names, a thousand of each, in one directory."""
    with three_sides(base) as sides:
        for number in range(rounds):
            for step, do in _steps(f"r{number}"):
                for side in sides:
                    side.measure(step, NAMES, do)
        print_table("names", "µs", 1e6, sides)


def _steps(folder: str) -> Iterator[tuple[str, Callable[[Path], None]]]:
    names = [f"{folder}/f{n}" for n in range(NAMES)]

    def create(path: Path) -> None:
        (path / folder).mkdir()
        for name in names:
            os.close(os.open(path / name, os.O_CREAT | os.O_WRONLY, 0o644))

    def each(call: Callable[[Path], object]) -> Callable[[Path], None]:
        def run(path: Path) -> None:
            for name in names:
                call(path / name)

        return run

    yield "create, close", create
    yield "write 1 KiB, close", each(lambda file: file.write_bytes(b"x" * 1024))
    yield "stat, warm", each(os.stat)
    yield "open, read, close", each(lambda file: file.read_bytes())
    yield "chmod", each(lambda file: file.chmod(0o600))
    yield "set xattr", each(lambda file: os.setxattr(file, "user.k", b"v"))
    yield "rename", each(lambda file: file.rename(f"{file}-"))
    yield "list an entry", lambda path: os.listdir(path / folder).clear()
    yield "absent name", each(lambda file: file.exists())
    yield "unlink", each(lambda file: os.unlink(f"{file}-"))
    yield "mkdir", each(os.mkdir)
    yield "rmdir", each(os.rmdir)


def stream(base: Path, rounds: int) -> None:
    """Half a GiB of noise written, read from the disk, and read from memory."""
    noise = [os.urandom(MIB) for _ in range(STREAM_MIB)]  # all different: nothing to share

    def write(path: Path) -> None:
        with (path / "film").open("wb", buffering=0) as file:
            for block in noise:
                file.write(block)
            os.fsync(file.fileno())

    with three_sides(base) as sides:
        for _ in range(rounds):
            _stream_once(sides, write)
        print_table("stream", "µs", 1e6, sides)
        _print_rates(sides)


def _stream_once(sides: Sequence[Side], write: Callable[[Path], None]) -> None:
    for side in sides:
        side.measure("write 1 MiB, fsync at the end", STREAM_MIB, write)
    for side in sides:
        drop_caches()
        side.measure("read 1 MiB, cold", STREAM_MIB, _read_film)
    for side in sides:
        side.measure("read 1 MiB, warm", STREAM_MIB, _read_film)
        (side.path / "film").unlink()


def _print_rates(sides: Sequence[Side]) -> None:
    for side in sides:
        rates = [f"{step}: {1 / min(walls):.0f} MiB/s" for step, walls in side.walls.items()]
        print(f"{side.name}: {'; '.join(rates)}")


def _read_film(path: Path) -> None:
    with (path / "film").open("rb", buffering=0) as file:
        while file.read(MIB):
            pass


def git(base: Path, rounds: int) -> None:
    """`git status` of a tree of thousands of files, with warm caches and with cold ones."""
    source = Path(sysconfig.get_paths()["stdlib"])
    kept = shutil.ignore_patterns("site-packages", "__pycache__", "*.so", "config-*")
    shutil.copytree(source, base / "tree", ignore=kept, symlinks=True)
    _git(base / "tree", "init")
    _git(base / "tree", "add", "-A")
    _git(base / "tree", "-c", "user.name=b", "-c", "user.email=b@localhost", "commit", "-m", "all")

    def status(path: Path) -> None:
        _git(path / "clone", "status", "--porcelain")

    with three_sides(base) as sides:
        for side in sides:
            side.measure("clone", 1, lambda path: _git(path, "clone", str(base / "tree"), "clone"))
        for _ in range(rounds * 3):
            for side in sides:
                status(side.path)  # warms the caches
                side.measure("status, warm", 1, status)
        for side in sides:
            drop_caches()
            side.measure("status, cold", 1, status)
        print_table("git", "ms", 1e3, sides)


def _git(path: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", path, *arguments], check=True, capture_output=True)
