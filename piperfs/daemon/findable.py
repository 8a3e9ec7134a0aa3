"""Where commands find this daemon, for as long as it runs.

The directory of the sockets goes away when its user logs out, and a command may be told of another
one; the daemon stays. So one socket lies in the state directory, where every command looks in the
end. The other, and the note by which a mount point leads to its daemon, are made again as soon as
there is a directory for them again.
"""

import contextlib
from pathlib import Path
from typing import Final

import trio

from piperfs.control import places, server
from piperfs.control.places import Running
from piperfs.control.server import Verbs
from piperfs.core.errors import UserError

LOOK_S: Final = 2.0


class Findable:
    """The sockets and the note of one daemon."""

    def __init__(self, state: Path, verbs: Verbs) -> None:
        self._state = state
        self._verbs = verbs
        self._running: Running | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer commands until cancelled."""
        path = places.socket_path(self._state)
        async with trio.open_nursery() as nursery:
            with contextlib.suppress(OSError):  # a disk that knows no sockets
                await nursery.start(server.serve, places.home_socket(self._state), self._verbs)
            await nursery.start(server.serve, path, self._verbs)
            task_status.started()
            while True:
                await trio.sleep(LOOK_S)
                with contextlib.suppress(OSError, UserError):  # nobody is logged in
                    places.prepare_runtime_directory()
                    if not path.exists():
                        await nursery.start(server.serve, path, self._verbs)
                    if self._running is not None:
                        places.keep_running(self._running)

    def announce(self, running: Running) -> None:
        """The volume is usable: say so to those who look for the mount point."""
        self._running = running
        places.write_running(running)

    def retire(self) -> None:
        """The end begins."""
        self._running = None
        places.forget_running(self._state)
