"""Tells whoever started the daemon how it is: systemd by its socket, a command by a pipe.

Both learn that the volume is usable only once it is. The pipe carries one line of the control
protocol, so that the reason of a failed start reaches the terminal word for word.
"""

import os
import socket

from piperfs.control import units
from piperfs.control.messages import Reply, encode, failure
from piperfs.core.errors import PiperError


class Starter:
    """The process that waits for us; each method is harmless when nobody does."""

    def __init__(self, ready_fd: int | None = None) -> None:
        self._ready_fd = ready_fd
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        self.is_ready = False
        self.watchdog_s = int(os.environ.pop("WATCHDOG_USEC", "0")) / 1e6

    def ready(self, status: str) -> None:
        """The volume can be used from now on."""
        self.is_ready = True
        self._answer(Reply(ok=status))
        self._notify(f"READY=1\nSTATUS={status}\nMAINPID={os.getpid()}")

    def failed(self, error: PiperError) -> None:
        """It cannot, and this is why."""
        self._answer(failure(error))
        self._notify(f"STATUS={error}")

    def alive(self) -> None:
        """Reset the watchdog of the service manager."""
        self._notify("WATCHDOG=1")

    def took_descriptor(self) -> None:
        """The mount shall end with this process: nobody else is to keep its descriptor."""
        self._notify(f"FDSTOREREMOVE=1\nFDNAME={units.DESCRIPTOR_NAME}")

    def stopping(self) -> None:
        """An orderly stop begins; give it time."""
        self._notify("STOPPING=1")

    def _answer(self, reply: Reply) -> None:
        if self._ready_fd is None:
            return
        descriptor, self._ready_fd = self._ready_fd, None
        try:
            os.write(descriptor, encode(reply))
        except BrokenPipeError:
            pass  # the command was interrupted; the daemon goes on
        finally:
            os.close(descriptor)

    def _notify(self, text: str) -> None:
        if not self._address:
            return
        address = self._address.replace("@", "\0", 1)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.sendto(os.fsencode(text), address)
            except OSError:
                pass  # a service manager that went away is no reason to stop
