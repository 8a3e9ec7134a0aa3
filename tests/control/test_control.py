"""The control socket end to end: a blocking client against the real server on a real socket.

The daemon behind it is a handful of verbs, since what is tested is the conversation itself.
"""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from piperfs.control import client, places, server
from piperfs.control.messages import Reply, Request
from piperfs.core.errors import ExitCode, UserError
from piperfs.core.limits import CONTROL_CLIENTS_MAX, CONTROL_REQUEST_BYTES_MAX


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    places.prepare_runtime_directory()
    return tmp_path / "volume"


async def echo(request: Request, progress: server.Progress) -> Any:
    await progress.report("half", 1, 2)
    return request.arguments


async def refuse(_request: Request, _progress: server.Progress) -> Any:
    raise UserError("not today", ExitCode.REFUSED)


async def break_down(_request: Request, _progress: server.Progress) -> Any:
    raise ZeroDivisionError("a mistake of ours")


VERBS: server.Verbs = {"echo": echo, "refuse": refuse, "break": break_down}


@pytest.fixture
async def daemon(state: Path, nursery: trio.Nursery) -> None:
    await nursery.start(server.serve, places.socket_path(state), VERBS)


def ask(state: Path, do: str, show: client.Show = client.ignore_progress) -> Any:
    connection = places.connect(state)
    assert connection is not None
    return client.call(connection, do, {"name": "x", "many": ["a", "b"]}, show)


async def test_a_verb_answers_with_its_value(state: Path, daemon: None):
    seen: list[Reply] = []
    answer = await trio.to_thread.run_sync(ask, state, "echo", seen.append)
    assert answer == {"name": "x", "many": ["a", "b"]}
    assert [(reply.progress, reply.done, reply.total) for reply in seen] == [("half", 1, 2)]


async def test_text_that_is_no_utf_8_arrives_as_it_was_sent(state: Path, daemon: None):
    name = os.fsdecode(b"caf\xe9 \xff \xf0\x9f\x90\x8d")

    def tell() -> Any:
        connection = places.connect(state)
        assert connection is not None
        return client.call(connection, "echo", {"name": name})

    assert await trio.to_thread.run_sync(tell) == {"name": name}


async def test_an_error_keeps_its_words_and_code(state: Path, daemon: None):
    with pytest.raises(UserError, match="not today") as caught:
        await trio.to_thread.run_sync(ask, state, "refuse")
    assert caught.value.code is ExitCode.REFUSED


async def test_a_mistake_in_a_verb_spares_the_daemon(state: Path, daemon: None):
    with pytest.raises(UserError, match="failed unexpectedly"):
        await trio.to_thread.run_sync(ask, state, "break")
    assert await trio.to_thread.run_sync(ask, state, "echo")


async def test_an_unknown_verb_is_a_usage_error(state: Path, daemon: None):
    with pytest.raises(UserError) as caught:
        await trio.to_thread.run_sync(ask, state, "dance")
    assert caught.value.code is ExitCode.USAGE


async def test_the_socket_is_for_its_owner_alone(state: Path, daemon: None):
    path = places.socket_path(state)
    assert path.lstat().st_mode & 0o777 == 0o600
    assert path.parent.lstat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("line", [b"nonsense\n", b"[]\n", b'{"do": 3}\n', b"\xff\xfe\n"])
async def test_garbage_gets_an_answer_in_words(state: Path, daemon: None, line: bytes):
    assert b"no request of PiperFS" in await exchange(state, line)


async def test_a_request_of_64_kib_is_the_longest(state: Path, daemon: None):
    frame = b'{"do":"echo","arguments":{"a":"%s"}}\n'
    fits = frame % (b"x" * (CONTROL_REQUEST_BYTES_MAX - len(frame) + 2))
    assert len(fits) == CONTROL_REQUEST_BYTES_MAX
    assert b'"ok"' in await exchange(state, fits)
    assert b"at most 64 KiB" in await exchange(state, fits.replace(b"x", b"xx", 1))


