"""Where content is changes how much room a file takes here, and neither of its times."""

import os
from pathlib import Path

import pytest

from tests.support.volumes import eventually, replicas

pytestmark = [pytest.mark.mount, pytest.mark.slow]
MIB = 1 << 20


def test_reading_raises_the_blocks_and_eviction_lowers_them(tmp_path: Path) -> None:
    with replicas(tmp_path, "anna", "ben") as (anna, ben):
        anna.init().mount()
        sizes = {"long": 8 * MIB, "short": 3 * MIB, "small": 1 * MIB}
        for name, size in sizes.items():
            (anna.mountpoint / name).write_bytes(os.urandom(size))
        ben.join(anna)
        ben.mount(f"peer={anna.address},cache=2M")
        eventually(lambda: len(os.listdir(ben.mountpoint)) == len(sizes))

        def facts(name: str) -> os.stat_result:
            return (ben.mountpoint / name).stat()

        before = {name: facts(name) for name in sizes}
        assert all(facts(name).st_blocks * 512 < size for name, size in sizes.items())
        for name in ("long", "short"):
            assert len((ben.mountpoint / name).read_bytes()) == sizes[name]
            held = facts(name).st_blocks
            assert held * 512 >= sizes[name]
            eventually(lambda name=name, held=held: facts(name).st_blocks < held, within_s=90)
        for name in sizes:
            now, then = facts(name), (anna.mountpoint / name).stat()
            assert (now.st_mtime_ns, now.st_ctime_ns) == (
                before[name].st_mtime_ns, before[name].st_ctime_ns,
            )  # fmt: skip
            assert (now.st_mtime_ns, now.st_ctime_ns) == (then.st_mtime_ns, then.st_ctime_ns)
