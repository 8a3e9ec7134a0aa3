"""Two and three real daemons with real mounts: what people with several computers do."""

import contextlib
import mmap
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.support.volumes import eventually, replicas, same_tree, two_mounted

pytestmark = pytest.mark.mount


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def synced(*parts) -> bool:
    return len({replica.digest() for replica in parts}) == 1


@pytest.fixture
def pair(tmp_path):
    with two_mounted(tmp_path) as (a, b):
        yield a, b


def test_a_file_appears_on_the_other_computer(pair):
    a, b = pair
    (a.mountpoint / "x").write_bytes(b"hello")
    eventually(lambda: (b.mountpoint / "x").read_bytes() == b"hello")
    (b.mountpoint / "x").write_bytes(b"answer")
    eventually(lambda: (a.mountpoint / "x").read_bytes() == b"answer")


def test_a_tree_arrives_identical(pair, tmp_path):
    a, b = pair
    source = tmp_path / "source"
    (source / "d/e").mkdir(parents=True)
    for n in range(200):
        (source / f"d/e/{n} name").write_bytes(os.urandom(n * 50))
    (source / "big").write_bytes(os.urandom(3_000_000))
    (source / "link").symlink_to("d/e")
    os.link(source / "big", source / "hard")
    os.setxattr(source / "big", "user.note", b"\x00\xff")
    os.chmod(source / "d", 0o2750)
    os.utime(source / "d/e/7 name", ns=(1, -5_000_000_001))
    subprocess.run(["cp", "-a", f"{source}/.", str(a.mountpoint)], check=True)
    a.piperfs("sync", str(a.state), "--timeout", "30")
    assert same_tree(source, b.mountpoint)
    assert synced(a, b)