async def exchange(state: Path, line: bytes) -> bytes:
    connection = await trio.to_thread.run_sync(places.connect, state)
    assert connection is not None
    connection.setblocking(False)
    received = b""
    async with trio.SocketStream(trio.socket.from_stdlib_socket(connection)) as stream:
        await stream.send_all(line)
        with trio.fail_after(10):
            async for part in stream:
                received += part
    return received


async def test_a_client_that_leaves_cancels_its_verb(state: Path, nursery: trio.Nursery):
    begun, ended = trio.Event(), trio.Event()

    async def wait_for_ever(_request: Request, _progress: server.Progress) -> Any:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    await nursery.start(server.serve, places.socket_path(state), {"wait": wait_for_ever})
    connection = await trio.to_thread.run_sync(places.connect, state)
    assert connection is not None
    connection.sendall(b'{"do":"wait"}\n')
    with trio.fail_after(10):
        await begun.wait()
        connection.close()
        await ended.wait()


async def test_more_than_sixteen_clients_are_turned_away(state: Path, daemon: None):
    def crowd() -> tuple[bytes, Any]:
        idle = [places.connect(state) for _ in range(CONTROL_CLIENTS_MAX)]
        late = places.connect(state)
        assert late is not None
        answer = late.makefile("rb").readline()
        for connection in (*idle, late):
            assert connection is not None
            connection.close()
        return answer, None

    answer, _ = await trio.to_thread.run_sync(crowd)
    assert b"too many" in answer


def test_a_daemon_that_ends_without_a_word_is_told():
    ours, theirs = socket.socketpair()
    ours.sendall(b"never read")
    theirs.close()  # so the request is refused, and what comes back is a reset
    with pytest.raises(UserError, match="ended before it answered"):
        client.call(ours, "echo", {})


def test_no_daemon_means_no_connection(state: Path):
    assert places.connect(state) is None
    with (
        socket.socket(socket.AF_UNIX) as dead,
        places.short_path(places.socket_path(state)) as name,
    ):
        dead.bind(name)
    assert places.connect(state) is None


def test_a_runtime_directory_open_to_others_is_refused(state: Path):
    places.runtime_directory().chmod(0o755)
    with pytest.raises(UserError, match="only you may enter"):
        places.prepare_runtime_directory()


def test_a_bare_name_lies_below_the_state_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    resolve = places.resolve_volume
    assert resolve("photos") == resolve("piperfs:photos") == tmp_path / "piperfs/photos"
    assert resolve("./photos") == Path(os.path.realpath("photos"))
    with pytest.raises(UserError, match="empty"):
        resolve("piperfs#")


def test_a_mount_is_found_through_symlinks_and_not_looked_into(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mountpoint = tmp_path / "deep/m"
    (mountpoint / "s").mkdir(parents=True)
    (mountpoint / "out").symlink_to("/")  # of the mount: to read it might take for ever
    (tmp_path / "far").symlink_to("deep")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "near").symlink_to(mountpoint / "s/file")
    running = places.Running(os.getpid(), str(state), str(mountpoint))
    places.write_running(running)
    monkeypatch.chdir(tmp_path)
    read: list[str] = []
    monkeypatch.setattr(places, "_read_link", lambda path: read.append(path) or real_link(path))
    for place in ("far/m", "far/m/out/x", "near", "far/../far/m/s/../..", "far/m/s/../out"):
        found = places.find_mounted_above(place)
        assert found == (None if place.endswith("../..") else running), place
    assert places.find_volume("far/m/a.txt") == state
    assert places.real_path("far/m/s/../out/y") == f"{mountpoint}/out/y"
    assert not any(path.startswith(f"{mountpoint}/") for path in read)
    with pytest.raises(UserError, match="too many symbolic links"):
        places.real_path("round/x")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert places.find_mounted_above(tmp_path / "far/m") == running


def real_link(path: str) -> str | None:
    return os.readlink(path) if os.path.islink(path) else None


def test_a_daemon_is_found_by_its_mount_point(state: Path):
    running = places.Running(os.getpid(), str(state), "/mnt/a")
    path = places.write_running(running)
    assert places.find_mounted(Path("/mnt/a")) == places.find_running(state) == running
    path.write_text("half a li")
    assert places.find_mounted(Path("/mnt/a")) is None
