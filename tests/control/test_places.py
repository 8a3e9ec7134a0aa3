"""Where things are looked for, by what the environment says, and what it should not."""

import os
from pathlib import Path

import pytest

from piperfs.control import places


@pytest.mark.parametrize("nothing", [None, "", "relative", "./x"])
def test_what_is_empty_or_relative_is_as_good_as_unset(
    monkeypatch: pytest.MonkeyPatch, nothing: str | None
):
    for variable in ("XDG_DATA_HOME", "XDG_RUNTIME_DIR", places.RUNTIME_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
        if nothing is not None:
            monkeypatch.setenv(variable, nothing)
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert places.state_root() == Path("/var/lib/piperfs")
    assert places.runtime_directory() == Path("/run/piperfs")
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert places.state_root() == Path("/home/anna/.local/share/piperfs")
    assert places.runtime_directory() == Path("/tmp/piperfs-54321")


def test_root_too_may_name_other_places(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(places.RUNTIME_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/runtime")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert places.state_root() == Path("/data/piperfs")
    assert places.runtime_directory() == Path("/runtime/piperfs")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/0")
    assert places.runtime_directory() == Path("/run/piperfs")
