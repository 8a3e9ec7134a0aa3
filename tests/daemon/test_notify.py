"""Readiness: what a command's pipe and a service manager's socket really receive.

Both ends are real; a datagram socket in a temporary directory plays systemd.
"""

import os
import socket
from pathlib import Path

import pytest
import trio

from piperfs.control.messages import decode_reply
from piperfs.core.errors import ExitCode, UserError
from piperfs.daemon.lifecycle import feed_watchdog
from piperfs.daemon.notify import Starter


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        yield receiver


def test_systemd_learns_of_readiness_and_stop(manager: socket.socket):
    starter = Starter()
    starter.ready("mounted at /mnt")
    starter.stopping()
    assert b"READY=1\nSTATUS=mounted at /mnt" in manager.recv(1000)
    assert manager.recv(1000) == b"STOPPING=1"
    assert "NOTIFY_SOCKET" not in os.environ


async def test_the_watchdog_is_fed_in_time(manager: socket.socket, autojump_clock: object):
    with trio.move_on_after(0.35):
        await feed_watchdog(Starter())
    fed = [manager.recv(100) for _ in range(4)]
    assert fed == [b"WATCHDOG=1"] * 4


@pytest.mark.parametrize("fails", [False, True])
def test_a_command_reads_the_outcome_from_its_pipe(*, fails: bool):
    reader, writer = os.pipe()
    starter = Starter(writer)
    if fails:
        starter.failed(UserError("no", ExitCode.NOT_FOUND))
    else:
        starter.ready("yes")
        starter.ready("said once only")
    with os.fdopen(reader, "rb") as pipe:
        (line,) = pipe.readlines()
    reply = decode_reply(line)
    assert (reply.error, reply.code) == (("no", 4) if fails else (None, 0))


def test_a_place_may_have_a_name_that_is_no_utf_8(manager: socket.socket):
    reader, writer = os.pipe()
    Starter(writer).ready(os.fsdecode(b"served at /m\xff"))
    with os.fdopen(reader, "rb") as pipe:
        assert os.fsencode(decode_reply(pipe.readline()).ok) == b"served at /m\xff"
    assert b"STATUS=served at /m\xff" in manager.recv(1000)


def test_a_command_that_left_is_no_failure():
    reader, writer = os.pipe()
    os.close(reader)
    Starter(writer).ready("yes")
