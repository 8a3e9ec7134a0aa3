"""The blocking side of the control socket, for commands: ask, show progress, return the answer.

It is plain sockets, so that a command starts at once. The daemon may need minutes for an
answer (`sync`, `fsck`), so only the silence of a dead daemon ends a call: its end of the socket
closes.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from piperfs.control.messages import (
    REPLY_BYTES_MAX,
    Arguments,
    Reply,
    Request,
    decode_reply,
    encode,
)
from piperfs.core.errors import ExitCode, UserError

Show = Callable[[Reply], None]


def ignore_progress(_reply: Reply) -> None:
    """For calls that have nobody to show progress to."""


def call(
    connection: socket.socket, do: str, arguments: Arguments, show: Show = ignore_progress
) -> Any:
    """Send one request over a fresh connection and wait for its answer; closes the connection.

    Raises:
        UserError: what the daemon says went wrong, or that it ended without an answer.
    """
    with connection, connection.makefile("rb") as lines:
        for reply in _replies(connection, lines, Request(do, arguments)):
            if reply.error is not None:
                raise UserError(reply.error, ExitCode(reply.code))
            if reply.progress is None:
                return reply.ok
            show(reply)
    raise UserError("the daemon ended before it answered; its log in the volume says why")


def _replies(connection: socket.socket, lines: BinaryIO, request: Request) -> Iterator[Reply]:
    """What comes back until the other end closes or breaks; it may not even read the request."""
    with suppress(OSError):
        connection.sendall(encode(request))
    with suppress(OSError):
        while line := lines.readline(REPLY_BYTES_MAX):
            yield decode_reply(line)
