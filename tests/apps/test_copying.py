"""Programs that copy trees and files: what arrives is what left, and what is cheap stays cheap."""

import os
from pathlib import Path

import pytest

from tests.support.programs import kernel_only, run, shell
from tests.support.volumes import same_tree

pytestmark = pytest.mark.mount
MIB = 1 << 20


@pytest.fixture
def holes(tmp_path) -> Path:
    """64 MiB of which 2 are there."""
    path = tmp_path / "holes"
    with path.open("wb") as file:
        for offset in (0, 40 * MIB):
            file.seek(offset)
            file.write(os.urandom(MIB))
        file.truncate(64 * MIB)
    return path


def held(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_cp_keeps_everything(folder, tree):
    run("cp", "-a", tree, folder / "copy")
    assert same_tree(tree, folder / "copy")
    run("cp", "-a", folder / "copy", folder / "again")
    assert same_tree(tree, folder / "again")


def test_tar_round_trip_is_identical(folder, tree):
    shell(f"tar -C '{tree}' --xattrs -c . | tar -C '{folder}' --xattrs -xp")
    assert same_tree(tree, folder)
    run("tar", "-cf", folder / "archive", "--xattrs", "-C", folder, "json", "hard", "link")
    run("tar", "-df", folder / "archive", "-C", folder)


def test_rsync_in_every_mode(folder, tree):
    for flags in (["-aHAX"], ["-a", "--inplace"], ["-aHAX", "--checksum"], ["-a", "-W", "-S"]):
        run("rsync", *flags, f"{tree}/", f"{folder}/copy")
    assert same_tree(tree, folder / "copy")
    changed = folder / "copy/json/decoder.py"
    changed.write_bytes(changed.read_bytes().replace(b"def", b"fed"))
    run("rsync", "-a", "--inplace", "--no-whole-file", f"{tree}/", f"{folder}/copy")
    run("rsync", "-aHAX", "--delete", f"{folder}/copy/", f"{folder}/second")
    assert same_tree(tree, folder / "second")


def test_cpio_and_zip_round_trips(folder, tree):
    shell(f"find . -depth -print0 | cpio -0 -pdm --quiet '{folder}/copied'", cwd=tree)
    assert (folder / "copied/json/decoder.py").read_bytes() == (
        tree / "json/decoder.py"
    ).read_bytes()
    run("python3", "-m", "zipfile", "-c", folder / "z.zip", "json", cwd=tree)
    run("python3", "-m", "zipfile", "-e", folder / "z.zip", folder / "unzipped")
    assert (folder / "unzipped/json/tool.py").read_bytes() == (tree / "json/tool.py").read_bytes()


@kernel_only
def test_holes_stay_holes(folder, holes):
    copies = {
        "cp": ("cp", "--sparse=auto", "{source}", "{target}"),
        "always": ("cp", "--sparse=always", "{source}", "{target}"),
        "rsync": ("rsync", "--sparse", "{source}", "{target}"),
        "dd": ("dd", "if={source}", "of={target}", "bs=1M", "conv=sparse", "status=none"),
    }
    for name, words in copies.items():
        target = folder / name
        run(*(word.format(source=holes, target=target) for word in words))
        if name == "dd":
            os.truncate(target, 64 * MIB)
        assert held(target) <= 3 * MIB, name
        run("cmp", holes, target)
        back = folder.parent.parent / f"back {name}"
        run("cp", "--sparse=auto", target, back)
        assert held(back) <= 3 * MIB, f"{name}: read back"
        back.unlink()
    shell("tar -Scf s.tar cp && mkdir out && tar -C out -xSf s.tar && cmp cp out/cp", cwd=folder)
    assert (folder / "s.tar").stat().st_size <= 3 * MIB
    assert held(folder / "out/cp") <= 3 * MIB


@kernel_only
def test_holes_can_be_dug(folder, holes):
    run("cp", "--sparse=auto", holes, folder / "f")
    run("fallocate", "--punch-hole", "--offset", 0, "--length", MIB, folder / "f")
    assert held(folder / "f") <= 1.5 * MIB
    (folder / "zeros").write_bytes(bytes(4 * MIB) + b"x")
    run("fallocate", "--dig-holes", folder / "zeros")
    assert held(folder / "zeros") <= MIB
    assert (folder / "zeros").read_bytes() == bytes(4 * MIB) + b"x"
    run("fallocate", "--length", 8 * MIB, folder / "reserved")
    assert (folder / "reserved").stat().st_size == 8 * MIB
    run("fallocate", "--keep-size", "--length", 16 * MIB, folder / "reserved")
    assert (folder / "reserved").stat().st_size == 8 * MIB


@kernel_only
def test_cp_of_a_large_file_is_a_clone(folder, volume):
    """Copying inside the volume moves no bytes: nothing but references is written."""
    (folder / "big").write_bytes(os.urandom(48 * MIB))
    settle(folder)
    before = written_bytes(volume)
    run("cp", "--reflink=auto", folder / "big", folder / "copy")
    settle(folder)
    assert written_bytes(volume) - before < MIB
    run("cmp", folder / "big", folder / "copy")
    with (folder / "copy").open("r+b") as file:
        file.write(b"changed")
    assert (folder / "big").read_bytes()[:7] != b"changed"


def settle(folder) -> None:
    """Wait until everything is on the disk; syncfs does not reach a mount of this kind."""
    directory = os.open(folder, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def written_bytes(volume) -> int:
    lines = Path(f"/proc/{volume.pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


def test_dd_in_odd_ways(folder):
    data = os.urandom(3 * MIB + 123)
    (folder / "in").write_bytes(data)
    for number, words in enumerate((
        ("bs=4097",), ("bs=1M", "conv=fsync"), ("bs=64k", "oflag=append", "conv=notrunc"),
        ("bs=1M", "oflag=dsync"), ("bs=8192", "iflag=fullblock", "conv=notrunc"),
    )):  # fmt: skip
        target = folder / f"out{number}"
        run("dd", f"if={folder}/in", f"of={target}", "status=none", *words)
        assert target.read_bytes() == data
    run("dd", "if=/dev/zero", f"of={folder}/in", "bs=1", "count=5", "seek=7", "conv=notrunc")
    assert (folder / "in").read_bytes() == data[:7] + bytes(5) + data[12:]
    run("dd", f"if={folder}/in", f"of={folder}/direct", "bs=64k", "iflag=direct", "oflag=direct")
    run("cmp", folder / "in", folder / "direct")
    (folder / "cut").write_bytes(data)
    run("dd", "if=/dev/null", f"of={folder}/cut", "bs=1", "seek=1000")
    assert (folder / "cut").read_bytes() == data[:1000]


def test_mv_between_file_systems_and_within(folder, tree, tmp_path):
    run("cp", "-a", tree, folder / "a")
    run("mv", folder / "a", folder / "b")
    run("mv", folder / "b", tmp_path / "c")
    run("mv", tmp_path / "c", folder / "d")
    assert same_tree(tree, folder / "d")
    run("mv", "-n", folder / "d/json/tool.py", folder / "d/json/decoder.py")
    assert (folder / "d/json/tool.py").exists()
    run("rm", "-r", folder / "d")
    assert os.listdir(folder) == []
