"""The steps of `tools/check`, in the order in which they tell most for the least time.

Linters first, then the tests by what they need: nothing, the loopback network, the kernel, time.
A tier that fails ends the run, and a test that was skipped counts as failed: whoever needs
something that is not here must say so, not pass. The last line counts all tests of all tiers.
"""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from environment import ROOT, VENV, fail, say

SOURCES = sorted((ROOT / "piperfs").rglob("*.py"))

# What ruff's ASYNC rules lack: cancelled or unshielded cleanup. Those about checkpoints stay off,
# since an adapter's methods are async by interface and often never wait.
ASYNC_RULES = ",".join(f"ASYNC{n}" for n in (*range(100, 127), 900) if n not in (114, 124))
LINT = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("lint-imports",),
    ("flake8-async", "--enable", ASYNC_RULES, *map(str, SOURCES)),
    ("mypy",),
)
TIERS = (
    ("pure", "not net and not mount and not slow and not soak"),
    ("loopback", "net and not mount and not slow and not soak"),
    ("mounts", "mount and not slow and not soak"),
    ("slow", "slow and not soak"),
)
TIER_SECONDS_MAX = 1800
NO_TESTS = 5  # pytest's exit code for an empty selection
COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped)")


def run(arguments: list[str]) -> int:
    """Run every check; returns the exit code."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        fail("/dev/fuse is missing or closed to you: load the fuse module, or run as root")
    os.chdir(ROOT)
    if not all(_lint(step) for step in LINT):
        return 1
    if arguments:
        return _pytest("selected", arguments, Counter())
    counted: Counter[str] = Counter()
    for name, expression in TIERS:
        code = _pytest(name, ["-m", expression], counted)
        if code:
            break
    failed = counted["failed"] + counted["error"] + counted["skipped"]
    failed += 1 if code and not failed else 0
    print(f"{counted['passed']} passed, {failed} failed", flush=True)
    return 1 if failed or not counted["passed"] else 0


def _lint(step: tuple[str, ...]) -> bool:
    begin = time.monotonic()
    done = subprocess.run(
        [VENV / "bin" / step[0], *step[1:]], capture_output=True, text=True, check=False
    )
    verdict = "ok" if done.returncode == 0 else "failed"
    say(f"{' '.join(step[:2])}: {verdict}, {time.monotonic() - begin:.1f} s")
    if done.returncode != 0:
        sys.stdout.write(done.stdout + done.stderr)
    return done.returncode == 0


def _pytest(name: str, arguments: list[str], counted: "Counter[str]") -> int:
    say(f"Tests: {name}")
    command = [VENV / "bin/python", "-P", "-m", "pytest", "-q", *arguments]
    try:
        return _counted_run(command, counted)
    except subprocess.TimeoutExpired:
        say(f"the {name} tests took longer than {TIER_SECONDS_MAX} s")
        return 1


def _counted_run(command: list[str | Path], counted: "Counter[str]") -> int:
    """Run pytest, pass its output on as it comes, and add up its last line."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        last = ""
        deadline = time.monotonic() + TIER_SECONDS_MAX
        for line in child.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            last = line if COUNT.search(line) else last
            if time.monotonic() > deadline:
                child.terminate()
                raise subprocess.TimeoutExpired(command, TIER_SECONDS_MAX)
        code = child.wait()
    for number, word in COUNT.findall(last):
        counted[word.removesuffix("s")] += int(number)
    return 0 if code == NO_TESTS else code
