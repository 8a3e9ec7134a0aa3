"""`invite --pair` and `join --pair`, by real daemons: over an address, and found on a network."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from piperfs.core.errors import UserError
from piperfs.core.pairing_code import make_code, parse_code
from tests.support.volumes import Replica, eventually, replicas

pytestmark = [pytest.mark.net, pytest.mark.mount, pytest.mark.slow]


@contextmanager
def inviting(anna: Replica, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A window that is open, and its code, as it is printed at once."""
    interruptible = ["env", "--default-signal=INT"]  # a shell's background jobs ignore it
    command = [*interruptible, *anna.program, "invite", str(anna.state), "--pair", *flags]
    with subprocess.Popen(
        command, env=anna.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Replica, Replica]]:
    with replicas(tmp_path, "anna", "ben") as (anna, ben):
        anna.init()
        anna.piperfs(
            "serve", str(anna.state), "--listen", "127.0.0.1:0", "--discovery", "off", "-d"
        )
        yield anna, ben


def words_of(text: str) -> str:
    (line,) = (line for line in text.splitlines() if line.startswith("Check words: "))
    return line


def test_a_code_is_typed_in_and_the_volume_is_there(pair: tuple[Replica, Replica]) -> None:
    anna, ben = pair
    with inviting(anna, "--role", "admin") as (process, code):
        shown = ben.piperfs(
            "join", str(ben.state), "--pair", "--peer", anna.address, "--member", "ben", stdin=code
        )
        answer, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "ben has joined" in answer
    assert words_of(answer) == words_of(shown)
    assert "as admin" in shown
    ben.mount(f"peer={anna.address}")
    eventually(lambda: ben.status()["in_sync"] is True)


def test_wrong_codes_are_told_on_both_sides(pair: tuple[Replica, Replica]) -> None:
    anna, ben = pair
    with inviting(anna, "--expires", "5m") as (process, code):
        wrong = wrong_code(code)
        for _ in range(3):
            done = ben.run("join", str(ben.state), "--pair", "--peer", anna.address, stdin=wrong)
            assert (done.returncode, done.stdout) == (5, "")
            assert "the code is wrong" in done.stderr
            assert len(done.stderr.splitlines()) == 1
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 5
    assert "A wrong code was tried (2 of 3)." in errors
    assert errors.splitlines()[-1].startswith("piperfs: 3 wrong codes were tried")
    assert 'peers_refused_total{reason="pairing"} 3' in anna.piperfs("metrics", str(anna.state))
    assert "pairing_wrong_codes_total 3" in anna.piperfs("metrics", str(anna.state))
    log = (anna.state / "daemon.log").read_text()
    assert log.count("pairing.wrong_code") == 3
    assert code not in log


def wrong_code(code: str) -> str:
    while True:
        letters = code[:4] + make_code(os.urandom).letters[4:]
        try:
            wrong = parse_code(letters)
        except UserError:
            continue
        if str(wrong) != code:
            return str(wrong)


def test_who_interrupts_the_command_closes_the_window(pair: tuple[Replica, Replica]) -> None:
    anna, ben = pair
    with inviting(anna) as (process, code):
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
    done = ben.run("join", str(ben.state), "--pair", "--peer", anna.address, stdin=code)
    assert (done.returncode, "no pairing is open" in done.stderr) == (5, True)
    with inviting(anna, "--expires", "1s") as (process, _):
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, "in time" in errors) == (3, True)


def test_what_people_get_wrong(pair: tuple[Replica, Replica]) -> None:
    anna, ben = pair
    new, code = str(ben.state), str(make_code(os.urandom))
    rows = [
        (["join", new], None, 2, "or --pair"),
        (["join", new, code, "--pair"], None, 2, "asks for the code itself"),
        (["join", new, "-", "--peer", "h:1"], "x", 2, "--peer goes with --pair"),
        (["join", new, "--pair", "--peer", "h"], code, 2, "expected HOST:PORT"),
        (["join", new, "--pair"], "sesame", 2, "four words"),
        (["join", new, "--pair"], "", 2, "four words"),
        (["join", new, "--pair", "--peer", "127.0.0.1:1"], code, 4, "does not answer"),
        (["join", str(anna.state), "--pair", "--peer", "h:1"], code, 5, "is a volume already"),
        (["invite", str(anna.state), "--pair", "--expires", "1h"], None, 2, "up to 10 minutes"),
    ]
    for arguments, typed, status, words in rows:
        done = ben.run(*arguments, stdin=typed or "") if "invite" not in arguments else (
            anna.run(*arguments)
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (status, ""), (arguments, done.stderr)
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
    anna.stop()
    done = anna.run("invite", str(anna.state), "--pair")
    assert (done.returncode, "mount or serve" in done.stderr) == (1, True)


@contextmanager
def two_namespaces() -> Iterator[tuple[str, str]]:
    """Two networks that one cable joins."""
    names = tuple(f"pfspair{os.getpid()}{letter}" for letter in "ab")
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        cable = [
            "ip",
            "-n",
            names[0],
            "link",
            "add",
            "eth0",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
        ]
        subprocess.run([*cable, "netns", names[1]], check=True)
        for number, name in enumerate(names, 1):
            for words in (
                ["link", "set", "lo", "up"],
                ["address", "add", f"192.0.2.{number}/24", "dev", "eth0"],
                ["link", "set", "eth0", "up"],
                ["route", "add", "224.0.0.0/4", "dev", "eth0"],
            ):
                subprocess.run(["ip", "-n", name, *words], check=True)
        yield names[0], names[1]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def test_a_code_finds_its_computer_on_the_local_network(tmp_path: Path) -> None:
    with two_namespaces() as places, replicas(tmp_path, "anna", "ben") as (anna, ben):
        for replica, place in zip((anna, ben), places, strict=True):
            replica.program = ("ip", "netns", "exec", place, *replica.program)
        anna.init()
        anna.piperfs("serve", str(anna.state), "--detach")
        with inviting(anna, "--json") as (process, first):
            assert process.stdout is not None
            code = json.loads(first + process.stdout.readline() + process.stdout.readline())["code"]
            shown = ben.run("join", str(ben.state), "--pair", "--member", "ben", stdin=code)
            assert shown.returncode == 0, shown.stderr
            answer, _ = process.communicate(timeout=30)
        assert json.loads(answer)["name"] == "ben"
        assert json.loads(answer)["words"] in shown.stdout
        with inviting(anna):
            elsewhere = str(make_code(os.urandom))
            done = ben.run("join", str(tmp_path / "other"), "--pair", stdin=elsewhere)
        assert (done.returncode, "no computer on this network" in done.stderr) == (4, True)
