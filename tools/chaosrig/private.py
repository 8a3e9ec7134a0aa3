"""Work that nobody else touches, with a model that says what must be there after any crash.

The model keeps every state since the last acknowledged fsync. After a crash the directory must
show one of them: the file system promises a prefix of what was done, holding all that was synced.
"""

import os
import random
import stat
from pathlib import Path
from typing import Final, TypeAlias

from blocks import block, parse

Tokens: TypeAlias = tuple[str, ...]
Xattrs: TypeAlias = tuple[tuple[str, bytes], ...]
Inode: TypeAlias = tuple[str, object, int, Xattrs]  # kind, content, mode, xattrs
NAMES_MAX: Final = 40
LARGE_BYTES: Final = 3_000_000
WRITE_BYTES: Final = 1 << 20
STATES_MAX: Final = 400


class State:
    """Names and inodes at one moment."""

    def __init__(self, names: dict[str, int], inodes: dict[int, Inode]) -> None:
        self.names = names
        self.inodes = inodes

    def copy(self) -> "State":
        return State(dict(self.names), dict(self.inodes))

    def shown(self) -> dict[str, tuple[Inode, str]]:
        """Each path with what it is and the first path of the same inode."""
        first: dict[int, str] = {}
        for path in sorted(self.names):
            first.setdefault(self.names[path], path)
        return {path: (self.inodes[ino], first[ino]) for path, ino in self.names.items()}


