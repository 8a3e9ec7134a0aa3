"""One replica of a volume, put together: state directory, keys, membership, store.

Everything that runs, mounted or not, and every command on a volume that does not run, begins by
opening a `Node`. Its lock on the state directory lasts as long as the node does.
"""

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from piperfs.core import membership
from piperfs.core.errors import ExitCode, PeerError, UserError
from piperfs.core.identity import Identity, generate
from piperfs.core.ids import ReplicaId, VolumeId
from piperfs.core.limits import MIB
from piperfs.core.manifest import node_children
from piperfs.core.membership import MembershipGraph, epoch_keys
from piperfs.core.membership_records import Remove, Statement, record_id
from piperfs.core.sealing import Keyring
from piperfs.daemon.clock import Clock
from piperfs.daemon.committer import Committer
from piperfs.daemon.keyfile import Protection, Secrets, read_keys, write_keys
from piperfs.daemon.space import DiskSpace
from piperfs.daemon.statedir import StateDirectory, VolumeFile
from piperfs.store.change import SetAttributes
from piperfs.store.engine import DATA_FILE, LmdbEngine
from piperfs.store.schema import NAMES
from piperfs.store.store import Identity as StoreIdentity
from piperfs.store.store import Store

if TYPE_CHECKING:
    from piperfs.fs.filesystem import Filesystem
    from piperfs.replication.replicator import Replicator

FULL_BYTES: Final = 8 * MIB  # with less, a person hears of it
ADDRESSES: Final = b"addresses"  # where this replica was last reached, for tickets


