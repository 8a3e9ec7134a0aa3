"""Conflicts and versions on real mounts, by hand and by command, as people handle them."""

import datetime as dt
import json
import os

import pytest

from tests.conflicts.actors import Mounted, fold
from tests.conflicts.rows import agrees
from tests.conflicts.test_mounts import Pair
from tests.support.volumes import replicas

pytestmark = pytest.mark.mount


def conflicted(pair, names):
    """Files that both wrote while they could not hear each other."""
    p, q = Mounted(pair.a.mountpoint), Mounted(pair.b.mountpoint)
    for name in names:
        p.write(name, b"base")
    p.mkdir("same")
    pair.meet()
    pair.cut()
    for one in (p, q):
        one.write("same/1", b"same")
        one.write("same/2", b"same")
    for name in names:
        p.write(name, b"P")
        q.write(name, b"Q")
    p.write("made", b"P")
    q.write("made", b"Q")
    p.write("same/3", b"P")
    q.write("same/3", b"Q")
    pair.heal()
    return p, q


def test_conflicts_are_settled_by_command_and_by_hand(tmp_path):
    with replicas(tmp_path, "anna", "ben") as (a, b):
        pair = Pair(a, b)
        odd = os.fsdecode(b"caf\xe9")
        names = [
            odd,
            "this",
            "other",
            "both",
            "copy",
            "read",
            "edited",
            "moved",
            "removed",
            "emptied",
        ]
        p, _ = conflicted(pair, names)
        state, here = str(a.state), a.mountpoint
        assert a.status()["conflicts"] == len(names) + 4

        # By command: a path below the mount, or a volume and a path in it.
        a.piperfs("resolve", str(here / "this"), "--keep", "this")
        a.piperfs("resolve", state, "other", "--keep", "other")
        a.piperfs("resolve", state, "/both", "--keep", "both")
        a.piperfs("resolve", state, p.copy_of("copy"), "--keep", "this")
        a.piperfs("resolve", state, str(here / "made"), "--keep", "other")
        a.piperfs("resolve", str(here / odd), "--keep", "other")
        a.piperfs("resolve", state, "same", "--all", "--identical", "--keep", "this")
        assert a.run("resolve", state, "this", "--keep", "this").returncode == 4
        assert a.run("resolve", state, "same", "--all", "--keep", "other").returncode == 2
        assert a.run("resolve", state, "nowhere", "--all", "--keep", "this").returncode == 4
        assert "Settled 0" in a.piperfs("resolve", state, "this", "--all", "--keep", "this")
        assert a.run("resolve", "/etc/hostname", "--keep", "this").returncode == 4

        # By hand.
        p.copy_of("read")
        assert (here / p.copy_of("read")).read_bytes() == b"P"
        p.write(p.copy_of("edited"), b"P went on")
        p.rename(p.copy_of("moved"), "moved")
        p.unlink(p.copy_of("removed"))
        p.truncate(p.copy_of("emptied"), 0)

        expected = {
            "this": b"Q", "other": b"P", "both": b"Q", "both~": b"P", "copy": b"P", "made": b"P",
            "read": b"Q", "read~": b"P", "edited": b"Q", "edited~": b"P went on", "moved": b"P",
            odd: b"P", "same": None, "same/1": b"same", "same/2": b"same", "same/3": b"Q",
            "same/3~": b"P", "removed": b"Q", "emptied": b"Q", "emptied~": b"",
        }  # fmt: skip
        pair.meet()
        for one in (a, b):
            found = Mounted(one.mountpoint).tree()
            assert agrees(expected, found, fold), (one.name, found)
            listed = json.loads(one.piperfs("conflicts", str(one.state), "--json"))
            assert sorted(item["path"] for item in listed) == ["/read", "/same/3"]

        # The root of a mount is a place like any other.
        done = a.piperfs("resolve", str(here), "--all", "--keep", "this", "--json")
        assert json.loads(done) == {"resolved": 2}
        assert a.status()["conflicts"] == 0


def make_a_mess(q):
    """What a member may do who should not have been let in."""
    q.write("plan", b"ransom")
    q.unlink("gone")
    q.rename("d/moved", "elsewhere")
    q.chmod("d/mode", 0)
    q.setxattr("d/mode", "user.k", b"ben")
    q.write("note", b"pay here")
    q.mkdir("junk")
    q.write("junk/x", b"x")


def test_history_restore_and_revert(tmp_path):
    with replicas(tmp_path, "anna", "ben") as (a, b):
        pair = Pair(a, b)
        p, q = Mounted(a.mountpoint), Mounted(b.mountpoint)
        state = str(a.state)
        p.mkdir("d")
        for name in ("plan", "gone", "d/moved", "d/mode"):
            p.write(name, f"anna's {name}".encode())
        pair.meet()
        made_ns = os.stat(a.mountpoint / "d/mode").st_ctime_ns
        since = dt.datetime.fromtimestamp(made_ns / 1e9 + 0.001, dt.UTC).isoformat()

        make_a_mess(q)
        pair.meet()

        listed = json.loads(a.piperfs("history", state, "plan", "--json"))
        assert [(v["author"], v["state"]) for v in listed] == [
            ("ben", "current"), ("anna", "superseded"),
        ]  # fmt: skip
        old = listed[1]["version"]
        a.piperfs("restore", state, f"plan@{old}", "--to", "plan of anna")
        assert p.tree()["plan of anna"] == b"anna's plan"
        assert a.run("restore", state, f"plan@{old}", "--to", "plan of anna").returncode == 5
        assert a.run("restore", state, "plan@ffffffffff").returncode == 4

        # History outlives a restart, and tells of deleted files.
        a.kill()
        a.mount()
        deleted = json.loads(a.piperfs("history", str(a.mountpoint / "gone"), "--json"))
        assert [(v["author"], v["state"]) for v in deleted] == [
            ("ben", "deleted"), ("anna", "superseded"),
        ]  # fmt: skip
        a.piperfs("restore", state, f"gone@{deleted[1]['version']}")
        assert p.tree()["gone"] == b"anna's gone"

        done = json.loads(a.piperfs("revert", state, "--author", "ben", "--since", since, "--json"))
        assert done["author"] == "ben"
        pair.heal()
        expected = {
            "plan": b"anna's plan", "gone": b"anna's gone", "d": None, "d/moved": b"anna's d/moved",
            "d/mode": b"anna's d/mode", "plan of anna": b"anna's plan",
        }  # fmt: skip
        for one in (p, q):
            assert one.tree() == expected
            assert one.mode("d/mode") == 0o644
            assert one.xattrs("d/mode") == {}
