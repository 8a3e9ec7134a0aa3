"""Root works on somebody's volume as that somebody.

A file that root made in a volume of another user could not be opened by that user's daemon, and a
daemon that talks to strangers should not be root. So whoever is root becomes the owner first.
"""

import os
import pwd
from pathlib import Path
from typing import Final

from piperfs.control import places
from piperfs.core.errors import ExitCode, UserError

PASSED: Final = (
    "PATH", "LANG", "PYTHONPATH", "NOTIFY_SOCKET", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY",
    "PIPERFS_PASSPHRASE_FILE",
)  # fmt: skip


def find_owner(state: Path) -> pwd.struct_passwd | None:
    """The user as whom root should work on a volume; None where that is root, or nobody is root."""
    if os.geteuid() != 0 or not os.path.isdir(state):  # Path.is_dir() raises on some paths
        return None
    uid = state.stat().st_uid
    if uid == 0:
        return None
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise UserError(
            f"{state} belongs to user {uid}, whom this computer does not know; chown it",
            ExitCode.REFUSED,
        ) from None


def environment_of(user: pwd.struct_passwd) -> dict[str, str]:
    """What a daemon of the user needs; its sockets lie where root's commands look too.

    Raises:
        UserError: there is no place for its sockets.
    """
    directory = places.runtime_directory()
    directory = directory.with_name(f"{directory.name}-{user.pw_name}")
    places.make_private(directory)
    os.chown(directory, user.pw_uid, user.pw_gid, follow_symlinks=False)
    found = {name: os.environ[name] for name in PASSED if name in os.environ}
    return {**found, "HOME": user.pw_dir, places.RUNTIME_VARIABLE: str(directory)}


def become_owner(state: Path, *, as_daemon: bool) -> None:
    """From now on be the owner of a volume, if this is root. Raises UserError."""
    user = find_owner(state)
    if user is None:
        return
    if as_daemon:
        os.environ.update(environment_of(user))
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
