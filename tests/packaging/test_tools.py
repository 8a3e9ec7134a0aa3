"""The two commands, the demonstration and the README, as a newcomer runs them.

The README's lines are run as they stand, each computer with a home of its own, in a network
namespace, since a newcomer's defaults listen and announce themselves.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
NETWORK = "ip link set lo up && ip addr add 10.77.0.1/32 dev lo && echo up && exec cat"
pytestmark = [pytest.mark.mount, pytest.mark.net, pytest.mark.slow]


class Home:
    """One computer: a home directory, and the network namespace that all share."""

    def __init__(self, base: Path, network: int) -> None:
        self.path = base
        self._network = network
        (base / "run").mkdir(parents=True, mode=0o700)

    def run(self, *command: str) -> str:
        """Run a command as it stands in the README; returns what it prints."""
        program = str(ROOT / "tools/piperfs") if command[0] == "piperfs" else str(ROOT / command[0])
        arguments = [word.replace("~", str(self.path), 1) for word in command[1:]]
        done = subprocess.run(
            ["nsenter", "-t", str(self._network), "-n", "--", program, *arguments],
            env={
                **os.environ,
                "HOME": str(self.path),
                "XDG_DATA_HOME": str(self.path / ".local/share"),
                "XDG_RUNTIME_DIR": str(self.path / "run"),
            },
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture
def network() -> Iterator[int]:
    """A namespace with an address of its own, for as long as its holder lives."""
    with subprocess.Popen(
        ["unshare", "-n", "sh", "-c", NETWORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        yield holder.pid
        assert holder.stdin is not None
        holder.stdin.close()


def commands(text: str) -> list[list[str]]:
    """Every command of every shell example, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True) for line in "".join(blocks).splitlines()]
    return [line for line in lines if line]


def test_the_readme_begins_with_the_two_commands():
    assert [line[0] for line in commands(README)][:2] == ["tools/up", "tools/check"]


def test_every_command_of_the_readme_works(tmp_path: Path, network: int):
    first, second = Home(tmp_path / "first", network), Home(tmp_path / "second", network)
    here, ticket = first, ""
    try:
        for line in commands(README):
            if line[0] == "tools/check":  # it is running this test
                continue
            here = second if line[1] == "join" else here
            if here is second and line[1] == "mount":
                (second.path / "PiperFS").mkdir()
            said = here.run(*(ticket if word.startswith("piper1:") else word for word in line))
            ticket = said.strip() if line[1] == "invite" else ticket
        (first.path / "PiperFS/letter").write_text("dear")
        first.run("piperfs", "sync", "home", "--timeout", "60")
        assert (second.path / "PiperFS/letter").read_text() == "dear"
    finally:
        for home in (first, second):
            home.run("tools/down", "~/PiperFS")
    assert not (first.path / "PiperFS/letter").exists()


def test_the_demonstration_runs_to_its_end():
    done = subprocess.run(
        [ROOT / "tools/demo"], capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    for step in range(1, 7):
        assert f"\n{step}. " in done.stdout
    assert "No conflicts." in done.stdout


@pytest.mark.parametrize("tool", sorted(path.name for path in (ROOT / "tools").glob("[!_.]*")))
def test_every_tool_explains_itself(tool: str):
    path = ROOT / "tools" / tool
    if tool.endswith(".py") or path.is_dir() or tool == "check":
        assert path.is_dir() or (path.read_text().startswith(('"""', "#!")))
        return
    done = subprocess.run([path, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) > 80


def test_the_changelog_takes_every_fragment():
    done = subprocess.run([ROOT / "tools/news"], capture_output=True, text=True, check=True)
    title, *points = done.stdout.strip().splitlines()
    fragments = list((ROOT / "packaging/news").glob("*.md"))
    assert title == "## Unreleased"
    assert len([point for point in points if point.startswith("- ")]) == len(fragments)
