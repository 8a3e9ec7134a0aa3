"""One mounted volume for each driver, shared by all tests of programs and checked at the end."""

import json
import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.volumes import Replica, replicas

STDLIB = Path(sysconfig.get_path("stdlib"))


@pytest.fixture(scope="session", params=["kernel", "pyfuse3"])
def volume(request, tmp_path_factory) -> Iterator[Replica]:
    """A mounted replica. Whatever the programs did, the store is sound and nothing was odd."""
    base = tmp_path_factory.mktemp(f"apps-{request.param}")
    base.chmod(0o755)
    base.parent.chmod(0o755)
    with replicas(base, "anna") as (replica,):
        yield replica.init().mount(f"allow_other,driver={request.param}")
        replica.umount()
        assert replica.piperfs("fsck", str(replica.state)) == "No findings.\n"
        assert unforeseen(replica) == []


def unforeseen(replica: Replica) -> list[str]:
    """What the daemon's log tells beyond the foreseen.

    Whoever starts with a mount namespace of his own at the end holds the mount for a moment.
    """
    lines = (replica.state / "daemon.log").read_text().splitlines()
    events = [json.loads(line) if line.startswith("{") else {"raw": line} for line in lines]
    strange = [event for event in events if event.get("level") != "info"]
    return [str(event) for event in strange if event.get("event") != "fuse.held"]


@pytest.fixture
def folder(volume, request) -> Path:
    """A directory of the test's own, removed afterwards."""
    path = volume.mountpoint / request.node.name.replace("/", "_")
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> Path:
    """A hundred source files, with links, odd names, attributes and times."""
    path = tmp_path_factory.mktemp("tree")
    for package in ("email", "json", "unittest", "wsgiref", "xml"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(STDLIB / package, path / package, ignore=ignored)
    (path / "link").symlink_to("json/decoder.py")
    (path / "dangling").symlink_to("n" * 4000)
    os.link(path / "json/encoder.py", path / "hard")
    (path / "name with spaces").write_text("x")
    Path(os.fsdecode(os.fsencode(path) + b"/not utf-8 \xff\xfe\n")).write_text("y")
    (path / ("n" * 255)).write_text("z")
    (path / "empty").mkdir(mode=0o700)
    os.setxattr(path / "hard", "user.note", b"\x00\xff")
    os.setxattr(path / "empty", "user.note", b"of a directory")
    os.utime(path / "name with spaces", ns=(0, -1_234_567_891))
    os.chmod(path / "json", 0o2750)
    return path
