"""Finding the computer on the local network that an open pairing belongs to.

While a window is open, its computer announces the word of the code that is no secret, and nothing
else, under a service name of its own; whoever was told the code looks for that word. There is
one look and one answer: who answers falsely only makes the pairing fail, since SPAKE2 decides.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, TypeAlias

import trio
from zeroconf import InterfaceChoice, ServiceBrowser, ServiceStateChange, Zeroconf

from piperfs.replication.discovery import (
    STOP_TIMEOUT_S,
    addresses_of,
    describe,
    in_thread,
    log_unavailable,
    look_up,
)

SERVICE: Final = "_piperfs-pair._tcp.local."
LOOK_S: Final = 15

Interfaces: TypeAlias = "list[str] | InterfaceChoice"


async def announce(
    nameplate: str, name: bytes, addresses: Sequence[str], interfaces: Interfaces
) -> None:
    """Say where this pairing is open, until cancelled. Without a network nothing is said."""
    zeroconf: Zeroconf | None = None
    try:
        zeroconf = await in_thread(partial(_begin, nameplate, name, addresses, interfaces))
        await trio.sleep_forever()
    finally:
        if zeroconf is not None:
            with trio.CancelScope(shield=True), trio.move_on_after(STOP_TIMEOUT_S):
                await in_thread(zeroconf.close, abandon=True)


def _begin(
    nameplate: str, name: bytes, addresses: Sequence[str], interfaces: Interfaces
) -> Zeroconf | None:
    zeroconf: Zeroconf | None = None
    try:
        zeroconf = Zeroconf(interfaces=interfaces)
        info = describe(SERVICE, name.hex(), addresses, {"n": nameplate})
        zeroconf.register_service(info, cooperating_responders=True)
    except Exception as error:  # noqa: BLE001 - the network may lack anything at all
        log_unavailable(error)
        if zeroconf is not None:
            zeroconf.close()
        return None
    return zeroconf


async def find(nameplate: str, interfaces: Interfaces, within_s: float = LOOK_S) -> list[str]:
    """Addresses of the computer whose pairing bears this word; none if it does not show."""
    token = trio.lowlevel.current_trio_token()
    found: list[str] = []
    seen = trio.Event()

    def report(addresses: list[str]) -> None:
        if not found:
            found.extend(addresses)
            seen.set()

    look = _Look(nameplate, lambda addresses: token.run_sync_soon(report, addresses))
    try:
        await in_thread(partial(look.begin, interfaces))
        with trio.move_on_after(within_s):
            await seen.wait()
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(STOP_TIMEOUT_S):
            await in_thread(look.end, abandon=True)
    return found


class _Look:
    """Looks for one word. Its methods block and run in threads, `_changed` in the library's."""

    def __init__(self, nameplate: str, report: Callable[[list[str]], None]) -> None:
        self._nameplate = nameplate.encode()
        self._report = report
        self._zeroconf: Zeroconf | None = None

    def begin(self, interfaces: Interfaces) -> None:
        try:
            self._zeroconf = Zeroconf(interfaces=interfaces)
            ServiceBrowser(self._zeroconf, SERVICE, handlers=[self._changed])
        except Exception as error:  # noqa: BLE001 - the network may lack anything at all
            log_unavailable(error)

    def end(self) -> None:
        if self._zeroconf is not None:
            self._zeroconf.close()

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Removed:
            return
        info = look_up(zeroconf, service_type, name)
        if info is not None and info.properties.get(b"n") == self._nameplate:
            with suppress(trio.RunFinishedError):
                self._report(addresses_of(info))
