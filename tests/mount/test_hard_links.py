"""One of several names goes while the file is open, and another computer writes by another."""

import os
from pathlib import Path

import pytest

from tests.support.volumes import eventually, two_mounted

pytestmark = pytest.mark.mount


def test_news_arrive_though_the_opened_name_is_gone(tmp_path: Path) -> None:
    with two_mounted(tmp_path) as (a, b):
        ours, theirs = a.mountpoint, b.mountpoint
        for way in (os.O_RDONLY, os.O_RDWR):
            (ours / "f").write_bytes(b"base")
            os.link(ours / "f", ours / f"g{way}")
            eventually(lambda way=way: (theirs / f"g{way}").read_bytes() == b"base")
            descriptor = os.open(ours / "f", way)
            os.unlink(ours / "f")
            (theirs / f"g{way}").write_bytes(b"news")
            if way == os.O_RDWR:
                eventually(lambda: a.digest() == b.digest())
                os.close(descriptor)
            eventually(lambda way=way: (ours / f"g{way}").read_bytes() == b"news")
            if way == os.O_RDONLY:
                assert os.pread(descriptor, 10, 0) == b"news", "it is the same file"
                os.close(descriptor)
            assert (ours / f"g{way}").stat().st_nlink == 1
        eventually(lambda: sorted(os.listdir(theirs)) == ["g0", "g2"])
