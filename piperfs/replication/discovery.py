"""Finding members on the local network by multicast DNS, with the library `zeroconf`.

What is announced changes every day and only members can compute it; it is never the volume's id
or anybody's name, so a computer cannot be followed from network to network. The library has an
event loop of its own, so it runs in threads of its own; where there is no network, or no
multicast, nothing is found and nothing fails.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import trio
from blake3 import blake3
from zeroconf import InterfaceChoice, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf

from piperfs.core.ids import ReplicaId, VolumeId
from piperfs.obs.log import get_logger
from piperfs.replication.network import join_address, split_address

SERVICE: Final = "_piperfs._tcp.local."
DAY_NS: Final = 86_400_000_000_000
CHECK_S: Final = 15  # how soon a new network or day is noticed
LOOKUP_MS: Final = 2000
STOP_TIMEOUT_S: Final = 3

log = get_logger("discovery")
T = TypeVar("T")


def key_of(volume: VolumeId) -> bytes:
    """What tags are computed with; whoever knows the volume's id is or was a member."""
    return blake3(volume, derive_key_context="piperfs discovery v1").digest()


def tag(key: bytes, day: int, replica: bytes = b"") -> str:
    """What stands for the volume, or for a replica of it, on one day."""
    return blake3(day.to_bytes(8, "big") + replica, key=key).hexdigest(length=10)


def describe(
    service: str, name: str, addresses: Sequence[str], properties: dict[str, str]
) -> ServiceInfo:
    """What the library announces: a name of one service, at these addresses."""
    pairs = [split_address(address) for address in addresses]
    return ServiceInfo(
        service,
        f"{name}.{service}",
        port=pairs[0][1] if pairs else 0,
        properties=properties,
        parsed_addresses=[host for host, _ in pairs],
        server=f"{name}.local.",
    )


def look_up(zeroconf: Zeroconf, service: str, name: str) -> ServiceInfo | None:
    """What somebody announces, if it can be reached at all. Blocks; runs in a thread."""
    try:
        info = zeroconf.get_service_info(service, name, LOOKUP_MS)
    except Exception as error:  # noqa: BLE001 - it may be closing, and hears all the network
        log.info("discovery.missed", reason=str(error) or type(error).__name__)
        return None
    return info if info is not None and info.port else None


def addresses_of(info: ServiceInfo) -> list[str]:
    """Where an announced service is."""
    assert info.port is not None, "what look_up gives has one"
    return [join_address(host, info.port) for host in info.parsed_addresses()]


def log_unavailable(error: Exception) -> None:
    """The network may lack anything at all, and then nothing is found."""
    log.info("discovery.unavailable", reason=str(error) or type(error).__name__)


async def in_thread(work: Callable[[], T], *, abandon: bool = False) -> T | None:
    """Run what blocks, beside the event loop; None where no thread can be had.

    The library needs threads of its own, so without one there is nothing to be found anyway.
    """
    try:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=abandon)
    except RuntimeError as error:
        log_unavailable(error)
        return None


@dataclass(frozen=True, slots=True)
class Announcement:
    """What is said of this replica, as long as neither the day nor its addresses change."""

    day: int
    addresses: tuple[str, ...]


class Discovery:
    """Announces this replica and reports addresses of others."""

    def __init__(
        self,
        volume: VolumeId,
        replica: ReplicaId,
        now_ns: Callable[[], int],
        addresses: Callable[[], list[str]],
        report: Callable[[str], None],
    ) -> None:
        self._key = key_of(volume)
        self._replica = replica
        self._now_ns = now_ns
        self._addresses = addresses
        self._report = report
        self._token: trio.lowlevel.TrioToken | None = None
        self._zeroconf: Zeroconf | None = None
        self._own_name = ""
        self.interfaces: list[str] | InterfaceChoice = InterfaceChoice.All

    async def run(self) -> None:
        """Announce and look until cancelled, afresh in every network and on every day."""
        self._token = trio.lowlevel.current_trio_token()
        said: Announcement | None = None
        try:
            while True:
                now = Announcement(self._now_ns() // DAY_NS, tuple(self._addresses()))
                if now != said and await in_thread(partial(self._begin, now)):
                    said = now
                await trio.sleep(CHECK_S)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(STOP_TIMEOUT_S):
                await in_thread(self._end, abandon=True)

    def _begin(self, said: Announcement) -> bool:
        """Announce and look; tells whether that was possible. Blocks; runs in a thread."""
        self._end()
        try:
            self._zeroconf = Zeroconf(interfaces=self.interfaces)
            info = self._info(said)
            self._own_name = info.name
            self._zeroconf.register_service(info, cooperating_responders=True)
            ServiceBrowser(self._zeroconf, SERVICE, handlers=[self._changed])
        except Exception as error:  # noqa: BLE001 - the network may lack anything at all
            log_unavailable(error)
            self._end()
            return False
        return True

    def _info(self, said: Announcement) -> ServiceInfo:
        name = tag(self._key, said.day, self._replica)
        return describe(SERVICE, name, said.addresses, {"t": tag(self._key, said.day)})

    def _end(self) -> None:
        """Take the announcement back. Blocks for a moment; runs in a thread."""
        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is not None:
            zeroconf.close()

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        """Somebody came or went. Runs in a thread of the library."""
        if state_change is ServiceStateChange.Removed or name == self._own_name:
            return
        info = look_up(zeroconf, service_type, name)
        if info is None or not self._is_ours(info):
            return
        assert self._token is not None
        for address in addresses_of(info):
            try:
                self._token.run_sync_soon(self._report, address)
            except trio.RunFinishedError:
                return

    def _is_ours(self, info: ServiceInfo) -> bool:
        """Whether a member says it, whose clock may be a day off."""
        today = self._now_ns() // DAY_NS
        known = {tag(self._key, today + days).encode() for days in (-1, 0, 1)}
        return info.properties.get(b"t") in known
