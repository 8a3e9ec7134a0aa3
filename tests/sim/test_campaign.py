"""A minute of seeds on all cores, through the command that people run.

They are always the same seeds, so that a change is judged by what it does and not by how many
seeds a machine gets through; new seeds are for campaigns.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_first_seeds_break_nothing():
    done = subprocess.run(
        [sys.executable, "-P", "tools/simulating.py", "--seeds", "200"],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "seeds/h" in done.stdout
