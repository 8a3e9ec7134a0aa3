"""Structured events: one dotted name per event, facts as fields, never text glued together.

A person at a terminal reads them as lines, a log file holds JSON. Names are listed with their
meaning in the operations page. Secrets and file contents are never fields; names of files are
not either, since a log leaves the machine more easily than a disk.
"""

import contextlib
import logging
import sys
from typing import Any, Final, Protocol, TextIO, cast

import structlog

SELDOM_S: Final = 60


class Sink(Protocol):
    """Where events go, as text."""

    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...

    def isatty(self) -> bool: ...


class Forgiving:
    """A sink that loses what it cannot write: a full disk must not stop the work."""

    def __init__(self, stream: Sink) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


class _Seldom(logging.Filter):
    """One message of a library a minute, in a line: it repeats itself ten times a second."""

    last = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = None
        is_due = record.created - self.last >= SELDOM_S
        if is_due:
            self.last = record.created
        return is_due


_SELDOM: Final = _Seldom()


def configure(stream: Sink | None = None, *, as_json: bool, level: str = "info") -> None:
    """Send events to a stream, by default standard error."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=(stream or sys.stderr).isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # others show variables: secrets
        )
    )
    logging.getLogger("trio.serve_listeners").addFilter(_SELDOM)  # no descriptor is free
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if as_json else _printable,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, Forgiving(stream or sys.stderr))),
        cache_logger_on_first_use=False,
    )


def get_logger(part: str) -> structlog.typing.FilteringBoundLogger:
    """The logger of one part of PiperFS; takes effect with whatever is configured when used."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(part=part)
    return logger


def _printable(
    _logger: Any, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Escape what a terminal would obey: members choose their names, and strangers their words."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = repr(value)[1:-1]
    return event
