"""Everything that the command line prints: lines, tables, JSON and progress.

Answers go to standard output, progress and errors to standard error, so that `$(piperfs …)` is
always just the answer. What a terminal would obey is escaped; JSON is exact. rich is imported when
progress is shown on a terminal and never else.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from piperfs.control.messages import Reply
from piperfs.core.plain import plain

if TYPE_CHECKING:
    from rich.progress import Progress

Row = Sequence[object]


def line(text: str) -> None:
    """Print one line of the answer, which somebody may wait for."""
    print(plain(text), flush=True)


def lines(text: str) -> None:
    """Print an answer of many lines."""
    for each in text.splitlines():
        line(each)


def error(text: str) -> None:
    """Print the one line that says why a command failed."""
    print(plain(f"piperfs: {text}"), file=sys.stderr)


def note(text: str) -> None:
    """Tell a person something that is no part of the answer."""
    print(plain(text), file=sys.stderr)


def as_json(value: Any) -> None:
    """Print an answer for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=True), flush=True)


def table(heads: Sequence[str], rows: Sequence[Row]) -> None:
    """Print rows in aligned columns; missing values are dashes."""
    cells = [tuple(heads), *(tuple(map(_cell, row)) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    for row in cells:
        padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print("  ".join(padded).rstrip())


def _cell(value: object) -> str:
    return "-" if value is None else plain(str(value))


@contextmanager
def progress(*, wanted: bool = True) -> Iterator[Callable[[Reply], None]]:
    """Show progress lines on a terminal; swallow them elsewhere."""
    if not wanted or not sys.stderr.isatty():
        yield _swallow
        return
    with ExitStack() as shown:
        yield _Bar(shown).show


class _Bar:
    """A progress bar that appears with the first news, so quick answers never flicker."""

    def __init__(self, shown: ExitStack) -> None:
        self._shown = shown
        self._bars: Progress | None = None

    def show(self, reply: Reply) -> None:
        if self._bars is None:
            self._bars = self._begin()
        total, text = reply.total or None, plain(reply.progress or "")
        self._bars.update(
            self._bars.task_ids[0], description=text, completed=reply.done, total=total
        )

    def _begin(self) -> "Progress":
        from rich.console import Console  # noqa: PLC0415 - only terminals pay for it
        from rich.progress import Progress  # noqa: PLC0415

        bars = self._shown.enter_context(Progress(console=Console(stderr=True), transient=True))
        bars.add_task("", total=None)
        return bars


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
