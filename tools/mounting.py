"""Mounts and unmounts the volume that `tools/up` is about."""

import subprocess
from pathlib import Path

from environment import ROOT, fail, say

VOLUME = "home"


def _piperfs(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-P", "-m", "piperfs", *arguments]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)


def _must(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode != 0:
        fail(done.stderr.strip() or f"it ended with code {done.returncode}")
    return done.stdout.strip()


def up(python: Path, directory: Path) -> None:
    """Create the volume if it is missing, and mount it."""
    directory = directory.absolute()
    if _piperfs(python, "status", VOLUME).returncode == 4:
        say(_must(_piperfs(python, "init", VOLUME)))
    directory.mkdir(parents=True, exist_ok=True)
    _must(_piperfs(python, "mount", VOLUME, str(directory)))
    say(f"The volume `{VOLUME}` is mounted at {directory}.")
    say(f"  tools/piperfs invite {VOLUME}      prints a ticket for another computer")
    say(f"  tools/piperfs status {VOLUME}      shows peers and what they wait for")
    say(f"  tools/down {directory}      unmounts it")


def down(python: Path, directory: Path) -> None:
    """Unmount; returns when everything is on the disk."""
    _must(_piperfs(python, "umount", str(directory.absolute())))
