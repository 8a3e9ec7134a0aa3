"""A minute of seeds on all cores, through the command that people run."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_minute_of_seeds_breaks_nothing():
    done = subprocess.run(
        [sys.executable, "-P", "tools/simulating.py", "--minutes", "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "seeds/h" in done.stdout
