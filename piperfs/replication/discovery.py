"""Finding members on the local network by multicast DNS, with the library `zeroconf`.

What is announced is a tag that changes every day and that only members can compute, never the
volume's id or anybody's name. The library has an event loop of its own, so it runs in threads of
its own; where there is no network, or no multicast, nothing is found and nothing fails.
"""

from collections.abc import Callable
from typing import Final

import trio
from blake3 import blake3
from zeroconf import ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from piperfs.core.ids import ReplicaId
from piperfs.obs.log import get_logger
from piperfs.replication.network import join_address, split_address

SERVICE: Final = "_piperfs._tcp.local."
DAY_S: Final = 86_400
LOOKUP_MS: Final = 2000

log = get_logger("discovery")


def tag(secret: bytes, day: int) -> str:
    """What members of one volume announce on one day."""
    key = blake3(secret, derive_key_context="piperfs discovery v1").digest()
    return blake3(day.to_bytes(8, "big"), key=key).hexdigest(length=10)


class Discovery:
    """Announces this replica and reports addresses of others."""

    def __init__(
        self, secret: bytes, replica: ReplicaId, day: int, report: Callable[[str], None]
    ) -> None:
        self._tag = tag(secret, day)
        self._name = f"{replica.hex()[:12]}.{SERVICE}"
        self._report = report
        self._token = trio.lowlevel.current_trio_token()
        self._zeroconf: Zeroconf | None = None

    def start(self, addresses: list[str]) -> None:
        """Announce and look. Blocks for a moment; runs in a thread."""
        try:
            self._zeroconf = Zeroconf()
            pairs = [split_address(address) for address in addresses]
            if pairs:
                info = ServiceInfo(
                    SERVICE, self._name, port=pairs[0][1], properties={"t": self._tag},
                    parsed_addresses=[host for host, _ in pairs], server=f"{self._name}",
                )  # fmt: skip
                self._zeroconf.register_service(info, cooperating_responders=True)
            ServiceBrowser(self._zeroconf, SERVICE, handlers=[self._changed])
        except Exception as error:  # noqa: BLE001 - the network may lack anything at all
            log.info("discovery.unavailable", reason=str(error))

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Removed or name == self._name:
            return
        info = zeroconf.get_service_info(service_type, name, LOOKUP_MS)
        if info is None or info.properties.get(b"t") != self._tag.encode():
            return
        for host in info.parsed_addresses():
            address = join_address(host, info.port or 0)
            try:
                self._token.run_sync_soon(self._report, address)
            except trio.RunFinishedError:
                return

    def stop(self) -> None:
        """Take the announcement back. Blocks for a moment; runs in a thread."""
        if self._zeroconf is not None:
            self._zeroconf.close()
