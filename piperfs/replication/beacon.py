"""Finding the computer on the local network that an open pairing belongs to.

While a window is open, its computer announces the word of the code that is no secret, and nothing
else, under a service name of its own; whoever was told the code looks for that word. There is
one look and one answer: who answers falsely only makes the pairing fail, since SPAKE2 decides.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import trio
from zeroconf import InterfaceChoice, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from piperfs.obs.log import get_logger
from piperfs.replication.discovery import LOOKUP_MS, STOP_TIMEOUT_S
from piperfs.replication.network import join_address, split_address

SERVICE: Final = "_piperfs-pair._tcp.local."
LOOK_S: Final = 15

Interfaces: TypeAlias = "list[str] | InterfaceChoice"

log = get_logger("discovery")


async def announce(
    nameplate: str, name: bytes, addresses: Sequence[str], interfaces: Interfaces
) -> None:
    """Say where this pairing is open, until cancelled. Without a network nothing is said."""
    zeroconf: Zeroconf | None = None
    try:
        zeroconf = await trio.to_thread.run_sync(_begin, nameplate, name, addresses, interfaces)
        await trio.sleep_forever()
    finally:
        if zeroconf is not None:
            with trio.CancelScope(shield=True), trio.move_on_after(STOP_TIMEOUT_S):
                await trio.to_thread.run_sync(zeroconf.close, abandon_on_cancel=True)


def _begin(
    nameplate: str, name: bytes, addresses: Sequence[str], interfaces: Interfaces
) -> Zeroconf | None:
    try:
        zeroconf = Zeroconf(interfaces=interfaces)
    except Exception as error:  # noqa: BLE001 - the network may lack anything at all
        log.info("discovery.unavailable", reason=str(error) or type(error).__name__)
        return None
    pairs = [split_address(address) for address in addresses]
    info = ServiceInfo(
        SERVICE,
        f"{name.hex()}.{SERVICE}",
        port=pairs[0][1] if pairs else 0,
        properties={"n": nameplate},
        parsed_addresses=[host for host, _ in pairs],
        server=f"{name.hex()}.local.",
    )
    try:
        zeroconf.register_service(info, cooperating_responders=True)
    except Exception as error:  # noqa: BLE001
        zeroconf.close()
        log.info("discovery.unavailable", reason=str(error) or type(error).__name__)
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
        await trio.to_thread.run_sync(look.begin, interfaces)
        with trio.move_on_after(within_s):
            await seen.wait()
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(STOP_TIMEOUT_S):
            await trio.to_thread.run_sync(look.end, abandon_on_cancel=True)
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
            log.info("discovery.unavailable", reason=str(error) or type(error).__name__)

    def end(self) -> None:
        if self._zeroconf is not None:
            self._zeroconf.close()

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Removed:
            return
        try:
            info = zeroconf.get_service_info(service_type, name, LOOKUP_MS)
        except Exception as error:  # noqa: BLE001 - it may be closing, and hears all the network
            log.info("discovery.missed", reason=str(error) or type(error).__name__)
            return
        if info is not None and info.port and info.properties.get(b"n") == self._nameplate:
            hosts = info.parsed_addresses()
            try:
                self._report([join_address(host, info.port) for host in hosts])
            except trio.RunFinishedError:
                return
