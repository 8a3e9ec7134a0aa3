"""Everything that the command line prints: lines, tables, JSON and progress.

Answers go to standard output, progress and errors to standard error, so that `$(piperfs …)` is
always just the answer. rich is imported when progress is shown on a terminal and never else.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from piperfs.control.messages import Reply

Row = Sequence[object]


def line(text: str) -> None:
    """Print one line of the answer."""
    print(text)


def error(text: str) -> None:
    """Print the one line that says why a command failed."""
    print(f"piperfs: {text}", file=sys.stderr)


def note(text: str) -> None:
    """Tell a person something that is no part of the answer."""
    print(text, file=sys.stderr)


def as_json(value: Any) -> None:
    """Print an answer for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=True))


def table(heads: Sequence[str], rows: Sequence[Row]) -> None:
    """Print rows in aligned columns; missing values are dashes."""
    cells = [tuple(heads), *(tuple("-" if v is None else str(v) for v in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    for row in cells:
        padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print("  ".join(padded).rstrip())


@contextmanager
def progress(*, wanted: bool = True) -> Iterator[Callable[[Reply], None]]:
    """Show progress lines on a terminal; swallow them elsewhere."""
    if not wanted or not sys.stderr.isatty():
        yield _swallow
        return
    from rich.progress import Progress  # noqa: PLC0415 - only terminals pay for it

    with Progress(transient=True) as bars:
        task = bars.add_task("", total=None)

        def show(reply: Reply) -> None:
            total = reply.total or None
            bars.update(task, description=reply.progress, completed=reply.done, total=total)

        yield show


def _swallow(_reply: Reply) -> None:
    pass


def bytes_text(count: int) -> str:
    """A number of bytes as people read it."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def ago(seconds: float | None) -> str | None:
    """How long ago something was, in its largest unit."""
    if seconds is None:
        return None
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
