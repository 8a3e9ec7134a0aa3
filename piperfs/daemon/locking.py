"""Commands about the key at rest: protect it with a passphrase, unlock it, lock it again."""

from pathlib import Path
from typing import Any, Final

from piperfs.control.messages import Request
from piperfs.core.errors import ExitCode, UserError
from piperfs.daemon import keyfile
from piperfs.daemon.clock import Clock
from piperfs.daemon.statedir import StateDirectory, read_volume_file
from piperfs.daemon.verbs import text

NAMES: Final = ("protect", "unlock", "lock")


def change(state: Path, clock: Clock, verb: str, request: Request) -> Any:
    """Run one of `NAMES` on a state directory. Raises UserError."""
    read_volume_file(state)
    keys = state / "keys"
    passphrase = text(request, "passphrase").encode()
    if verb == "lock":
        return {"locked": keyfile.lock(keys)}
    if verb == "unlock":
        keyfile.unlock(keys, passphrase)
        return {"unlocked": True}
    if not passphrase and request.arguments.get("plain") is not True:
        raise UserError("an empty passphrase protects nothing", ExitCode.USAGE)
    directory = StateDirectory.open(state)  # not while a daemon runs
    try:
        protection = keyfile.protect(directory.keys, passphrase or None, clock.entropy)
    finally:
        directory.close()
    return {"key_protection": protection}
