"""Who owns what: names that travel between computers, numbers that a kernel knows.

An owner is stored as a name, so that `alice` is alice everywhere. A number without a name is
stored as `#1234`. What another replica says about owners is shown as the mounting user's own,
since a uid means nothing on another computer, unless the mount maps names: `-o idmap=` gives a
stored name a number here, in both directions. So is what has no account here, or none just now
since a directory service does not answer; the answer is not kept, and nobody's set-id bits count.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from piperfs.fs.api import Caller

SET_ID_BITS: Final = 0o6000


@dataclass(frozen=True, slots=True)
class Accounts:
    """The account database of this computer, as functions."""

    user_name: Callable[[int], str | None]
    group_name: Callable[[int], str | None]
    user_id: Callable[[str], int | None]
    group_id: Callable[[str], int | None]
    groups_of: Callable[[int], frozenset[int]] = lambda _pid: frozenset()  # of a process


@dataclass(frozen=True, slots=True)
class IdMap:
    """Stored names that have a number on this computer."""

    users: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, int] = field(default_factory=dict)


NO_MAP: Final = IdMap()


@dataclass(slots=True)
class Owners:
    """Translates with a cache; `uid` and `gid` are those of the mounting user."""

    accounts: Accounts
    uid: int
    gid: int
    idmap: IdMap = NO_MAP
    _names: dict[tuple[bool, int], str] = field(default_factory=dict)
    _ids: dict[tuple[bool, str], int] = field(default_factory=dict)

    def user_name(self, uid: int) -> str:
        """What is stored for a user."""
        return self._name(uid, is_user=True)

    def group_name(self, gid: int) -> str:
        """What is stored for a group."""
        return self._name(gid, is_user=False)

    def _name(self, number: int, *, is_user: bool) -> str:
        found = self._names.get((is_user, number)) or self._find_name(number, is_user=is_user)
        if found is None:
            return f"#{number}"
        self._names[is_user, number] = found
        return found

    def _find_name(self, number: int, *, is_user: bool) -> str | None:
        mapped = self.idmap.users if is_user else self.idmap.groups
        for name, other in mapped.items():
            if other == number:
                return name
        ask = self.accounts.user_name if is_user else self.accounts.group_name
        return ask(number)

    def peers_ids(self, owner: str, group: str) -> tuple[int, int]:
        """The numbers shown for what another replica says: the mounting user's, unless mapped."""
        users, groups = self.idmap.users, self.idmap.groups
        return users.get(owner, self.uid), groups.get(group, self.gid)

    def own_ids(self, owner: str, group: str) -> tuple[int | None, int | None]:
        """The numbers of a stored user and group, as far as they have one here at present."""
        return self._id(owner, is_user=True), self._id(group, is_user=False)

    def _id(self, name: str, *, is_user: bool) -> int | None:
        """Nobody's is the mounting user's. That a name has no number is asked anew every time."""
        if not name:
            return self.uid if is_user else self.gid
        found = self._ids.get((is_user, name))
        if found is None:
            found = self._find_id(name, is_user=is_user)
            if found is not None:
                self._ids[is_user, name] = found
        return found

    def is_member(self, gid: int, caller: Caller) -> bool:
        """Whether the caller is in a group. The kernel tells one group only; asked rarely."""
        return gid == caller.gid or gid in self.accounts.groups_of(caller.pid)

    def _find_id(self, name: str, *, is_user: bool) -> int | None:
        ask = self.accounts.user_id if is_user else self.accounts.group_id
        mapped = self.idmap.users if is_user else self.idmap.groups
        number = mapped.get(name)
        if number is None:
            number = ask(name)
        if number is None and name.startswith("#") and name[1:].isdigit():
            number = int(name[1:])
        return number if number is not None and 0 <= number < 1 << 32 else None
