"""A damaged store: noticed before it can crash the daemon, repaired with the help of a peer."""

import os

import pytest

from tests.support.volumes import eventually, same_tree, two_mounted

pytestmark = pytest.mark.mount
PAGE_BYTES = 4096


def wipe(replica, numbers):
    with (replica.state / "store/data.mdb").open("r+b") as file:
        for number in numbers:
            file.seek(number * PAGE_BYTES)
            file.write(os.urandom(PAGE_BYTES))


def fill(root):
    for n in range(60):
        (root / f"d{n % 5}").mkdir(exist_ok=True)
        (root / f"d{n % 5}/{n}").write_bytes(os.urandom(n * 300))


@pytest.mark.parametrize(
    "damage",
    [
        "a root",
        pytest.param("every seventh page", marks=pytest.mark.slow),
        pytest.param("the end is cut off", marks=pytest.mark.slow),
    ],
)
def test_a_damaged_store_is_refused_after_a_crash_and_repaired_with_a_peer(tmp_path, damage):
    with two_mounted(tmp_path) as (a, b):
        fill(a.mountpoint)
        a.piperfs("sync", str(a.state), "--timeout", "60")
        address = a.address
        b.kill()
        data = b.state / "store/data.mdb"
        pages = data.stat().st_size // PAGE_BYTES
        if damage == "a root":
            wipe(b, [0])
        elif damage == "every seventh page":
            wipe(b, range(5, pages, 7))
        else:
            os.truncate(data, pages // 2 * PAGE_BYTES)
        refused = b.run("mount", str(b.state), str(b.mountpoint))
        assert refused.returncode == 5, refused.stderr
        assert "fsck --repair" in refused.stderr
        found = b.run("fsck", str(b.state))
        assert found.returncode == 1, found.stderr
        repaired = b.run("fsck", str(b.state), "--repair")
        if "beyond repair" in repaired.stderr:  # the keys of the volume were on those pages
            assert repaired.returncode == 1
            return
        assert repaired.returncode == 0, repaired.stderr
        assert b.piperfs("fsck", str(b.state)) == "No findings.\n"
        b.mount(f"peer={address}")
        eventually(lambda: a.digest() == b.digest())
        b_wants = lambda: b.status()["store"]["chunks_wanted"] == 0
        eventually(b_wants)
        assert same_tree(a.mountpoint, b.mountpoint)
        (b.mountpoint / "new").write_text("from b")
        eventually(lambda: (a.mountpoint / "new").read_text() == "from b")
