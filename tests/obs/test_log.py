"""The log: a place for events that cannot be written must not stop what the events are about."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from piperfs.obs import log as logs


def test_an_event_that_cannot_be_written_is_lost_and_nothing_more():
    full = Path("/dev/full").open("a", encoding="utf-8", buffering=1)  # noqa: SIM115 - fails to close
    logs.configure(full, as_json=True)
    try:
        logs.get_logger("test").info("event.lost", number=1)
        logs.get_logger("test").warning("event.lost", number=2)
    finally:
        logs.configure(as_json=False)
        with contextlib.suppress(OSError):
            full.close()


def test_a_closed_stream_loses_events_quietly(tmp_path):
    stream = (tmp_path / "log").open("w")
    logs.configure(stream, as_json=True)
    logs.get_logger("test").info("event.kept")
    stream.close()
    logs.get_logger("test").info("event.lost")
    logs.configure(as_json=False)
    assert "event.kept" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("as_json", [True, False])
def test_an_error_is_told_without_what_variables_hold(as_json):
    stream = io.StringIO()
    logs.configure(stream, as_json=as_json)
    passphrase = "opensesame"
    try:
        int("no number")
    except ValueError:
        logs.get_logger("test").exception("event.failed")
    finally:
        logs.configure(as_json=False)
    assert "no number" in stream.getvalue()
    assert passphrase not in stream.getvalue()


def test_a_line_for_people_holds_nothing_that_a_terminal_obeys():
    stream = io.StringIO()
    logs.configure(stream, as_json=False)
    logs.get_logger("test").info("event.told", name="evil\n\x1b[31mred")
    logs.configure(as_json=False)
    (line,) = stream.getvalue().splitlines()
    assert r"evil\n\x1b[31mred" in line
    assert line.isprintable()


LOGGING = """
import os, sys
from pathlib import Path
from piperfs.obs import log as logs
from piperfs.obs.logfile import LogFile

logs.configure(LogFile(Path(sys.argv[1]), 10_000), as_json=True)
for number in range(1000):
    logs.get_logger("test").info("event.told", number=number)
os.write(2, b"the interpreter's last words\\n")
"""


def test_a_full_log_becomes_the_older_of_two(tmp_path):
    path = tmp_path / "daemon.log"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", LOGGING, str(path)], check=True)
    older = tmp_path / "daemon.log.1"
    assert sorted(tmp_path.iterdir()) == [path, older]
    assert path.stat().st_size < older.stat().st_size < 10_200
    lines = (older.read_text() + path.read_text()).splitlines()
    assert lines.pop() == "the interpreter's last words"
    numbers = [json.loads(line)["number"] for line in lines]
    assert numbers == list(range(1000 - len(lines), 1000))
