"""A mount that keeps only some content lists everything and reads what is asked for."""

import hashlib
import os
from pathlib import Path

import pytest

from tests.support.volumes import eventually, replicas

pytestmark = [pytest.mark.mount, pytest.mark.slow]
MIB = 1 << 20


def test_a_small_cache_shows_and_reads_everything(tmp_path: Path) -> None:
    with replicas(tmp_path, "anna", "ben") as (anna, ben):
        anna.init().mount()
        expected = {}
        for number in range(12):
            data = os.urandom(2 * MIB)
            (anna.mountpoint / f"film{number}").write_bytes(data)
            expected[f"film{number}"] = hashlib.sha256(data).digest()
        ben.join(anna)
        ben.mount(f"peer={anna.address},cache=6M")
        eventually(lambda: len(os.listdir(ben.mountpoint)) == 12)
        assert (ben.mountpoint / "film3").stat().st_size == 2 * MIB
        assert ben.status()["store"]["bytes_used"] < 4 * MIB  # nothing was fetched yet
        for name, digest in expected.items():
            read = (ben.mountpoint / name).read_bytes()
            assert hashlib.sha256(read).digest() == digest
        eventually(lambda: ben.status()["store"]["chunks_wanted"] > 60)  # let go again
        assert ben.status()["in_sync"]
        assert anna.run("sync", str(anna.state), "--timeout", "1").returncode == 3  # no copy
        again = (ben.mountpoint / "film3").read_bytes()
        assert hashlib.sha256(again).digest() == expected["film3"]
