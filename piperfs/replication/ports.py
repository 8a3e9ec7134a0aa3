"""What replication needs of the replica it works for."""

from collections.abc import Callable, Iterable
from typing import Protocol

from piperfs.core.clock import Runner
from piperfs.core.errors import StoreError
from piperfs.core.forks import Fork
from piperfs.core.identity import Identity
from piperfs.core.ids import ReplicaId
from piperfs.core.membership import MembershipGraph
from piperfs.core.membership_records import Statement
from piperfs.core.sealing import Keyring
from piperfs.replication.pairing import Pairing
from piperfs.store.store import Store


class Clock(Protocol):
    """Time, randomness and worker threads."""

    @property
    def now_ns(self) -> Callable[[], int]: ...

    @property
    def entropy(self) -> Callable[[int], bytes]: ...

    @property
    def in_thread(self) -> Runner: ...


class Commits(Protocol):
    """The committer of the store. Its methods raise StoreError.

    `failure` is why the last commit failed, such as for a full disk; it is tried again.
    """

    failure: StoreError | None

    async def commit(self) -> None: ...

    async def settled(self) -> None: ...

    async def make_way(self) -> None: ...

    def on_durable(self, listener: Callable[[int], None]) -> None: ...


class Local(Protocol):
    """This replica."""

    identity: Identity
    graph: MembershipGraph
    keyring: Keyring
    store: Store
    pairing: Pairing

    @property
    def clock(self) -> Clock: ...

    @property
    def committer(self) -> Commits: ...

    def on_members(self, listener: Callable[[], None]) -> None: ...

    def name_of(self, replica: ReplicaId) -> str: ...

    def add_records(self, raws: Iterable[bytes]) -> int: ...

    def note_fork(self, fork: Fork) -> None: ...

    def sign_record(self, statement: Statement) -> bytes: ...

    def note_check_words(self, replica: ReplicaId, words: str) -> None: ...

    async def commit(self) -> None: ...
