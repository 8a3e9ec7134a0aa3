"""Names in one directory: who gets the plain name, and under which name the others are shown.

Every input is part of a signed write. A local clock, a petname or the local time zone in a
conflict name would make two replicas invent two copies of one conflict. The names hold no space
and no bracket, so that a conflict copy inside `.git/refs` stays a legal reference.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Sequence

import msgspec
from blake3 import blake3

from piperfs.core.ids import InodeId, LinkId, ReplicaId, is_directory, short
from piperfs.core.limits import NAME_BYTES_MAX

DOUBLE_SUFFIXES = (b".tar",)
CONFLICT_MARK = b".conflict-"  # in every name that is worked out here
TAG_LENGTHS = (4, 8, 16, 32)


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One shown link in a directory, with what naming needs of the write that placed it."""

    link: LinkId
    target: InodeId
    name: bytes
    hlc: int
    replica: ReplicaId

    @property
    def stamp(self) -> tuple[int, bytes, bytes]:
        return (self.hlc, self.replica, self.link)


class Loser(msgspec.Struct, frozen=True):
    """Something that lost the plain name: another link, or another version of a file.

    `digest` tells versions apart and is empty for a whole link.
    """

    link: LinkId
    hlc: int
    replica: ReplicaId
    name: bytes
    digest: bytes = b""


class Group(msgspec.Struct, frozen=True):
    """All links of one directory class that claim one name, put in order.

    `directories` (sorted by inode id) form one directory; else `primary` has the plain name.
    """

    name: bytes
    directories: tuple[InodeId, ...]
    primary: Entry | None
    losers: tuple[Entry, ...]


def arrange(name: bytes, entries: Iterable[Entry]) -> Group:
    """Directories take the plain name together; else the newest link does; the rest lose."""
    directories: list[Entry] = []
    others: list[Entry] = []
    for entry in entries:
        (directories if is_directory(entry.target) else others).append(entry)
    others.sort(key=lambda entry: entry.stamp, reverse=True)
    members = tuple(sorted(entry.target for entry in directories))
    if members:
        return Group(name, members, None, tuple(others))
    return Group(name, (), others[0] if others else None, tuple(others[1:]))


def split_extension(name: bytes) -> tuple[bytes, bytes]:
    """`a.txt` -> (`a`, `.txt`); a leading dot begins no extension; `.tar.gz` stays together."""
    dot = name.rfind(b".")
    if dot <= 0 or not name[:dot].strip(b"."):
        return name, b""
    for suffix in DOUBLE_SUFFIXES:
        if name[:dot].endswith(suffix) and len(name[:dot]) > len(suffix):
            dot -= len(suffix)
    return name[:dot], name[dot:]


def _mark(loser: Loser) -> bytes:
    """What tells this losing write from every other, in bytes that all replicas agree on."""
    return loser.replica + loser.hlc.to_bytes(8, "big") + loser.digest


def _tag(loser: Loser) -> str:
    return blake3(loser.link + _mark(loser)).hexdigest()


def conflict_name(loser: Loser, tag_length: int) -> bytes:
    """`<stem>.conflict-<YYYYMMDD>-<author6>-<tag><ext>`, cut to fit 255 bytes."""
    stem, extension = split_extension(loser.name)
    day = _utc_day(loser.hlc)
    who = f"{day}-{short(loser.replica)}-{_tag(loser)[:tag_length]}"
    middle = CONFLICT_MARK + who.encode()
    room = NAME_BYTES_MAX - len(middle)
    extension = extension if len(extension) <= room // 2 else b""
    return _cut(stem, room - len(extension)) + middle + extension


def _utc_day(hlc: int) -> str:
    try:
        moment = dt.datetime.fromtimestamp(hlc // 1_000_000_000, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return "00000000"
    return moment.strftime("%Y%m%d")


def _cut(stem: bytes, room: int) -> bytes:
    """Shorten to `room` bytes without cutting a UTF-8 character in two."""
    if len(stem) <= room:
        return stem
    end = room
    while end > 0 and stem[end] & 0xC0 == 0x80:
        end -= 1
    return stem[: end or room]


def name_losers(losers: Sequence[Loser], is_taken: Callable[[bytes], bool]) -> dict[bytes, Loser]:
    """Give each loser of one directory a name that nothing else there has.

    `is_taken` knows the directory's plain names. The tag grows while its name is taken.
    """
    named: dict[bytes, Loser] = {}
    for loser in sorted(losers, key=lambda x: (x.name, x.link, x.hlc, x.replica, x.digest)):
        choices = (conflict_name(loser, length) for length in TAG_LENGTHS)
        free = (name for name in choices if not is_taken(name) and name not in named)
        named[next(free, conflict_name(loser, TAG_LENGTHS[-1]))] = loser
    return named


def copy_inode(inode: InodeId, loser: Loser) -> InodeId:
    """The inode id of a losing version once it is a file of its own; the same on all replicas."""
    return InodeId(inode[:1] + blake3(b"copy" + inode + _mark(loser)).digest(length=15))


def copy_link(copy: InodeId) -> LinkId:
    """The first link of a conflict copy that became a file of its own, or of a nameless file."""
    return LinkId(blake3(b"link" + copy).digest(length=16))
