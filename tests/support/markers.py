"""Planted markers: text that must be found in no file and in no traffic."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

MARKER_BYTES = 12


class Markers:
    """Random texts of one length, handed out one by one."""

    def __init__(self, count: int) -> None:
        self.all = {os.urandom(MARKER_BYTES // 2).hex().encode() for _ in range(count)}
        self._left = iter(sorted(self.all))

    def take(self, count: int = 1) -> bytes:
        """The next markers, apart from one another."""
        return b" ".join(next(self._left) for _ in range(count))

    @property
    def left(self) -> int:
        return sum(1 for _ in self._left)

    def found_in(self, data: bytes) -> set[bytes]:
        windows = (data[at : at + MARKER_BYTES] for at in range(len(data) - MARKER_BYTES + 1))
        return self.all.intersection(windows)

    def found_in_files(self, directory: Path) -> dict[Path, set[bytes]]:
        """Files below a directory, and their own names, that hold markers."""
        found = {path: self.found_in(data) for path, data in files_of(directory)}
        return {path: markers for path, markers in found.items() if markers}

    def found_in_all(self, parts: Iterable[bytes]) -> set[bytes]:
        return set().union(*map(self.found_in, parts))


def files_of(directory: Path) -> Iterator[tuple[Path, bytes]]:
    for path in sorted(directory.rglob("*")):
        yield path, os.fsencode(path.name)
        if path.is_file():
            yield path, path.read_bytes()
