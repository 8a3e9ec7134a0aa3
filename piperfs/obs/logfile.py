"""A log file of bounded size: a full one becomes the older of two.

Whatever members or strangers do that is worth an event, the log takes no more than its share of
the disk. The process's own output goes where the events go, so that a report of the interpreter
itself is not lost.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import TextIO


class LogFile:
    """Standard output and standard error as a file of at most about `bytes_max`."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._stream = self._open()
        self._turn_if_full()

    @property
    def older(self) -> Path:
        """What was written before."""
        return self._path.with_name(f"{self._path.name}.1")

    def write(self, text: str, /) -> int:
        """Raises OSError if the disk does not take it."""
        count = self._stream.write(text)
        self._size += count
        if text.endswith("\n"):  # a line stays whole
            self._turn_if_full()
        return count

    def flush(self) -> None:
        """Raises OSError if the disk does not take it."""
        self._stream.flush()

    def isatty(self) -> bool:
        """It is none."""
        return False

    def _open(self) -> TextIO:
        stream = self._path.open("a", encoding="utf-8", buffering=1)
        self._size = os.fstat(stream.fileno()).st_size
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        return stream

    def _turn_if_full(self) -> None:
        if self._size < self._bytes_max:
            return
        with suppress(FileNotFoundError):
            self._path.replace(self.older)
        full, self._stream = self._stream, self._open()
        full.close()
