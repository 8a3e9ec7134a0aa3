"""The short runs of `tools/crash`; the long ones are made by hand, with `--long`."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.mount
TOOL = Path(__file__).parents[2] / "tools/crash"


@pytest.mark.parametrize(
    ("way", "rounds"),
    [("kill", 6), ("power", 2), ("memory", 3), ("replay", 200), ("errno", 3), ("rot", 60)],
)
def test_a_short_run_breaks_no_promise(way, rounds):
    command = [sys.executable, str(TOOL), way, "--rounds", str(rounds), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
