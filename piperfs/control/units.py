"""Mounts that `piperfs@NAME.service` shall serve: what is asked for, and what it was handed.

Whoever mounts writes down where and how, in a directory that only root can write to. The unit's
root half reads it before and after the daemon runs; the daemon finds its descriptor among those
that systemd passes, and reads here what else it must know.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path("/run/piperfs-mounts")
DESCRIPTOR_NAME: Final = "piperfs-mount"
FIRST_DESCRIPTOR: Final = 3  # as sd_listen_fds(3) says


@dataclass(frozen=True, slots=True)
class Wanted:
    """A mount that the unit of a volume shall serve."""

    mountpoint: str
    options: str


def path_of(name: str, suffix: str = "json") -> Path:
    """A file about the mount of a volume."""
    return DIRECTORY / f"{name}.{suffix}"


def find_wanted(name: str) -> Wanted | None:
    """The mount that the unit shall serve, if one was asked for."""
    try:
        return Wanted(**json.loads(path_of(name).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def write_wanted(name: str, wanted: Wanted) -> None:
    DIRECTORY.mkdir(mode=0o755, exist_ok=True)
    draft = path_of(name, "new")
    draft.write_text(json.dumps(asdict(wanted)))
    draft.chmod(0o644)
    draft.replace(path_of(name))


def take_descriptor() -> int | None:
    """The number of the kernel's descriptor that systemd passed to this process, if it did."""
    pid = os.environ.pop("LISTEN_PID", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    os.environ.pop("LISTEN_FDS", None)
    if pid != str(os.getpid()) or DESCRIPTOR_NAME not in names:
        return None
    return FIRST_DESCRIPTOR + names.index(DESCRIPTOR_NAME)
