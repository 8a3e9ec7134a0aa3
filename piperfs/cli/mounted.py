"""Where things are mounted, found without asking a mount that may be dead or hang."""

import os
from collections.abc import Iterator
from pathlib import Path

from piperfs.core.errors import ExitCode, UserError

SYMLINKS_MAX = 40  # as in the kernel


def canonical(directory: Path) -> Path:
    """An absolute path without symlinks.

    Reading a link is answered by the kernel for every directory, a look at it by its daemon.
    """
    path = os.path.join(os.getcwd(), directory)
    for _ in range(SYMLINKS_MAX):
        parent, name = os.path.split(path.rstrip("/") or "/")
        parent = os.path.realpath(parent)
        path = os.path.join(parent, name)
        if name in ("", ".", ".."):
            return Path(os.path.realpath(path))
        try:
            path = os.path.join(parent, os.readlink(path))
        except OSError:
            return Path(path)
    raise UserError(f"{directory}: too many symbolic links lead there", ExitCode.NOT_FOUND)


def directories() -> set[str]:
    """Where file systems of PiperFS are mounted, dead ones included."""
    return {point for point, kind, source in mounts() if _is_ours(kind, source)}


def _is_ours(kind: bytes, source: bytes) -> bool:
    return kind.startswith(b"fuse") and (b"piperfs" in kind or source.startswith(b"piperfs"))


def mounts() -> Iterator[tuple[str, bytes, bytes]]:
    """Mount point, type and source of every mount, in the order of mounting."""
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields, _, tail = line.partition(b" - ")
        kind, source = tail.split(b" ")[:2]
        raw = fields.split(b" ")[4]
        yield os.fsdecode(raw.decode("unicode_escape").encode("latin-1")), kind, source