@dataclass(eq=False)
class Node:
    """A replica and what it works with."""

    state: StateDirectory
    label: str
    identity: Identity
    secrets: Secrets
    key_protection: Protection
    graph: MembershipGraph
    keyring: Keyring
    store: Store
    clock: Clock
    space: DiskSpace
    committer: Committer = field(init=False)
    filesystem: "Filesystem | None" = None
    replicator: "Replicator | None" = None
    mountpoint: str | None = None
    is_daemon: bool = False
    flush: Callable[[], Awaitable[None]] | None = None  # saves what open files hold, and commits
    _listeners: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.committer = Committer(self.store, self.clock.now_ns)
        self.space.reusable = self.store.bytes_free
        self.store.chunks.has_room = lambda: self.space().available > 0
        self.store.on_dirty = self.committer.wake

    # Members

    @property
    def role(self) -> str:
        member = self.graph.state().member(self.store.replica)
        return "none" if member is None else "removed" if member.removed else member.role

    def members(self) -> list[membership.Member]:
        return sorted(self.graph.state().members.values(), key=lambda member: member.grant)

    def name_of(self, replica: ReplicaId) -> str:
        """What a member is called; the start of its id if it is unknown."""
        member = self.graph.state().member(replica)
        return member.label if member is not None else replica.hex()[:12]

    def find_member(self, text: str) -> membership.Member:
        """A member by its name or the start of its id. Raises UserError."""
        known = self.members()
        found = [m for m in known if m.label == text and not m.removed]
        found = found or [m for m in known if len(text) >= 4 and m.replica.hex().startswith(text)]
        if not found:
            raise UserError(f"no member is called '{text}'; members lists them", ExitCode.NOT_FOUND)
        if len(found) > 1:
            raise UserError(f"several members are called '{text}'; give the start of the id")
        return found[0]

    def add_record(self, raw: bytes) -> bool:
        """Take in a membership record of a peer; tells whether it was new. Raises PeerError."""
        if self.graph.add(raw) == "known":
            return False
        self.store.put_member_record(record_id(raw), raw)
        self._members_changed()
        return True

    def author(self, statement: Statement) -> bytes:
        """Sign a statement about members. Raises UserError without the right to."""
        if self.role != "admin":
            raise UserError(
                f"this needs the role admin; this computer's is {self.role}", ExitCode.REFUSED
            )
        return self.sign_record(statement)

    def sign_record(self, statement: Statement) -> bytes:
        """Sign a record of any kind."""
        raw = self.graph.author(self.identity, self.clock.now_ns(), statement)
        self.store.put_member_record(record_id(raw), raw)
        self._members_changed()
        return raw

    async def commit(self) -> None:
        """Return when everything so far is durable. Raises StoreError."""
        await self.committer.commit()

    def remove_member(self, member: membership.Member) -> None:
        """Take a member's rights away, and the keys to come. Raises UserError."""
        admins = [m for m in self.graph.state().present() if m.role == "admin"]
        if member.replica in {m.replica for m in admins} and len(admins) == 1:
            raise UserError("the last admin cannot be removed; make another one first")
        cut = self.store.highest_seq_of(member.replica)
        self.author(Remove(member.replica, cut))
        self.rotate()

    def rotate(self) -> None:
        """Begin a new epoch, whose key no removed member gets."""
        keys = epoch_keys(self.graph, self.identity)
        self.author(membership.rotation(self.graph, keys, self.clock.entropy))

    def _members_changed(self) -> None:
        keys = epoch_keys(self.graph, self.identity)
        current = self.graph.state().current
        if keys:
            self.keyring.update(keys, current if current in keys else next(iter(keys)))
        self.store.on_dirty()
        for listener in self._listeners:
            listener()

    def on_members(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a membership record is new."""
        self._listeners.append(listener)

    def health(self) -> dict[str, str]:
        """Checks that are not well, with the reason."""
        found = {}
        if self.key_protection == "none":
            found["key"] = "the device key is protected by file permissions alone"
        if self.committer.failure is not None:
            word = (
                "failing, restart it after a look at the disk" if self.store.is_failing else "full"
            )
            found["store"] = f"{word}: {self.committer.failure}"
        if self.store.chunks.damaged:
            found["chunks"] = f"{self.store.chunks.damaged} damaged ones were found"
        if self.space().available < FULL_BYTES:
            found["space"] = "the disk is full: writing fails, deleting works; make room on it"
        if not self.graph.state().is_clean:
            found["keys"] = "a removed member knows the current key; rotate-keys makes a new one"
        return found

    def close(self) -> None:
        """Release everything; what is not committed is lost."""
        self.store.close()
        self.state.close()


def default_member_name() -> str:
    return socket.gethostname() or "unnamed"


def create(path: Path, label: str, member: str, clock: Clock) -> Node:
    """Make a new volume, whose first admin this computer is. Raises UserError."""
    state = StateDirectory.create(path)
    try:
        identity = generate(clock.entropy)
        name = member or default_member_name()
        now = clock.now_ns()
        raw, volume = membership.found_volume(identity, clock.entropy, now, label, name)
        secrets = Secrets(identity.secrets, clock.entropy(32))
        protection = write_keys(state.keys, secrets, clock.entropy)
        node = assemble(state, label, secrets, protection, volume_records(volume, [raw]), clock)
        node.store.apply_local([SetAttributes(node.store.root, mode=0o755, mtime_ns=now)], now)
        node.store.commit(clock.now_ns())
        state.publish(VolumeFile(volume, label))
    except BaseException:
        state.discard()
        raise
    return node


def open_node(path: Path, clock: Clock) -> Node:
    """Open an existing replica. Raises UserError or StoreError."""
    state = StateDirectory.open(path)
    try:
        file = state.read()
        data = state.store / DATA_FILE
        if not data.exists() or data.stat().st_size == 0:
            raise _empty(state.store)
        secrets, protection = read_keys(state.keys)
        graph = MembershipGraph(file.volume)
        label = file.label
        return assemble(state, label, secrets, protection, graph, clock, create=False)
    except BaseException:
        state.close()
        raise


def _empty(store: Path) -> UserError:
    return UserError(
        f"{store} is missing or empty: is its disk mounted? Nothing was changed. "
        "If it is lost, remove this directory and join again",
        ExitCode.NOT_FOUND,
    )


def volume_records(volume: VolumeId, records: list[bytes]) -> MembershipGraph:
    """A graph of records that arrive together. Raises PeerError."""
    graph = MembershipGraph(volume)
    for raw in records:
        graph.add(raw)
    return graph


def assemble(
    state: StateDirectory,
    label: str,
    secrets: Secrets,
    protection: Protection,
    graph: MembershipGraph,
    clock: Clock,
    *,
    create: bool = True,
) -> Node:
    """Open the store, or begin one, and put everything together."""
    identity = Identity(secrets.device)
    keyring = Keyring.empty(graph.volume)
    own = StoreIdentity(graph.volume, identity.replica, identity, keyring)
    space = DiskSpace(state.path, clock.monotonic)
    engine = LmdbEngine(state.store, NAMES, create=create, claim_room=space.claim)
    if not create and engine.get("meta", b"owner") is None:
        raise _empty(state.store)
    store = Store(engine, own, secrets.store, clock.entropy, node_children)
    for raw in graph.records().values():
        store.put_member_record(record_id(raw), raw)
    for raw in store.members_records().values():
        try:
            graph.add(raw)
        except PeerError as error:
            raise UserError(f"the store holds a damaged membership record: {error}") from error
    keys = epoch_keys(graph, identity)
    if keys:
        current = graph.state().current
        keyring.update(keys, current if current in keys else next(iter(keys)))
    return Node(state, label, identity, secrets, protection, graph, keyring, store, clock, space)
