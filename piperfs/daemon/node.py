"""One replica of a volume, put together: state directory, keys, membership, store.

Everything that runs, mounted or not, and every command on a volume that does not run, begins by
opening a `Node`. Its lock on the state directory lasts as long as the node does.
"""

import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from piperfs.core import epochs
from piperfs.core.epochs import epoch_keys
from piperfs.core.errors import ExitCode, PeerError, PiperError, UserError
from piperfs.core.forks import Fork
from piperfs.core.identity import Identity, generate
from piperfs.core.ids import ReplicaId
from piperfs.core.limits import MIB, SEQ_AHEAD_MAX
from piperfs.core.manifest import node_children
from piperfs.core.membership import MembershipGraph, graph_of, parents_first
from piperfs.core.membership_records import RecordId, Remove, Role, SetRole, Statement, record_id
from piperfs.core.membership_rules import WRITING_ROLES, Member
from piperfs.core.membership_votes import Proposal
from piperfs.core.sealing import Keyring
from piperfs.daemon import forks
from piperfs.daemon.clock import Clock
from piperfs.daemon.committer import Committer
from piperfs.daemon.keyfile import Protection, Secrets, read_keys, write_keys
from piperfs.daemon.origin import is_copy, write_origin
from piperfs.daemon.renewing import identity_of, renew
from piperfs.daemon.space import DiskSpace
from piperfs.daemon.statedir import StateDirectory, VolumeFile
from piperfs.obs.log import get_logger
from piperfs.replication.pairing import Pairing
from piperfs.store.cells import Cells
from piperfs.store.change import SetAttributes
from piperfs.store.engine import DATA_FILE, Engine, LmdbEngine
from piperfs.store.pages import check_file
from piperfs.store.salvage import SalvageEngine, open_salvage
from piperfs.store.schema import NAMES
from piperfs.store.store import Identity as StoreIdentity
from piperfs.store.store import Store

if TYPE_CHECKING:
    from piperfs.daemon.census import Census
    from piperfs.fs.filesystem import Filesystem
    from piperfs.replication.replicator import Replicator

log = get_logger("members")

FULL_BYTES: Final = 8 * MIB  # with less, a person hears of it
IS_FULL: Final = "the disk is full: writing fails, deleting works; make room on it"
NO_HOLDER: Final = ", or connect a member that holds all: until then deleting makes none"
Parts: TypeAlias = tuple[StateDirectory, str, Secrets, Protection, MembershipGraph, Clock]
ADDRESSES: Final = b"addresses"  # where this replica was last reached, for tickets

