"""Which addresses are dialled, and when.

Every address is dialled again and again with growing pauses, and at once when it is new, as long
as a connection is lacking. Of a full list that address goes first which was of no use: nobody
answers there, or who answers has no room. Members that have connections enough hold one more, to a
different member every minute, since circles that know no others would stay apart from the rest.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
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
ADDRESSES_MAX: Final = 64


class Dialler:
    """The addresses of one replica. `dial` makes one connection and returns why it ended."""

    def __init__(
        self,
        sessions: Mapping[ReplicaId, Session],
        sessions_wanted: int,
        entropy: Callable[[int], bytes],
        dial: Callable[[Dial], Awaitable[str]],
    ) -> None:
        self._sessions = sessions
        self._wanted = sessions_wanted
        self._entropy = entropy
        self._dial = dial
        self.dials: dict[str, Dial] = {}
        self._trying: dict[Dial | None, None] = {}  # dials that have no outcome yet
        self._resting = 0  # dials that were turned away a moment ago
        self._explored: Dial | None = None  # met although there were connections enough
        self._vacancy = trio.Event()  # a connection may be lacking
        self._nursery: trio.Nursery | None = None

    def start(self, nursery: trio.Nursery) -> None:
        """Dial in the tasks of a nursery from now on."""
        self._nursery = nursery
        nursery.start_soon(self._explore)

    def add(self, address: str, *, is_given: bool) -> None:
        """Dial an address from now on, unless the list is full of better ones."""
        if address in self.dials:
            self.dials[address].again.set()
            return
        if self._nursery is None or (len(self.dials) >= ADDRESSES_MAX and not self._forget_one()):
            return
        dial = self.dials[address] = Dial(address, is_given=is_given)
        self._nursery.start_soon(partial(self._keep_dialling, dial, self._nursery))

    def _forget_one(self) -> bool:
        """Forget what has not answered for longest, or else one that had no room."""
        useless = [
            dial
            for dial in self.dials.values()
            if (dial.failures or dial.was_brief) and not dial.is_given
        ]
        if not useless:
            return False
        worst = max(useless, key=lambda dial: dial.failures)
        worst.scope.cancel()
        del self.dials[worst.address]
        return True

    def has_outcome(self, dial: Dial | None) -> None:
        """A dial came to a connection, or to nothing."""
        if self._trying.pop(dial, dial) is None:
            self.note_vacancy()

    def is_gone(self, replica: ReplicaId) -> None:
        """A connection ended. Its peer may be back at once, whichever side dialled before."""
        for dial in self.dials.values():
            if dial.replica == replica:
                dial.again.set()
        self.note_vacancy()

    def note_vacancy(self) -> None:
        """A connection may be lacking."""
        vacancy, self._vacancy = self._vacancy, trio.Event()
        vacancy.set()

    async def _keep_dialling(self, dial: Dial, nursery: trio.Nursery) -> None:
        pause = PAUSE_MIN_S
        with dial.scope:
            while True:
                await self._until_wanted(dial)
                begun = trio.current_time()
                self._trying[dial] = None
                try:
                    dial.reason = await self._dial(dial)
                finally:
                    self.has_outcome(dial)
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

    async def _rest(self) -> None:
        """Whoever was turned away does not ask the next one at once, but looks on in a moment."""
        self._resting += 1
        await trio.sleep(REST_S)
        self._resting -= 1
        self.note_vacancy()

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

    async def _explore(self) -> None:
        """Hold one connection more than wanted, each minute to somebody else."""
        while True:
            await trio.sleep(EXPLORE_EVERY_S * (0.5 + self._chance()))
            former, self._explored = self._explored, None
            known = self._sessions.get(former.replica) if former and former.replica else None
            if known is not None and len(self._sessions) > self._wanted:
                known.close()
            strangers = [d for d in self.dials.values() if d.replica not in self._sessions]
            if strangers and len(self._sessions) >= self._wanted:
                self._explored = draw(strangers, 1, self._entropy)[0]
                self._explored.again.set()
                self.note_vacancy()

    def _chance(self) -> float:
        return self._entropy(1)[0] / 255
