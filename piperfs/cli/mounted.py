"""Where things are mounted, found without asking a mount that may be dead or hang."""

import os
from pathlib import Path

from piperfs.control.places import SYMLINKS_MAX
from piperfs.core.errors import ExitCode, UserError
from piperfs.fuse import mountpoint as points


def given(text: str) -> Path:
    """A mount point that a person named; `click.Path` would look at it, and may wait for ever.

    Raises:
        UserError: it is empty, and would mean the working directory.
    """
    if not text:
        raise UserError("the mount point is empty; name a directory", ExitCode.USAGE)
    return Path(text)


def canonical(directory: Path) -> Path:
    """An absolute path without symlinks.

    Reading a link is answered by the kernel for every directory, a look at it by its daemon.
    """
    path = os.fspath(directory)
    if not directory.is_absolute():  # else the working directory may be gone
        path = os.path.join(os.getcwd(), path)
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
    return {mount.point for mount in points.mounts() if _is_ours(mount)}


def _is_ours(mount: points.Mount) -> bool:
    kind, source = mount.fs_type, mount.source
    return kind.startswith("fuse") and ("piperfs" in kind or source.startswith("piperfs"))
