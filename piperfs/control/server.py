"""The daemon's side of the control socket: checks who asks, runs the verb, sends the answer.

The socket lies in a directory that only its owner may enter, and the kernel names the user at
the other end, so nobody else drives the daemon. A command that is interrupted closes its end,
and the verb it asked for is cancelled.
"""

import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import trio

from piperfs.control.messages import (
    Reply,
    Request,
    decode_request,
    encode,
    failure,
)
from piperfs.control.places import short_path
from piperfs.core.errors import ExitCode, PiperError, UserError
from piperfs.core.limits import CONTROL_CLIENTS_MAX, CONTROL_REQUEST_BYTES_MAX
from piperfs.obs.log import get_logger

_CREDENTIALS: Final = struct.Struct("3i")

log = get_logger("control")


class Progress:
    """Lets a verb say how far it is to the person who waits."""

    def __init__(self, stream: trio.abc.SendStream) -> None:
        self._stream = stream

    async def report(self, text: str, done: int = 0, total: int = 0) -> None:
        """Send one progress line."""
        await self._stream.send_all(encode(Reply(progress=text, done=done, total=total)))


Verb = Callable[[Request, Progress], Awaitable[Any]]
Verbs = Mapping[str, Verb]


async def serve(
    path: Path, verbs: Verbs, *,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:  # fmt: skip
    """Listen on a socket until cancelled; removes it at the end."""
    clients = 0

    async def welcome(stream: trio.SocketStream) -> None:
        nonlocal clients
        if clients >= CONTROL_CLIENTS_MAX:
            await _turn_away(stream)
            return
        clients += 1
        try:
            await _answer_checked(stream, verbs)
        finally:
            clients -= 1

    listener = trio.SocketListener(_bind(path))
    try:
        await trio.serve_listeners(welcome, [listener], task_status=task_status)
    finally:
        path.unlink(missing_ok=True)


def _bind(path: Path) -> trio.socket.SocketType:
    """The state directory's lock is held by us, so a socket that lies there is a dead one's."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with short_path(path) as name:
            listener.bind(name)
    finally:
        os.umask(before)
    listener.listen(CONTROL_CLIENTS_MAX)
    return trio.socket.from_stdlib_socket(listener)


async def _turn_away(stream: trio.SocketStream) -> None:
    async with stream:
        with suppress(trio.BrokenResourceError), trio.move_on_after(1):
            await stream.send_all(encode(failure(UserError("too many commands at once"))))


async def _answer_checked(stream: trio.SocketStream, verbs: Verbs) -> None:
    credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _pid, uid, _gid = _CREDENTIALS.unpack(credentials)
    if uid not in (0, os.geteuid()):
        log.warning("control.refused", uid=uid)
        await stream.aclose()
        return
    await answer(stream, verbs)


async def answer(stream: trio.SocketStream, verbs: Verbs) -> None:
    """Read one request, run its verb, send the answer, close. Raises nothing of the client's."""
    async with stream:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            try:
                with trio.fail_after(30):
                    request = decode_request(await _read_line(stream))
                reply = await _run_while_connected(stream, verbs, request)
            except trio.TooSlowError:
                reply = failure(UserError("no request came within 30 s", ExitCode.USAGE))
            except PiperError as error:
                reply = failure(error)
            if reply is not None:
                await stream.send_all(encode(reply))


async def _read_line(stream: trio.SocketStream) -> bytes:
    received = bytearray()
    while b"\n" not in received:
        part = await stream.receive_some(CONTROL_REQUEST_BYTES_MAX)
        received += part
        if not part or len(received) > CONTROL_REQUEST_BYTES_MAX:
            raise UserError("a request is one line of at most 64 KiB", ExitCode.USAGE)
    return bytes(received.partition(b"\n")[0])


async def _run_while_connected(
    stream: trio.SocketStream, verbs: Verbs, request: Request
) -> Reply | None:
    """Run the verb; give it up, and return None, when the client goes away."""
    verb = verbs.get(request.do)
    if verb is None:
        raise UserError(f"the daemon knows no verb '{request.do}'", ExitCode.USAGE)
    reply: Reply | None = None
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            with suppress(trio.BrokenResourceError):
                await stream.receive_some(1)
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        reply = await _run(verb, request, stream)
        nursery.cancel_scope.cancel()
    return reply


async def _run(verb: Verb, request: Request, stream: trio.SocketStream) -> Reply | None:
    try:
        return Reply(ok=await verb(request, Progress(stream)))
    except PiperError as error:
        return failure(error)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return None  # nobody listens any more
    except Exception as error:
        log.exception("control.failed", verb=request.do)
        return failure(UserError(f"{request.do} failed unexpectedly ({error!r}); see the log"))
