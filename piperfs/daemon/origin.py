"""Where a state directory was made, so that a copy of it is recognised before it writes anything.

Two computers with one key would use each other's numbers, and one's write would cover what the
other wrote. A copied or restored directory shows itself: its store is another file, or the
computer is another one. A store that was set back in its place, such as by a snapshot of the whole
disk, does not; there peers tell.
"""

import json
from pathlib import Path
from typing import Final

from blake3 import blake3

from piperfs.daemon.durably import write_json

ORIGIN_FILE: Final = "origin.json"
MACHINE_ID: Final = Path("/etc/machine-id")


def _here(data: Path) -> dict[str, object]:
    """What tells this file on this computer from any copy; the computer's id only as a hash."""
    try:
        machine = MACHINE_ID.read_bytes()
    except OSError:
        machine = b""
    name = blake3(machine, derive_key_context="piperfs origin v1").hexdigest(16)
    return {"computer": name, "file": data.stat().st_ino}


def _noted(state: Path) -> object:
    try:
        return json.loads((state / ORIGIN_FILE).read_bytes())
    except (OSError, ValueError):
        return None


def write_origin(state: Path, data: Path) -> None:
    """Note, durably, that the store is at home here, unless the note says so already."""
    if data.exists() and _noted(state) != _here(data):
        write_json(state / ORIGIN_FILE, _here(data))


def is_copy(state: Path, data: Path) -> bool:
    """Whether the store was made elsewhere. One that nothing is noted of is at home."""
    return _noted(state) not in (None, _here(data))
