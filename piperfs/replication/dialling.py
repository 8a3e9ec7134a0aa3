"""Which addresses are dialled, and when.

Every address is dialled again and again with growing pauses, and at once when it is new, as long
as a connection is lacking. Of a full list that address goes first which was of no use: nobody
answers there, or who answers has no room. Members that have connections enough hold one more, to a
different member every minute, since circles that know no others would stay apart from the rest.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

import trio

from piperfs.core.ids import ReplicaId
from piperfs.replication.overlay import Dial, draw
from piperfs.replication.session import Session

PAUSE_MIN_S: Final = 0.2
PAUSE_MAX_S: Final = 15
HURRIED_S: Final = 2  # between tries at once, or two copies of a computer push each other out
SPREAD_S: Final = 0.2
REST_S: Final = 1
EXPLORE_EVERY_S: Final = 60
EXPLORE_AGAIN_S: Final = 10  # where nobody was met, such as for want of room
ADDRESSES_MAX: Final = 64


class Dialler:
    """The addresses of one replica.

    `dial` makes one connection and returns why it ended; `met` tells all members that were ever
    met, of whom the list holds a part, and where.
    """

    def __init__(
        self,
        sessions: Mapping[ReplicaId, Session],
        sessions_wanted: int,
        entropy: Callable[[int], bytes],
        dial: Callable[[Dial], Awaitable[str]],
        met: Callable[[], Iterable[tuple[ReplicaId, Sequence[str]]]],
    ) -> None:
        self._sessions = sessions
        self._wanted = sessions_wanted
        self._entropy = entropy
        self._dial = dial
        self._met = met
        self.dials: dict[str, Dial] = {}
        self._trying: set[Dial] = set()  # dials that have no outcome yet
        self._resting = 0  # dials that were turned away a moment ago
        self._explored: Dial | None = None  # met although there were connections enough
        self._vacancy = trio.Event()  # a connection may be lacking
        self._nursery: trio.Nursery | None = None

    def start(self, nursery: trio.Nursery) -> None:
        """Dial in the tasks of a nursery from now on."""
        self._nursery = nursery
        nursery.start_soon(self._explore, nursery)

    def add(self, address: str, *, is_given: bool) -> None:
        """Dial an address from now on, unless the list is full of better ones."""
        if address in self.dials:
            self.dials[address].again.set()
            return
        dials = self.dials.values()
        useless = [d for d in dials if (d.failures or d.was_brief) and not d.is_given]
        if self._nursery is not None and self._make_room(useless):
            self._begin(address, self._nursery, is_given=is_given)

    def _make_room(self, choices: Sequence[Dial]) -> bool:
        """Of a full list, forget what has not answered for longest, or else one without room."""
        if len(self.dials) < ADDRESSES_MAX:
            return True
        if not choices:
            return False
        worst = max(choices, key=lambda dial: dial.failures)
        worst.scope.cancel()
        del self.dials[worst.address]
        return True

    def _begin(self, address: str, nursery: trio.Nursery, *, is_given: bool = False) -> Dial:
        dial = self.dials[address] = Dial(address, is_given=is_given)
        nursery.start_soon(self._keep_dialling, dial, nursery)
        return dial

    def is_held(self, dial: Dial) -> None:
        """A dial came to a connection, which takes its place."""
        self._trying.discard(dial)
        dial.was_brief = False

    def is_gone(self, replica: ReplicaId) -> None:
        """A connection ended. Its peer may be back at once, whichever side dialled before."""
        for dial in self.dials.values():
            if dial.replica == replica:
                dial.again.set()
        self._note_vacancy()

    def _note_vacancy(self) -> None:
        vacancy, self._vacancy = self._vacancy, trio.Event()
        vacancy.set()

    async def _keep_dialling(self, dial: Dial, nursery: trio.Nursery) -> None:
        pause = PAUSE_MIN_S
        with dial.scope:
            while True:
                await self._until_wanted(dial)
                begun = trio.current_time()
                self._trying.add(dial)
                try:
                    dial.reason = await self._dial(dial)
                finally:
                    self._give_up(dial)
                dial.again = trio.Event()  # its own end is no reason to hurry
                dial.was_brief = trio.current_time() - begun <= PAUSE_MAX_S
                if dial.was_brief and not dial.failures:
                    nursery.start_soon(self._rest)
                pause = pause if dial.was_brief else PAUSE_MIN_S
                pause = min(PAUSE_MAX_S, pause * 2)
                with trio.move_on_after(pause * (0.5 + self._chance())) as timer:
                    await dial.again.wait()
                    await trio.sleep_until(begun + HURRIED_S)
                if not timer.cancelled_caught:
                    pause = PAUSE_MIN_S

    def _give_up(self, dial: Dial) -> None:
        """A dial has ended; if it came to nothing, its place is free."""
        if dial in self._trying:
            self._trying.remove(dial)
            self._note_vacancy()

    async def _rest(self) -> None:
        """Whoever was turned away does not ask the next one at once, but looks on in a moment."""
        self._resting += 1
        await trio.sleep(REST_S)
        self._resting -= 1
        self._note_vacancy()

    async def _until_wanted(self, dial: Dial) -> None:
        """Wait, as most addresses do most of the time, until a connection is lacking."""
        while not self._is_wanted(dial):
            await self._vacancy.wait()
            await trio.sleep(SPREAD_S * self._chance())  # not all at once

    def _is_wanted(self, dial: Dial) -> bool:
        if dial.replica in self._sessions:
            return False
        busy = len(self._sessions) + len(self._trying) + self._resting
        return dial is self._explored or busy < self._wanted

    async def _explore(self, nursery: trio.Nursery) -> None:
        """Hold one connection more than wanted, each minute to somebody else.

        Whoever was ever met may be the one: a circle may have dropped all others from its lists.
        """
        while True:
            is_met = self._explored is not None and self._explored.replica in self._sessions
            pause = EXPLORE_EVERY_S if is_met else EXPLORE_AGAIN_S
            await trio.sleep(pause * (0.5 + self._chance()))
            former, self._explored = self._explored, None
            known = self._sessions.get(former.replica) if former and former.replica else None
            if known is not None and len(self._sessions) > self._wanted:
                known.close()
            if len(self._sessions) >= self._wanted:
                self._explored = self._stranger(nursery)
            if self._explored is not None:
                self._explored.again.set()
                self._note_vacancy()

    def _stranger(self, nursery: trio.Nursery) -> Dial | None:
        """Some member that there is no connection to."""
        unconnected = [d for d in self.dials.values() if d.replica not in self._sessions]
        met = [places for replica, places in self._met() if replica not in self._sessions]
        choices = dict.fromkeys(dial.address for dial in unconnected)
        choices |= dict.fromkeys(place for places in met for place in places)
        for address in draw(list(choices), 1, self._entropy):
            dial = self.dials.get(address)
            if dial is None and self._make_room([d for d in unconnected if not d.is_given]):
                dial = self._begin(address, nursery)
            return dial
        return None

    def _chance(self) -> float:
        return self._entropy(1)[0] / 255
