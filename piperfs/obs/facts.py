"""What a daemon tells about itself: the shapes behind `status`, `peers`, `members`, `conflicts`.

The `--json` output of these commands is exactly these structures, so they only ever grow. Names
of files are text here: bytes that are not UTF-8 are written as backslash escapes.
"""

import msgspec


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Parent of all of them: immutable, fields by name."""


class PeerFacts(Facts, frozen=True, kw_only=True):
    """Another member, as this replica sees it."""

    replica: str
    name: str
    state: str  # connected, connecting, waiting, refused, never met
    address: str | None = None
    direction: str | None = None  # in, out
    rtt_ms: float | None = None
    last_contact_s: float | None = None  # how long ago
    behind: int | None = None  # operations of ours that it does not durably hold
    ahead: int | None = None  # operations of its that we do not hold
    waits_for: str | None = None  # the one reason why it is not in sync


class MemberFacts(Facts, frozen=True, kw_only=True):
    """A device that was admitted, present or removed."""

    replica: str
    name: str
    role: str
    joined: str  # ISO 8601
    here: bool = False  # it is this replica
    check_words: str | None  # of a join that this computer took part in
    removed: bool = False
    forked_at: int | None = None  # it signed two operations under this number; later ones are held
    held: int = 0  # how many operations of it are held here
    succeeds: str | None = None  # the id that this computer had before its state was copied
    proposals: tuple[str, ...] = ()  # what some admins have signed about it, and others have not


class ConflictFacts(Facts, frozen=True, kw_only=True):
    """One version that stands beside another."""

    path: str  # the name both versions wanted
    copy: str  # the name under which this one is shown
    author: str
    when: str  # ISO 8601


class VersionFacts(Facts, frozen=True, kw_only=True):
    """One version of a file, current or not."""

    version: str  # what restore takes after the @
    when: str  # ISO 8601
    author: str
    size: int
    state: str  # current, beside, superseded, deleted
    superseded: str | None = None  # when, as seen here; None while it is not
    here: bool = True  # all of its bytes are on this computer


class Finding(Facts, frozen=True, kw_only=True):
    """One thing that fsck noticed."""

    kind: str
    what: str
    repaired: bool = False


class Waiting(Facts, frozen=True, kw_only=True):
    """Something that is not in sync, and what it waits for."""

    what: str
    reason: str
    on: str | None = None


class OffenceFacts(Facts, frozen=True, kw_only=True):
    """What a member did that no correct program does."""

    replica: str
    name: str
    what: str
    detail: str
    count: int
    first: str  # ISO 8601
    last: str
    last_s: float  # how long ago


class StoreFacts(Facts, frozen=True, kw_only=True):
    """The local store in numbers."""

    operations: int = 0
    not_yet_durable: int = 0
    chunks_wanted: int = 0
    operations_ahead: int = 0  # dated more than a day ahead of the clock here
    bytes_used: int = 0
    bytes_free: int = 0


class Status(Facts, frozen=True, kw_only=True):
    """The answer of `status`."""

    volume: str
    label: str
    replica: str
    name: str
    role: str
    state: str  # path of the state directory
    pid: int | None = None  # None: no daemon runs
    mountpoint: str | None = None
    listening: list[str] = []
    digest: str = ""
    in_sync: bool | None = None  # None: nobody to compare with
    waiting: list[Waiting] = []
    peers: list[PeerFacts] = []
    offences: list[OffenceFacts] = []
    conflicts: int = 0
    key_protection: str = "none"
    store: StoreFacts = StoreFacts()
    succeeds: str | None = None  # the id before this computer's state was copied or restored
    health: dict[str, str] = {}  # checks that are not well, with the reason
