"""What a command and a daemon say to each other: one JSON object a line.

A connection carries one request. Any number of progress lines may come back, and then exactly
one answer: a value, or an error in words for a person with the exit code of the command.

Names of files are bytes, and what of them is no UTF-8 is a lone surrogate in Python's text. The
JSON of the standard library carries that as an escape and gives it back; msgspec's refuses it.
"""

import json
from typing import Any, Final

import msgspec

from piperfs.core.decoding import MALFORMED
from piperfs.core.errors import ErrorKind, ExitCode, FsError, PiperError, UserError

REPLY_BYTES_MAX: Final = 64 * 1024 * 1024  # a list of conflicts may be long; it is our own daemon

Scalar = str | int | float | bool | None
Arguments = dict[str, Scalar | list[str]]


class Request(msgspec.Struct, frozen=True):
    """Asks for one verb; its arguments are named."""

    do: str
    arguments: Arguments = {}


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line back. `error` is set, or `progress` is set, or it is the final value."""

    ok: Any = None
    error: str | None = None
    code: int = 0
    progress: str | None = None
    done: int = 0
    total: int = 0


# MALFORMED, and what the standard library finds wrong with JSON.
_NOT_A_MESSAGE: Final = (*MALFORMED, ValueError)


def encode(message: Request | Reply) -> bytes:
    """The line of a message, with its newline."""
    return json.dumps(msgspec.to_builtins(message)).encode("ascii") + b"\n"


def decode_request(line: bytes) -> Request:
    """Parse a request.

    Raises:
        UserError: it is not one.
    """
    try:
        return msgspec.convert(json.loads(line.decode()), Request)
    except _NOT_A_MESSAGE as error:
        raise UserError(f"this is no request of PiperFS: {error}", ExitCode.USAGE) from error


def decode_reply(line: bytes) -> Reply:
    """Parse a line that a daemon sent.

    Raises:
        UserError: it is not one.
    """
    try:
        return msgspec.convert(json.loads(line.decode()), Reply)
    except _NOT_A_MESSAGE as error:
        raise UserError(f"the daemon answered with something else: {error}") from error


def failure(error: PiperError) -> Reply:
    """The reply that tells a person about an error."""
    return Reply(error=str(error), code=int(_code_of(error)))


def _code_of(error: PiperError) -> ExitCode:
    if isinstance(error, UserError):
        return error.code
    is_refused = isinstance(error, FsError) and error.kind is ErrorKind.READ_ONLY
    return ExitCode.REFUSED if is_refused else ExitCode.FAILED