CHECK_WORDS: Final = b"words:"  # + replica


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
    pairing: Pairing = field(default_factory=Pairing)
    committer: Committer = field(init=False)
    filesystem: "Filesystem | None" = None
    replicator: "Replicator | None" = None
    mountpoint: str | None = None
    is_daemon: bool = False
    damaged_values: int = 0  # found by the last walk over the store
    keeps_deleted: bool = False  # on a full disk too, since nobody else is known to hold it
    census: "Census | None" = None  # what the last walk over the store found
    salvage: SalvageEngine | None = None  # set while the store is being checked or repaired
    flush: Callable[[], Awaitable[None]] | None = None  # saves what open files hold, and commits
    early_forks: dict[ReplicaId, Fork] = field(default_factory=dict)  # of unknown members
    _listeners: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.committer = Committer(self.store, self.clock, lambda: self.space().available_for(0))
        self.space.reusable = self.store.engine.bytes_free
        self.space.rows = self.store.engine.free_rows
        self.store.chunks.has_room = lambda: self.space().available > 0
        self.store.on_dirty = self.committer.wake
        self.store.may_write = lambda: self.may_write
        forks.enforce(self)

    # Members

    @property
    def role(self) -> str:
        member = self.graph.state().member(self.store.replica)
        return "none" if member is None else "removed" if member.removed else member.role

    @property
    def keeps_all(self) -> bool:
        """Whether all content is meant to be here."""
        return self.replicator is None or self.replicator.fetcher.keeps_all

    def members(self) -> list[Member]:
        return sorted(self.graph.state().members.values(), key=lambda member: member.grant)

    def name_of(self, replica: ReplicaId) -> str:
        """What a member is called; the start of its id if it is unknown."""
        member = self.graph.state().member(replica)
        return member.label if member is not None else replica.hex()[:12]

    def find_member(self, text: str) -> Member:
        """A member by its name or the start of its id. Raises UserError."""
        known = self.members()
        named = [m for m in known if m.label == text]
        found = [m for m in named if not m.removed] or named
        found = found or [m for m in known if len(text) >= 4 and m.replica.hex().startswith(text)]
        if not found:
            raise UserError(f"no member is called '{text}'; members lists them", ExitCode.NOT_FOUND)
        if len(found) > 1:
            raise UserError(
                f"several members are called '{text}'; give the start of the id, as members shows",
                ExitCode.USAGE,
            )
        return found[0]

    def add_records(self, raws: Iterable[bytes]) -> int:
        """Take in membership records of a peer; returns how many were new. Raises PeerError."""
        added: list[RecordId] = []
        try:
            for raw in raws:
                added += self.graph.add(raw)
        finally:
            if added:
                self._keep(added)
        return len(added)

    def _keep(self, added: Iterable[RecordId]) -> None:
        for record in added:
            self.store.put_member_record(record, self.graph.raw(record))
        self._members_changed()

    def author(self, statement: Statement) -> bytes:
        """Sign a statement about members. Raises UserError without the right to."""
        self.need_admin()
        return self.sign_record(statement)

    def need_admin(self) -> None:
        """Raises UserError unless this computer is one."""
        if self.role != "admin":
            raise UserError(
                f"this needs the role admin; this computer's is {self.role}", ExitCode.REFUSED
            )

    def sign_record(self, statement: Statement) -> bytes:
        """Sign a record of any kind."""
        raw = self.graph.author(self.identity, self.clock.now_ns(), statement)
        self._keep([record_id(raw)])
        return raw

    def check_invite(self, role: Role) -> None:
        """Raises UserError if one admin may not let somebody in with this role."""
        self.need_admin()
        needed = self.graph.state().votes_needed
        if role == "admin" and needed > 1:
            raise UserError(
                f"here it takes {needed} admins to make one: invite a writer, then let {needed} "
                "of you run piperfs set-role",
                ExitCode.REFUSED,
            )

    def note_check_words(self, replica: ReplicaId, words: str) -> None:
        """Keep the words that both ends show when a computer joins."""
        self.store.tables.meta.put(CHECK_WORDS + replica, words.encode())

    def check_words(self, replica: ReplicaId) -> str | None:
        """The words of a join that this computer took part in."""
        words = self.store.tables.meta.get(CHECK_WORDS + replica)
        return None if words is None else words.decode()

    async def commit(self) -> None:
        """Return when everything so far is durable. Raises StoreError."""
        await self.committer.commit()

    def remove_member(self, member: Member) -> None:
        """Take a member's rights away, and the keys to come, or propose it. Raises UserError."""
        self.need_admin()
        self._keep_an_admin(member)
        if member.removed:
            raise UserError(f"{member.label} was removed already", ExitCode.REFUSED)
        if not self._has_signed(member, None):
            self.author(Remove(member.replica, self._cut(member)))
        if not self.graph.state().may_connect(member.replica) and self.role == "admin":
            self.rotate()

    def set_role(self, member: Member, role: Role) -> None:
        """Change what a member may do, or propose it. Raises UserError."""
        self.need_admin()
        if member.role == role and not member.removed:
            return
        if role != "admin":
            self._keep_an_admin(member)
        if member.removed:
            raise UserError(f"{member.label} was removed; invite it anew", ExitCode.REFUSED)
        if (member.role == "store") != (role == "store"):
            raise UserError(
                "a computer that stores without reading stays one, and others cannot become one: "
                "remove it and invite it anew",
                ExitCode.REFUSED,
            )
        if not self._has_signed(member, role):
            self.author(SetRole(member.replica, role, self._cut(member)))

    def _has_signed(self, member: Member, role: Role | None) -> bool:
        """Whether this admin did before, and waits for others."""
        proposal = self.graph.state().proposal(member.replica, role)
        return proposal is not None and self.store.replica in proposal.signed_by

    def describe(self, proposal: Proposal) -> str:
        """What somebody proposes, for a person."""
        state = self.graph.state()
        deed = "remove" if proposal.role is None else f"make {proposal.role}"
        signed = ", ".join(self.name_of(who) for who in proposal.signed_by)
        name, needed = self.name_of(proposal.member), state.votes_needed
        return f"{deed} {name}: signed by {signed}, of {needed} admins that it takes"

    def _cut(self, member: Member) -> int:
        """Up to which number a member's operations go on counting.

        Numbers are milliseconds unless clocks jump; one of the far future was made to outlast this.
        """
        latest = self.clock.now_ns() // 1_000_000 + SEQ_AHEAD_MAX
        return min(self.store.highest_seq_of(member.replica), latest)

    def _keep_an_admin(self, member: Member) -> None:
        admins = [m for m in self.graph.state().present() if m.role == "admin"]
        if [m.replica for m in admins] == [member.replica]:
            raise UserError(
                "the last admin cannot be removed or lose the role; make another one first",
                ExitCode.REFUSED,
            )

    def rotate(self) -> None:
        """Begin a new epoch, whose key no removed member gets."""
        keys = epoch_keys(self.graph, self.identity)
        self.author(epochs.rotation(self.graph, keys, self.clock.entropy))

    def renew_keys(self) -> bool:
        """Rotate if outsiders know the current key, or a reader lacks one; admins only."""
        state = self.graph.state()
        is_well = state.is_clean and state.is_complete
        if self.role != "admin" or (is_well and epochs.is_shared(self.graph, self.keyring.knows)):
            return False
        self.rotate()
        return True

    @property
    def may_write(self) -> bool:
        """Whether what this replica writes counts anywhere."""
        return self.role in WRITING_ROLES

    def _members_changed(self) -> None:
        after = self.graph.state()
        use_keys(self.keyring, self.graph, self.identity)
        forks.enforce(self)
        forks.withdraw(self)
        forks.release(self)
        forks.note_early(self)
        if self.store.ahead.drop(after.may_write):
            self.store.chunks.doubt()
        self.store.on_dirty()
        self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    def note_fork(self, fork: Fork) -> None:
        """Take in a proof that a member signed twice. Raises PeerError if it proves nothing."""
        if forks.note(self, fork):
            self._tell()

    def on_members(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a membership record or a proof of a fork is new."""
        self._listeners.append(listener)

    def health(self) -> dict[str, str]:
        """Checks that are not well, with the reason."""
        found = {}
        if self.key_protection == "none":
            found["key"] = "the device key is protected by file permissions alone"
        if self.committer.failure is not None:
            word = "failing, look at the disk and restart" if self.store.is_failing else "full"
            found["store"] = f"{word}: {self.committer.failure}"
        if self.store.chunks.damaged:
            found["chunks"] = f"{self.store.chunks.damaged} damaged ones were found"
        if damaged := max(self.damaged_values, self.store.damage_met):
            found["values"] = f"{damaged} damaged ones: run piperfs fsck --repair"
        if self.space().available < FULL_BYTES:
            found["space"] = IS_FULL + (NO_HOLDER if self.keeps_deleted else "")
        found.update(forks.health(self))
        state = self.graph.state()
        if state.proposals:
            found["proposals"] = "; ".join(self.describe(each) for each in state.proposals)
        if not state.is_clean:
            found["keys"] = (
                "somebody outside knows the current key; an admin's daemon makes a new one when it "
                "runs, or rotate-keys does it at once"
            )
        elif not state.is_complete:
            found["keys"] = "a member lacks the current key until an admin's daemon makes a new one"
        if self.census is not None and self.census.mismatches:
            found["view"] = f"{self.census.mismatches} files or folders are shown wrongly; run fsck"
        return found

    def note_unreadable(self, error: Exception) -> None:
        """Work in the background met a value that cannot be read."""
        self.damaged_values = max(1, self.damaged_values)
        log.error("store.unreadable", reason=str(error))

    def close(self) -> None:
        """Release everything; what is not committed is lost."""
        self.store.close()
        self.state.close()


def default_member_name() -> str:
    return socket.gethostname() or "unnamed"


def use_keys(keyring: Keyring, graph: MembershipGraph, identity: Identity) -> None:
    """Read with every epoch key that this device can open, and write with the best of them."""
    keys = epoch_keys(graph, identity)
    state = graph.state()
    if keys:
        keyring.update(keys, next(epoch for epoch in state.epochs if epoch in keys))
    keyring.pads = state.has_store


def create(path: Path, label: str, member: str, clock: Clock, *, quorum: int = 1) -> Node:
    """Make a new volume, whose first admin this computer is. Raises UserError."""
    state = StateDirectory.create(path)
    try:
        identity = generate(clock.entropy)
        name = member or default_member_name()
        now = clock.now_ns()
        raw, volume = epochs.found_volume(identity, clock.entropy, now, label, name, quorum=quorum)
        secrets = Secrets(identity.secrets, clock.entropy(32))
        protection = write_keys(state.keys, secrets, clock.entropy)
        node = assemble(state, label, secrets, protection, graph_of(volume, [raw]), clock)
        node.store.apply_local([SetAttributes(node.store.root, mode=0o755, mtime_ns=now)], now)
        node.store.commit(clock.now_ns())
        state.publish(VolumeFile(volume, label))
    except BaseException:
        state.discard()
        raise
    return node


def open_node(path: Path, clock: Clock, *, salvage: bool = False) -> Node:
    """Open an existing replica; `salvage` opens it for fsck, however damaged it is.

    After a kill the structure of the store is looked at before LMDB trusts it: damage there may
    be what ended the process, and would do so again.

    Raises:
        UserError: it cannot be used; the text says why.
        StoreError: the store cannot be read.
    """
    state = StateDirectory.open(path)
    try:
        file = state.read()
        data = state.store / DATA_FILE
        if not data.exists() or data.stat().st_size == 0:
            raise _empty(state.store)
        secrets, protection = read_keys(state.keys)
        parts = (state, file.label, secrets, protection, MembershipGraph(file.volume), clock)
        if salvage:
            return _assemble_salvage(parts)
        if state.was_killed and (damage := check_file(data)):
            raise UserError(
                f"{state.store} is damaged ({damage[0]}); run piperfs fsck --repair {path}",
                ExitCode.REFUSED,
            )
        engine = LmdbEngine(state.store, NAMES, create=False)
        if engine.get("meta", b"owner") is None:
            raise _empty(state.store)
        return _settle(assemble(*parts, engine=engine), parts)
    except BaseException:
        state.close(clean=not state.was_killed)
        raise


def _settle(node: Node, parts: Parts) -> Node:
    """Go on as a new member if the state directory is a copy, before anything else is written."""
    state = parts[0]
    data = state.store / DATA_FILE
    if is_copy(state.path, data) and renew(node):
        node.store.close()
        graph = MembershipGraph(node.graph.volume)
        engine = LmdbEngine(state.store, NAMES, create=False)
        node = assemble(*parts[:4], graph, parts[5], engine=engine)
    write_origin(state.path, data)
    return node


def _assemble_salvage(parts: Parts) -> Node:
    """Open a store that may be damaged, for fsck. Raises UserError if nothing can be saved."""
    state, secrets, clock = parts[0], parts[2], parts[5]
    try:
        cells = Cells(secrets.store, clock.entropy)
        return assemble(*parts, engine=open_salvage(state.store, NAMES, cells))
    except PiperError as error:
        raise UserError(
            f"{state.store} is beyond repair ({error}); keep a copy of it, remove {state.path} "
            "and join again"
        ) from error


def _empty(store: Path) -> UserError:
    return UserError(
        f"{store} is missing or empty: is its disk mounted? Nothing was changed. "
        "If it is lost, remove this directory and join again",
        ExitCode.NOT_FOUND,
    )


def _read_members(graph: MembershipGraph, store: Store) -> None:
    """Take over the membership records that the store holds. Raises UserError."""
    try:
        for raw in parents_first(store.members_records().values()):
            graph.add(raw)
    except PeerError as error:
        raise UserError(f"the store holds a damaged membership record: {error}") from error
    if graph.volume not in graph:
        raise UserError("the store lacks the volume's first record; run piperfs fsck")


def assemble(
    state: StateDirectory,
    label: str,
    secrets: Secrets,
    protection: Protection,
    graph: MembershipGraph,
    clock: Clock,
    *,
    engine: LmdbEngine | SalvageEngine | None = None,
) -> Node:
    """Put everything together over the store's engine; a new store is begun without one."""
    space = DiskSpace(state.path, clock.monotonic)
    engine = engine or LmdbEngine(state.store, NAMES)
    if isinstance(engine, LmdbEngine):
        engine.claim_room, engine.is_tight = space.claim, space.is_tight
    return assemble_on(Medium(engine, space), state, label, secrets, protection, graph, clock)


@dataclass(frozen=True, slots=True)
class Medium:
    """What a replica is kept on, and how much room there is."""

    engine: Engine
    space: DiskSpace


def assemble_on(
    medium: Medium,
    state: StateDirectory,
    label: str,
    secrets: Secrets,
    protection: Protection,
    graph: MembershipGraph,
    clock: Clock,
) -> Node:
    """Put a replica together on any medium, as a simulation does."""
    engine, space = medium.engine, medium.space
    identity = identity_of(engine, Cells(secrets.store, clock.entropy), secrets.device)
    keyring = Keyring.empty(graph.volume)
    own = StoreIdentity(graph.volume, identity.replica, identity, keyring)
    store = Store(engine, own, secrets.store, clock.entropy, node_children, is_blind=state.is_blind)
    for raw in graph.records().values():
        store.put_member_record(record_id(raw), raw)
    _read_members(graph, store)
    store.found(graph.founded_ns)
    use_keys(keyring, graph, identity)
    node = Node(state, label, identity, secrets, protection, graph, keyring, store, clock, space)
    node.salvage = engine if isinstance(engine, SalvageEngine) else None
    return node
