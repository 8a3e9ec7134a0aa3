"""`piperfs collect`: what goes, what stays and why, with the daemon at work and without."""

import json
import os
from pathlib import Path

import pytest

from tests.support.volumes import Replica, eventually, replicas

pytestmark = pytest.mark.mount
MIB = 1 << 20


def collect(anna: Replica) -> dict:
    return json.loads(anna.piperfs("collect", str(anna.state), "--json"))


def test_what_nobody_needs_goes_and_the_rest_is_told_by_reason(tmp_path: Path) -> None:
    with replicas(tmp_path, "anna") as (anna,):
        anna.init().mount()
        root = anna.mountpoint
        (root / "kept").write_bytes(os.urandom(MIB))
        (root / "gone").write_bytes(os.urandom(MIB))
        anna.piperfs("sync", str(anna.state), "--copies", "0")
        os.unlink(root / "gone")
        with (root / "scratch").open("wb", buffering=0) as file:
            os.unlink(root / "scratch")
            for _ in range(24):
                file.write(os.urandom(MIB))
            eventually(lambda: collect(anna)["kept"]["open"] > 0)  # it was sealed to save memory
            before = collect(anna)
            assert before["kept"]["current"] > 0
            assert before["kept"]["deleted"] > 0
            assert before["freed"] == {"chunks": 0, "bytes": 0}
        eventually(lambda: collect(anna)["kept"]["open"] == 0)
        text = anna.piperfs("collect", str(anna.state))
        assert "of files deleted less than 30 days ago" in text
        anna.umount()
        after = collect(anna)
        assert after["kept"] == {**before["kept"], "open": 0}
        assert after["kept_bytes"] < before["kept_bytes"] - 4 * MIB
        anna.mount()
        assert len((root / "kept").read_bytes()) == MIB
        anna.umount()
        assert anna.piperfs("fsck", str(anna.state)) == "No findings.\n"
