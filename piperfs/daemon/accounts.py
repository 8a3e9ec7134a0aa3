"""The account database of this computer, as the functions that `fs` asks for."""

import grp
import pwd
from pathlib import Path

from piperfs.fs.owners import Accounts


def _user_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return None


def _group_name(gid: int) -> str | None:
    try:
        return grp.getgrgid(gid).gr_name
    except (KeyError, OverflowError):
        return None


def _user_id(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None


def _group_id(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None


def _groups_of(pid: int) -> frozenset[int]:
    """The supplementary groups of a process; none if it is gone or not ours to see."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    found = next((line for line in status.splitlines() if line.startswith("Groups:")), "")
    return frozenset(int(word) for word in found.split()[1:])


SYSTEM_ACCOUNTS = Accounts(_user_name, _group_name, _user_id, _group_id, _groups_of)