def test_lines_appended_elsewhere_are_followed(pair):
    a, b = pair
    (a.mountpoint / "log").write_text("1\n")
    eventually((b.mountpoint / "log").exists)
    tail = subprocess.Popen(
        ["tail", "-n", "+1", "-s", "0.1", "-f", str(b.mountpoint / "log")],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert tail.stdout.readline() == "1\n"
        with (a.mountpoint / "log").open("a") as log:
            log.write("2\n")
        assert tail.stdout.readline() == "2\n"
    finally:
        tail.kill()
        tail.communicate()


def test_caches_follow_what_happens_elsewhere(pair):
    a, b = pair
    here, there = a.mountpoint / "d", b.mountpoint / "d"
    here.mkdir()
    for name in ("kept", "removed", "mapped"):
        (here / name).write_text(name)
    eventually(lambda: names(there) == ["kept", "mapped", "removed"])
    assert not (there / "new").exists()  # the kernel remembers that, and the rest
    assert (there / "kept").stat().st_mode & 0o777 == 0o644
    with (there / "mapped").open("rb") as file, mmap.mmap(file.fileno(), 6, prot=1) as mapped:
        assert mapped[:] == b"mapped"
        (here / "new").write_text("1")
        (here / "removed").unlink()
        (here / "kept").chmod(0o600)
        os.setxattr(here / "kept", "user.x", b"1")
        (here / "mapped").write_text("MAPPED")
        (here / "kept").rename(here / "moved")
        eventually(lambda: names(there) == ["mapped", "moved", "new"])
        eventually(lambda: mapped[:] == b"MAPPED")
        assert (there / "new").read_text() == "1"
        assert not (there / "removed").exists()
        assert not (there / "kept").exists()
        assert (there / "moved").stat().st_mode & 0o777 == 0o600
        assert os.getxattr(there / "moved", "user.x") == b"1"


@pytest.mark.parametrize("driver", ["kernel", "pyfuse3"])
def test_nothing_stale_is_left_after_many_changes(tmp_path, driver):
    """A watcher reads and lists all the time, so that caches are full of what changes."""
    with two_mounted(tmp_path, f"driver={driver}") as (a, b):
        for n in range(100):
            (a.mountpoint / f"f{n}").write_text("0")
        eventually(lambda: len(names(b.mountpoint)) == 100)
        ended = threading.Event()

        def watch() -> None:
            while not ended.is_set():
                for name in names(b.mountpoint):
                    with contextlib.suppress(FileNotFoundError):
                        (b.mountpoint / name).read_text()
                        (b.mountpoint / name).stat()

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for n in range(100):
                (a.mountpoint / f"f{n}").write_text(f"new {n}")
                if n % 3 == 0:
                    (a.mountpoint / f"f{n}").rename(a.mountpoint / f"g{n}")
            eventually(synced, a, b)
            eventually(lambda: names(a.mountpoint) == names(b.mountpoint), within_s=2)
            for name in names(a.mountpoint):
                assert (b.mountpoint / name).read_text() == f"new {name[1:]}"
        finally:
            ended.set()
            watcher.join()


def test_while_a_reader_waits_all_else_goes_on(tmp_path):
    with two_mounted(tmp_path, "cache=1M,deadline=60") as (a, b):
        (a.mountpoint / "small").write_text("here")
        (a.mountpoint / "big").write_bytes(os.urandom(3_000_000))
        eventually(lambda: (b.mountpoint / "big").stat().st_size == 3_000_000)
        assert (b.mountpoint / "small").read_text() == "here"
        a_pid = a.pid
        os.kill(a_pid, signal.SIGSTOP)  # it is asked, and does not answer
        try:
            # In turn: who waits for a page that somebody else asked for hears no SIGINT.
            for ending in (signal.SIGINT, signal.SIGKILL):
                with subprocess.Popen(
                    ["env", "--default-signal=INT", "cat", str(b.mountpoint / "big")],
                    stdout=subprocess.DEVNULL,
                ) as reader:
                    with pytest.raises(subprocess.TimeoutExpired):
                        reader.wait(0.5)
                    assert names(b.mountpoint) == ["big", "small"]
                    assert (b.mountpoint / "big").stat().st_size == 3_000_000
                    assert (b.mountpoint / "small").read_text() == "here"
                    (b.mountpoint / "new").write_text("written meanwhile")
                    (b.mountpoint / "new").unlink()
                    reader.send_signal(ending)
                    assert reader.wait(10) == -ending
        finally:
            os.kill(a_pid, signal.SIGCONT)


def test_edits_made_apart_are_both_kept(tmp_path):
    with two_mounted(tmp_path) as (a, b):
        (a.mountpoint / "n.txt").write_text("base")
        eventually(lambda: (b.mountpoint / "n.txt").read_text() == "base")
        b_pid = b.pid
        os.kill(b_pid, signal.SIGSTOP)
        try:
            (a.mountpoint / "n.txt").write_text("from a")
        finally:
            a_pid = a.pid
            os.kill(a_pid, signal.SIGSTOP)
            os.kill(b_pid, signal.SIGCONT)
        try:
            (b.mountpoint / "n.txt").write_text("from b")
        finally:
            os.kill(a_pid, signal.SIGCONT)
        eventually(lambda: synced(a, b) and names(a.mountpoint) == names(b.mountpoint))
        texts = {(b.mountpoint / name).read_text() for name in names(b.mountpoint)}
        assert texts >= {"from b"}
        if len(texts) == 2:
            assert texts == {"from a", "from b"}
            assert "conflict" in a.piperfs("conflicts", str(a.state))


def test_changes_reach_a_third_through_the_second(tmp_path):
    with replicas(tmp_path, "anna", "ben", "cleo") as (a, b, c):
        a.init().mount()
        b.join(a)
        c.join(a)
        b.mount(f"peer={a.address}")
        a_address = a.address
        a.umount()
        c.mount(f"peer={b.address}")
        (b.mountpoint / "x").write_text("via b")
        eventually(lambda: (c.mountpoint / "x").read_text() == "via b")
        a.mount(f"peer={b.address}")
        assert a_address
        (a.mountpoint / "y").write_text("from a")
        eventually(lambda: (c.mountpoint / "y").read_text() == "from a")
        eventually(synced, a, b, c)


def test_a_killed_daemon_loses_nothing_that_was_synced(pair):
    a, b = pair
    for n in range(20):
        with (a.mountpoint / f"f{n}").open("wb") as file:
            file.write(b"%d" % n * 1000)
            os.fsync(file.fileno())
    a.mountpoint.stat()  # the kernel keeps the answer when nobody serves the mount any more
    a.kill()
    a.mount(f"peer={b.address}")
    for n in range(20):
        assert (a.mountpoint / f"f{n}").read_bytes() == b"%d" % n * 1000
    eventually(synced, a, b)
    assert a.piperfs("fsck", str(a.state)) == "No findings.\n"


@pytest.mark.parametrize("driver", ["kernel", "pyfuse3"])
def test_who_waits_for_content_is_freed_when_the_daemon_is_killed(tmp_path, driver):
    """The kernel's page is locked by a reader, and a notification waits for the same page."""
    with replicas(tmp_path, "anna", "ben", "cleo") as (a, b, c):
        a.init().mount(f"cache=1M,deadline=60,driver={driver}")
        for other, options in ((b, "peer="), (c, "cache=1M,peer=")):
            other.join(a)
            other.mount(options + a.address)
        (b.mountpoint / "big").write_bytes(os.urandom(3_000_000))
        for other in (a, c):
            eventually(lambda o=other: (o.mountpoint / "big").stat().st_size == 3_000_000)
        b_pid = b.pid
        os.kill(b_pid, signal.SIGSTOP)  # whoever has the content is asked, and does not answer
        reader = subprocess.Popen(["cat", str(a.mountpoint / "big")], stdout=subprocess.PIPE)
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                reader.wait(1)
            (c.mountpoint / "big").write_bytes(b"new")
            eventually(lambda: a.status()["digest"] == c.status()["digest"])
            a.kill()
            assert reader.wait(10) != 0
        finally:
            os.kill(b_pid, signal.SIGCONT)
            reader.kill()
            reader.communicate()
        a.mount(f"peer={b.address}")
        eventually(lambda: (a.mountpoint / "big").read_bytes() == b"new")


def test_umount_loses_nothing(tmp_path):
    with replicas(tmp_path, "anna") as (a,):
        a.init().mount()
        (a.mountpoint / "f").write_bytes(b"x" * 300_000)
        a.umount()
        assert not a.is_mounted()
        a.mount()
        assert (a.mountpoint / "f").read_bytes() == b"x" * 300_000
        subprocess.run(["umount", str(a.mountpoint)], check=True)
        eventually(lambda: a.run("status", str(a.state), "--json").returncode == 0)
        a.mount()
        assert (a.mountpoint / "f").read_bytes() == b"x" * 300_000


def test_absent_content_is_fetched_or_refused_in_time(tmp_path):
    with two_mounted(tmp_path, "cache=1M,deadline=4") as (a, b):
        data = os.urandom(2_000_000)
        (a.mountpoint / "big").write_bytes(data)
        eventually(lambda: (b.mountpoint / "big").stat().st_size == len(data))
        assert (b.mountpoint / "big").read_bytes() == data
        (a.mountpoint / "other").write_bytes(os.urandom(2_000_000))
        eventually(lambda: (b.mountpoint / "other").stat().st_size == 2_000_000)
        a.umount()
        with pytest.raises(OSError, match=r"No route to host|timed out"):
            (b.mountpoint / "other").read_bytes()
        (b.mountpoint / "still works").write_text("yes")


def test_offline_commands_answer(tmp_path):
    with replicas(tmp_path, "anna") as (a,):
        a.init()
        assert a.status()["pid"] is None
        assert len(a.digest()) == 64
        assert "anna" in a.piperfs("members", str(a.state))
        assert a.piperfs("fsck", str(a.state)) == "No findings.\n"
        assert "piperfs_operations_live" in a.piperfs("metrics", str(a.state))


def test_a_removed_member_is_refused(pair):
    a, b = pair
    (a.mountpoint / "before").write_text("1")
    eventually((b.mountpoint / "before").exists)
    a.piperfs("remove-member", str(a.state), "ben")
    (a.mountpoint / "after").write_text("2")
    eventually(lambda: all(peer["state"] != "connected" for peer in b.status()["peers"]))
    assert not (b.mountpoint / "after").exists()


def test_bad_input_gets_one_line_and_its_code(tmp_path):
    with replicas(tmp_path, "anna", "ben") as (a, b):
        a.init().mount()
        ticket = a.piperfs("invite", str(a.state)).strip()
        cases = [
            (("init", str(a.state)), 5),
            (("join", str(b.state), "nonsense"), 2),
            (("join", str(b.state), ticket[:-9]), 2),
            (("mount", str(tmp_path / "gone"), str(b.mountpoint)), 4),
            (("mount", str(a.state), str(b.mountpoint)), 5),
            (("mount", str(a.state), str(a.mountpoint), "-o", "listen=x"), 0),
            (("serve", str(a.state), "-d", "-o", "nonsense"), 2),
            (("umount", str(b.mountpoint)), 4),
            (("status", str(tmp_path)), 4),
            (("remove-member", str(a.state), "nobody"), 4),
            (("sync", str(a.state), "--timeout", "0.3"), 3),
        ]
        for arguments, code in cases:
            done = b.run(*arguments) if "join" in arguments else a.run(*arguments)
            assert done.returncode == code, (arguments, done.stderr)
            assert "Traceback" not in done.stderr
            if code:
                assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        b.join(a)
        spent = b.run("join", str(tmp_path / "third"), ticket)
        assert spent.returncode == 0, spent.stderr
        again = b.run("join", str(tmp_path / "fourth"), ticket)
        assert again.returncode == 5
        assert "spent" in again.stderr


def test_an_emptied_replica_spreads_no_deletes(pair):
    a, b = pair
    (a.mountpoint / "precious").write_text("x")
    eventually((b.mountpoint / "precious").exists)
    address = a.address
    b.umount()
    for path in (b.state / "store").iterdir():
        path.unlink()
    refused = b.run("mount", str(b.state), str(b.mountpoint), "-o", f"peer={address}")
    assert refused.returncode == 4
    assert "is its disk mounted" in refused.stderr
    assert (a.mountpoint / "precious").read_text() == "x"