class Private:
    """A directory of one worker."""

    def __init__(self, directory: Path, name: str, source: random.Random) -> None:
        self.directory = directory
        self.name = name
        self.random = source
        self.states = [State({}, {})]  # since the last fsync, oldest first
        self.is_in_doubt = False
        self.doing = ""
        self._count = 0
        self.operations = (
            (self._create, 8), (self._append, 6), (self._overwrite, 6), (self._replace, 6),
            (self._rename, 5), (self._unlink, 3), (self._mkdir, 3), (self._rmdir, 2),
            (self._chmod, 3), (self._xattr, 3), (self._symlink, 2), (self._link, 2),
            (self._truncate, 2), (self._large, 1), (self.sync, 6),
        )  # fmt: skip

    # The model

    @property
    def state(self) -> State:
        return self.states[-1]

    def crashed(self) -> None:
        self.is_in_doubt = True

    def recover(self) -> str | None:
        """Find the state that survived a crash; returns what is wrong if none did."""
        seen = self.observe()
        for state in reversed(self.states):
            if state.shown() == seen:
                self._fsync()
                self.states = [state.copy()]
                self.is_in_doubt = False
                return None
        oldest, newest = self.states[0].shown(), self.states[-1].shown()
        fault = (
            f"{self.directory.name}: after a crash none of {len(self.states)} states is there; "
            f"against the synced: {_differences(oldest, seen)}; "
            f"against the newest: {_differences(newest, seen)}"
        )
        self._adopt(seen)
        return fault

    def compare(self) -> str | None:
        """What differs from the newest state."""
        if self.is_in_doubt:
            return None
        seen, known = self.observe(), self.state.shown()
        if seen == known:
            return None
        fault = f"{self.directory.name}: {_differences(known, seen)}"
        self._adopt(seen)
        return fault

    def _adopt(self, seen: dict[str, tuple[Inode, str]]) -> None:
        firsts = sorted({first for _, first in seen.values()})
        numbers = {first: number for number, first in enumerate(firsts)}
        names = {path: numbers[first] for path, (_, first) in seen.items()}
        inodes = {numbers[first]: inode for inode, first in seen.values()}
        self._count += 1000
        self.states = [State(names, inodes)]
        self.is_in_doubt = False

    def observe(self) -> dict[str, tuple[Inode, str]]:
        """What the mount shows."""
        first: dict[int, str] = {}
        seen: dict[str, tuple[Inode, str]] = {}
        for path in sorted(self._walk("")):
            whole = self.directory / path
            facts = os.lstat(whole)
            inode = self._inode(whole, facts)
            seen[path] = (inode, first.setdefault(facts.st_ino, path))
        return seen

    def _walk(self, below: str) -> list[str]:
        found = []
        for entry in os.scandir(self.directory / below):
            path = f"{below}/{entry.name}" if below else entry.name
            found.append(path)
            if entry.is_dir(follow_symlinks=False):
                found += self._walk(path)
        return found

    def _inode(self, path: Path, facts: os.stat_result) -> Inode:
        if stat.S_ISLNK(facts.st_mode):
            return ("link", os.readlink(path), 0, ())
        names = sorted(name for name in os.listxattr(path) if name.startswith("user."))
        xattrs = tuple((name, os.getxattr(path, name)) for name in names)
        mode = stat.S_IMODE(facts.st_mode)
        if stat.S_ISDIR(facts.st_mode):
            return ("directory", None, mode, xattrs)
        return ("file", _content(path.read_bytes()), mode, xattrs)

    def _advance(self) -> State:
        """A copy of the newest state, to be changed to what the next system call makes of it."""
        self.states.append(self.state.copy())
        return self.state

    def _set(self, ino: int, inode: Inode) -> None:
        self._advance().inodes[ino] = inode

    # Steps

    def step(self) -> None:
        if len(self.states) > STATES_MAX:
            self.sync()
        choices, weights = zip(*self.operations, strict=True)
        (operation,) = self.random.choices(choices, weights)
        self.doing = operation.__name__
        operation()

    def sync(self) -> None:
        """An fsync of anything acknowledges everything before."""
        if not self.is_in_doubt:
            self._fsync()
            del self.states[:-1]

    def _fsync(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _of(self, *kinds: str) -> str | None:
        paths = [p for p, ino in self.state.names.items() if self.state.inodes[ino][0] in kinds]
        return self.random.choice(sorted(paths)) if paths else None

    def _new_path(self) -> str:
        self._count += 1
        above = self._of("directory") if self.random.random() < 0.5 else None
        return f"{above}/f{self._count}" if above else f"f{self._count}"

    def _token(self) -> str:
        self._count += 1
        return f"{self.name}.p{self._count}"

    def _create(self) -> None:
        if len(self.state.names) < NAMES_MAX:
            self._write_new(self._new_path(), self.random.randrange(3000), 0.3)

    def _write_new(self, path: str, length: int, fsync_share: float) -> None:
        state = self._advance()
        ino = self._count = self._count + 1
        state.names[path] = ino
        state.inodes[ino] = ("file", (), 0o644, ())
        with (self.directory / path).open("xb", buffering=0) as file:
            os.fchmod(file.fileno(), 0o644)
            self._write(file.fileno(), ino, self._token(), length, ())
            if self.random.random() < fsync_share:
                os.fsync(file.fileno())
                del self.states[:-1]

    def _write(self, descriptor: int, ino: int, token: str, length: int, before: Tokens) -> None:
        """Append a block, in pieces; a version may be made after each of them."""
        data = block(token, length)
        kind, _, mode, xattrs = self.state.inodes[ino]
        for start in range(0, len(data), WRITE_BYTES):
            end = start + WRITE_BYTES
            part: object = (*before, token) if end >= len(data) else (*before, f"…{end}")
            self._set(ino, (kind, part, mode, xattrs))
            os.write(descriptor, data[start:end])

    def _append(self) -> None:
        path = self._of("file")
        if path is None:
            return
        ino = self.state.names[path]
        content = self.state.inodes[ino][1]
        assert isinstance(content, tuple)
        if len(content) > 6 or any(token.startswith("…") for token in content):
            return  # long enough, or cut short by a crash: what follows would not be parsed
        with (self.directory / path).open("ab", buffering=0) as file:
            self._write(file.fileno(), ino, self._token(), self.random.randrange(2000), content)

    def _overwrite(self) -> None:
        path = self._of("file")
        if path is None:
            return
        ino = self.state.names[path]
        kind, _, mode, xattrs = self.state.inodes[ino]
        self._set(ino, (kind, (), mode, xattrs))
        with (self.directory / path).open("wb", buffering=0) as file:
            self._write(file.fileno(), ino, self._token(), self.random.randrange(3000), ())

    def _replace(self) -> None:
        """Save as editors do: a new file, fsync, rename over the old one."""
        path = self._of("file")
        if path is None:
            return
        new = f"{path}.new{self._count}"
        self._write_new(new, self.random.randrange(3000), 1.0)
        self._move(new, path)

    def _move(self, old: str, new: str) -> None:
        state = self._advance()
        if state.names.get(new) == state.names[old]:
            self.states.pop()  # two names of one inode: rename does nothing
        else:
            for path in [p for p in state.names if p == old or p.startswith(f"{old}/")]:
                state.names[new + path[len(old) :]] = state.names.pop(path)
        os.rename(self.directory / old, self.directory / new)

    def _rename(self) -> None:
        old = self._of("file", "directory", "link")
        if old is not None:
            new = self._new_path()
            if not new.startswith(f"{old}/"):
                self._move(old, new)

    def _unlink(self) -> None:
        path = self._of("file", "link")
        if path is not None:
            del self._advance().names[path]
            os.unlink(self.directory / path)

    def _mkdir(self) -> None:
        path = self._new_path()
        state = self._advance()
        ino = self._count = self._count + 1
        state.names[path] = ino
        state.inodes[ino] = ("directory", None, 0o755, ())
        os.mkdir(self.directory / path, 0o755)

    def _rmdir(self) -> None:
        path = self._of("directory")
        if path is not None and not any(p.startswith(f"{path}/") for p in self.state.names):
            del self._advance().names[path]
            os.rmdir(self.directory / path)

    def _chmod(self) -> None:
        path = self._of("file", "directory")
        if path is not None:
            ino = self.state.names[path]
            kind, content, _, xattrs = self.state.inodes[ino]
            mode = self.random.choice((0o600, 0o640, 0o644, 0o755, 0o700))
            self._set(ino, (kind, content, mode, xattrs))
            os.chmod(self.directory / path, mode)

    def _xattr(self) -> None:
        path = self._of("file", "directory")
        if path is not None:
            ino = self.state.names[path]
            kind, content, mode, xattrs = self.state.inodes[ino]
            name, value = f"user.x{self.random.randrange(3)}", self.random.randbytes(8)
            kept = dict(xattrs) | {name: value}
            self._set(ino, (kind, content, mode, tuple(sorted(kept.items()))))
            os.setxattr(self.directory / path, name, value)

    def _symlink(self) -> None:
        path = self._new_path()
        state = self._advance()
        ino = self._count = self._count + 1
        state.names[path] = ino
        state.inodes[ino] = ("link", f"to-{ino}", 0, ())
        os.symlink(f"to-{ino}", self.directory / path)

    def _link(self) -> None:
        path = self._of("file")
        if path is not None:
            new = self._new_path()
            state = self._advance()
            state.names[new] = state.names[path]
            os.link(self.directory / path, self.directory / new)

    def _truncate(self) -> None:
        path = self._of("file")
        if path is not None:
            ino = self.state.names[path]
            kind, _, mode, xattrs = self.state.inodes[ino]
            self._set(ino, (kind, (), mode, xattrs))
            os.truncate(self.directory / path, 0)

    def _large(self) -> None:
        self._write_new(self._new_path(), self.random.randrange(LARGE_BYTES), 0.5)


def _content(data: bytes) -> object:
    """Tokens of a file; a file cut short inside a block shows at which byte."""
    found = parse(data)
    if found.is_whole:
        return found.tokens
    known = sum(len(block(token, _length(data, token))) for token in found.tokens)
    return (*found.tokens, f"…{len(data) - known}")


def _length(data: bytes, token: str) -> int:
    start = data.index(f"@@{token} ".encode()) + len(token) + 3
    return int(data[start : data.index(b"\n", start)])


def _differences(known: dict[str, object], seen: dict[str, object]) -> str:
    parts = [f"{p} missing ({known[p]})" for p in sorted(known) if p not in seen]
    parts += [f"{p} unexpected ({seen[p]})" for p in sorted(seen) if p not in known]
    changed = [p for p in sorted(seen) if p in known and seen[p] != known[p]]
    parts += [f"{p} is {seen[p]}, not {known[p]}" for p in changed]
    return "; ".join(parts[:4])[:900] or "nothing"
