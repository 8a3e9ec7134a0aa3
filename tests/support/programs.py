"""Runs real programs for tests, and complains with their own words when they fail."""

import os
import subprocess
from pathlib import Path

import pytest

TIMEOUT_S = 500

kernel_only = pytest.mark.parametrize("volume", ["kernel"], indirect=True)


def run(*command: object, cwd: Path | None = None, code: int = 0, **extra: str) -> str:
    """Run a program that must end with a code; returns what it prints."""
    done = subprocess.run(
        [os.fspath(word) if isinstance(word, Path) else str(word) for word in command],
        cwd=cwd, env={**os.environ, **extra}, text=True, errors="surrogateescape",
        stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == code, f"{command}: {done.returncode} {done.stdout}{done.stderr}"
    return done.stdout


def shell(script: str, cwd: Path | None = None, **extra: str) -> str:
    return run("bash", "-euo", "pipefail", "-c", script, cwd=cwd, **extra)


def git(folder: Path, *words: object) -> str:
    """git as somebody without any configuration, in the foreground."""
    settings = ("user.name=a", "user.email=a@b", "gc.autoDetach=false", "init.defaultBranch=main")
    options = [word for setting in settings for word in ("-c", setting)]
    return run("git", *options, *words, cwd=folder, GIT_CONFIG_GLOBAL="/dev/null")
