"""Who may stand at the door: how many strangers at once, and how often each may knock.

A stranger costs a TLS handshake, some milliseconds of a processor, before anything is known of
him. So each address has a budget that fills slowly, and whoever proves to be a member gets back
what he spent.
"""

import ipaddress
from collections import Counter
from collections.abc import Callable

from piperfs.core.limits import (
    PREAUTH_BURST_MAX,
    PREAUTH_CONNECTIONS_MAX,
    PREAUTH_ORIGINS_MAX,
    PREAUTH_PER_HOST_MAX,
    PREAUTH_PER_S_MAX,
)
from piperfs.replication.budget import Budget


class Doorman:
    """Counts those who have not proved who they are."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.strangers: Counter[str] = Counter()
        self._budgets: dict[str, Budget] = {}
        self.turned_away = 0

    def admit(self, host: str) -> Callable[[], None] | None:
        """Let somebody in; the function that this returns is called once he is known or gone.

        None if there is no place, or he knocks too often.
        """
        origin = origin_of(host)
        crowded = self.strangers.total() >= PREAUTH_CONNECTIONS_MAX
        if crowded or self.strangers[origin] >= PREAUTH_PER_HOST_MAX or not self._pay(origin):
            self.turned_away += 1
            self.strangers += Counter()  # forgets those that it only asked for
            return None
        self.strangers[origin] += 1
        pending = [origin]

        def leave() -> None:
            while pending:
                self.strangers.subtract((pending.pop(),))
                self.strangers += Counter()

        return leave

    def _pay(self, origin: str) -> bool:
        now = self._now()
        budget = self._budgets.get(origin)
        if budget is None:
            self._make_room(now)
            most = PREAUTH_BURST_MAX
            budget = self._budgets[origin] = Budget(PREAUTH_PER_S_MAX, most, most, now)
        if budget.earn(now) < 1:
            return False
        budget.spend(1, now)
        return True

    def _make_room(self, now: float) -> None:
        """Forget addresses that have their whole budget again; if there are none, the oldest."""
        if len(self._budgets) < PREAUTH_ORIGINS_MAX:
            return
        refilled = now - PREAUTH_BURST_MAX / PREAUTH_PER_S_MAX
        kept = {origin: each for origin, each in self._budgets.items() if each.since > refilled}
        if len(kept) >= PREAUTH_ORIGINS_MAX:
            kept.pop(min(kept, key=lambda origin: kept[origin].since))
        self._budgets = kept

    def refund(self, host: str) -> None:
        """He proved to be a member."""
        budget = self._budgets.get(origin_of(host))
        if budget is not None:
            budget.left = min(PREAUTH_BURST_MAX, budget.left + 1)


def origin_of(host: str) -> str:
    """What counts as one stranger: an address, or the network of 64 bits that one may roam."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host
