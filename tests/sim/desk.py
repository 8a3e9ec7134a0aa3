"""People at one computer: random work on files, through the calls that a kernel would make.

A step is an action and three small numbers, so that a failing history shrinks; what they mean
depends on what the file system shows at that moment.
"""

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from piperfs.core.errors import ErrorKind, FsError, StoreError
from piperfs.fs.api import ROOT_INO, Attr, Caller, SetAttr
from tests.sim.ledger import Ledger, tokens_in
from tests.sim.machine import Machine

USER = Caller(0, 0, 1, 0o022)
O_RDONLY, O_RDWR, O_EXCL = 0, 2, 0o200
NAMES = (b"a", b"b.txt", b"c", b"notes.tar.gz")
FOLDERS = (b"d", b"e")
DEPTH_MAX = 3
ENTRIES_MAX = 40
SIZE_MAX = 1 << 40
IS_DIRECTORY, IS_LINK, TYPE = 0o040000, 0o120000, 0o170000
EXPECTED = frozenset({
    ErrorKind.NOT_FOUND, ErrorKind.EXISTS, ErrorKind.NOT_EMPTY, ErrorKind.NO_SPACE,
    ErrorKind.UNREACHABLE, ErrorKind.TIMED_OUT, ErrorKind.STALE, ErrorKind.INVALID,
    ErrorKind.BUSY, ErrorKind.NO_ATTRIBUTE, ErrorKind.IO, ErrorKind.IS_A_DIRECTORY,
    ErrorKind.NOT_A_DIRECTORY, ErrorKind.NOT_PERMITTED, ErrorKind.READ_ONLY, ErrorKind.QUOTA,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spot:
    """One entry of one directory."""

    parent: int
    name: bytes
    ino: int
    mode: int
    depth: int

    @property
    def is_directory(self) -> bool:
        return self.mode & TYPE == IS_DIRECTORY

    @property
    def is_file(self) -> bool:
        return self.mode & TYPE not in (IS_DIRECTORY, IS_LINK)

    @property
    def is_copy(self) -> bool:
        return b".conflict-" in self.name


@dataclass(slots=True)
class Open:
    """A file that somebody keeps open for long."""

    fh: int
    ino: int
    tokens: list[int] = field(default_factory=list)


class Desk:
    """Work on one computer, from one start of it to its end."""

    def __init__(self, machine: Machine, ledger: Ledger) -> None:
        self.machine = machine
        self.ledger = ledger
        self.fs = machine.filesystem
        assert machine.service is not None
        self.service = machine.service
        self.boot = machine.boots
        self.open: Open | None = None
        self._closed: list[int] = []  # tokens in versions that the next commit makes durable

    async def step(self, action: str, x: int, y: int, z: int) -> None:
        """Do one thing; what a program may run into is no failure."""
        do: Callable[[int, int, int], Awaitable[None]] = getattr(self, f"do_{action}")
        try:
            await do(x, y, z)
            result = "done"
        except FsError as error:
            assert error.kind in EXPECTED, f"{action} fails with {error}"
            result = error.kind.name
            self.machine.trace.sometimes(f"a call failed: {result}")
        except StoreError as error:
            result = "store"
            self.machine.trace.sometimes("a call failed: the store")
            assert self._may_fail, error
        self.machine.trace.note(self.machine.name, action, result)

    @property
    def _may_fail(self) -> bool:
        """Whether the store has a reason not to answer."""
        node = self.machine.node
        return node is None or node.committer.failure is not None or self.machine.is_damaged

    # Looking

    def listing(self, ino: int) -> list[tuple[bytes, int, int]]:
        fh = self.fs.opendir(ino)
        try:
            entries = self.fs.readdir(fh, 0, plus=False, count=1 << 20)
        finally:
            self.fs.releasedir(fh)
        return sorted((e.name, e.ino, e.mode) for e in entries if e.name not in (b".", b".."))

    def spots(self, ino: int = ROOT_INO, depth: int = 0) -> list[Spot]:
        """All entries, from the top down, by name."""
        found = []
        for name, child, mode in self.listing(ino):
            spot = Spot(ino, name, child, mode, depth)
            found.append(spot)
            if spot.is_directory and depth < 12:
                self.look(ino, name)
                found += self.spots(child, depth + 1)
        return found

    def look(self, parent: int, name: bytes) -> Attr:
        return self.fs.lookup(parent, name)

    def folder(self, spots: list[Spot], x: int) -> tuple[int, int]:
        """A directory and how deep it lies."""
        folders = [(ROOT_INO, 0)]
        folders += [(s.ino, s.depth + 1) for s in spots if s.is_directory and s.depth < DEPTH_MAX]
        return folders[x % len(folders)]

    def pick(self, x: int, *, files: bool = False, copies: bool = False) -> Spot | None:
        """Some entry; with `copies` a conflict copy if there is one."""
        spots = [s for s in self.spots() if s.is_file or not files]
        if copies:
            spots = [s for s in spots if s.is_copy] or spots
        if not spots:
            return None
        spot = spots[x % len(spots)]
        self.look(spot.parent, spot.name)
        return spot

    def content(self, spot: Spot) -> bytes:
        """What the entry shows. Raises MissingChunks."""
        if spot.mode & TYPE == IS_LINK:
            return self.fs.readlink(self.look(spot.parent, spot.name).ino)
        if not spot.is_file:
            return b""
        fh = self.fs.open(self.look(spot.parent, spot.name).ino, O_RDONLY).fh
        try:
            return bytes(self.fs.read(fh, 0, SIZE_MAX))
        finally:
            self.fs.release(fh)

    # Files

    def text(self, z: int, token: int) -> bytes:
        """Bytes with a token; now and then many of them."""
        mark = b"[%d]" % token
        if z % 16 == 0:
            return mark + self.machine.random.randbytes(90_000 + 900 * z)
        return mark + b"." * (z % 64)

    async def do_create(self, x: int, y: int, z: int) -> None:
        spots = self.spots()
        if len(spots) > ENTRIES_MAX:
            return
        parent, _ = self.folder(spots, x)
        attr, opened = self.fs.create(parent, NAMES[y % len(NAMES)], 0o644, O_RDWR | O_EXCL, USER)
        await self._save(opened.fh, attr.ino, z, keep=b"", truncate=True)

    async def do_write(self, x: int, y: int, z: int) -> None:
        spot = self.pick(x, files=True)
        if spot is not None:
            fh = self.fs.open(spot.ino, O_RDWR).fh
            await self._save(fh, self._ino_of(fh), z, keep=b"", truncate=True)

    async def do_append(self, x: int, y: int, z: int) -> None:
        spot = self.pick(x, files=True)
        if spot is not None:
            fh = self.fs.open(spot.ino, O_RDWR).fh
            await self._save(fh, self._ino_of(fh), z, keep=None, truncate=False)

    async def do_edit_copy(self, x: int, y: int, z: int) -> None:
        spot = self.pick(x, files=True, copies=True)
        if spot is not None and spot.is_copy:
            self.machine.trace.sometimes("a conflict copy was edited")
            fh = self.fs.open(spot.ino, O_RDWR).fh
            await self._save(fh, self._ino_of(fh), z, keep=None, truncate=False)

    async def do_truncate(self, x: int, y: int, z: int) -> None:
        spot = self.pick(x, files=True)
        if spot is None:
            return

        def cut() -> None:
            before = tokens_in(self.content(spot))
            with self._letting_go(before):
                self.fs.setattr(spot.ino, SetAttr(size=y % 3), None, USER)

        await self.service.with_chunks(cut)

    @contextmanager
    def _letting_go(self, tokens: frozenset[int]) -> Iterator[None]:
        """A call takes these away; a damaged row may be met when they are gone already."""
        try:
            yield
        except StoreError:
            self.ledger.release(tokens, None)
            raise
        self.ledger.release(tokens, None)

    def _ino_of(self, fh: int) -> int:
        return self.fs._files.handle(fh).node.ino

    async def _save(self, fh: int, ino: int, z: int, *, keep: bytes | None, truncate: bool) -> None:
        """Write through a handle and close it. `keep` None: at the end of what is there."""
        tokens: list[int] = []
        try:
            await self.service.with_chunks(lambda: self._put(fh, ino, z, tokens, truncate=truncate))
        finally:
            await self._close(fh, ino)
        self._closed += tokens

    def _put(self, fh: int, ino: int, z: int, tokens: list[int], *, truncate: bool) -> None:
        """Change a file; either all of it happens, or MissingChunks is raised before anything."""
        node = self.fs._files.handle(fh).node
        before = bytes(self.fs.read(fh, 0, SIZE_MAX))
        if self.fs._files.pin_of(node) is not None:
            self.machine.trace.sometimes("a session kept a newer version from being seen")
        token = self.ledger.new(self.machine.name, self.boot)
        lost = tokens_in(before) if truncate else frozenset[int]()
        try:
            if truncate:
                self.fs.setattr(ino, SetAttr(size=0), fh, USER)
                before = b""
            self.fs.write(fh, len(before), self.text(z, token))
        except FsError:
            self.ledger.excuse([token])
            self.ledger.release(lost, None)
            raise
        self.ledger.release(lost, token)
        if node.anonymous is not None:
            self.ledger.excuse([token])
        tokens.append(token)

    async def _close(self, fh: int, ino: int) -> None:
        try:
            if not self.service.flush_at_once(ino):
                await self.service.flush(ino)
        finally:
            self.fs.release(fh)

    # A file that stays open for long

    async def do_open(self, x: int, y: int, z: int) -> None:
        if self.open is not None:
            return
        spot = self.pick(x, files=True)
        if spot is not None:
            fh = self.fs.open(spot.ino, O_RDWR).fh
            self.open = Open(fh, self._ino_of(fh))

    async def do_write_open(self, x: int, y: int, z: int) -> None:
        held = self.open
        if held is not None:
            truncate = y % 3 == 0
            await self.service.with_chunks(
                lambda: self._put(held.fh, held.ino, z, held.tokens, truncate=truncate)
            )

    async def do_close(self, x: int, y: int, z: int) -> None:
        held, self.open = self.open, None
        if held is not None:
            await self._close(held.fh, held.ino)
            self._closed += held.tokens

    async def do_fsync(self, x: int, y: int, z: int) -> None:
        promised = list(self._closed)
        held = self.open
        if held is not None:
            promised += held.tokens
            await self.service.fsync(held.ino)
        else:
            await self.service.fsync(ROOT_INO)
        self.ledger.acknowledge(self.machine.name, promised)
        self._closed = [token for token in self._closed if token not in set(promised)]

    async def finish(self) -> None:
        """Close everything and return when it is durable."""
        await self.do_close(0, 0, 0)
        await self.service.sync()
        self.ledger.acknowledge(
            self.machine.name,
            [t for t in self.ledger.of(self.machine.name, self.boot)
             if not self.ledger.written[t].excused],
        )  # fmt: skip

    # Names

    async def do_unlink(self, x: int, y: int, z: int) -> None:
        spot = self.pick(x, copies=y % 2 == 0)
        if spot is None:
            return
        if spot.is_directory:
            self.fs.rmdir(spot.parent, spot.name)
            return
        if spot.is_copy:
            self.machine.trace.sometimes("a conflict copy was deleted")

        def remove() -> None:
            tokens = tokens_in(self.content(spot))
            self.fs.unlink(spot.parent, spot.name)
            self.ledger.release(tokens, None)

        await self.service.with_chunks(remove)

    async def do_mkdir(self, x: int, y: int, z: int) -> None:
        spots = self.spots()
        parent, depth = self.folder(spots, x)
        if depth < DEPTH_MAX:
            self.fs.mkdir(parent, FOLDERS[y % len(FOLDERS)], 0o755, USER)

    async def do_rename(self, x: int, y: int, z: int) -> None:
        spots = self.spots()
        if not spots:
            return
        spot = spots[x % len(spots)]
        parent, _ = self.folder(spots, y)
        names = FOLDERS if spot.is_directory else NAMES
        await self._rename(spot, parent, names[z % len(names)], 0)

    async def do_replace(self, x: int, y: int, z: int) -> None:
        """Save as editors do: a new file renamed over the old one."""
        spot = self.pick(x, files=True)
        if spot is None:
            return
        name = b".%d.tmp" % (z % 3)
        attr, opened = self.fs.create(spot.parent, name, 0o644, O_RDWR | O_EXCL, USER)
        await self._save(opened.fh, attr.ino, z, keep=b"", truncate=True)
        made = Spot(spot.parent, name, attr.ino, attr.mode, spot.depth)
        await self._rename(made, spot.parent, spot.name, 0)

    async def do_exchange(self, x: int, y: int, z: int) -> None:
        spots = [spot for spot in self.spots() if spot.is_file]
        if len(spots) > 1:
            one, other = spots[x % len(spots)], spots[y % len(spots)]
            if one.ino != other.ino:
                self.fs.rename(one.parent, one.name, other.parent, other.name, 2)

    async def _rename(self, spot: Spot, parent: int, name: bytes, flags: int) -> None:
        def move() -> None:
            there = [each for each in self.listing(parent) if each[0] == name]
            lost = frozenset[int]()
            if there:
                target = Spot(parent, name, there[0][1], there[0][2], 0)
                lost = tokens_in(self.content(target))
                if target.ino == spot.ino:
                    lost = frozenset()
            with self._letting_go(lost):
                self.fs.rename(spot.parent, spot.name, parent, name, flags)

        await self.service.with_chunks(move)

    async def do_link(self, x: int, y: int, z: int) -> None:
        spot = self.pick(x, files=True)
        if spot is not None:
            parent, _ = self.folder(self.spots(), y)
            self.fs.link(spot.ino, parent, NAMES[z % len(NAMES)])

    async def do_symlink(self, x: int, y: int, z: int) -> None:
        parent, _ = self.folder(self.spots(), x)
        token = self.ledger.new(self.machine.name, self.boot)
        try:
            self.fs.symlink(parent, NAMES[y % len(NAMES)], b"[%d]" % token, USER)
        except FsError:
            self.ledger.excuse([token])
            raise
        self._closed.append(token)

    # Attributes

    async def do_chmod(self, x: int, y: int, z: int) -> None:
        spot = self.pick(x)
        if spot is not None and spot.mode & TYPE != IS_LINK:
            self.fs.setattr(spot.ino, SetAttr(mode=0o600 + y % 64), None, USER)

    async def do_utimens(self, x: int, y: int, z: int) -> None:
        spot = self.pick(x)
        if spot is not None:
            self.fs.setattr(spot.ino, SetAttr(mtime_ns=10**18 + y), None, USER)

    async def do_xattr(self, x: int, y: int, z: int) -> None:
        spot = self.pick(x)
        if spot is None or spot.mode & TYPE == IS_LINK:
            return
        name = b"user.%d" % (y % 2)
        if z % 3:
            self.fs.setxattr(spot.ino, name, os.fsencode(f"v{z}"), 0, USER)
        else:
            self.fs.removexattr(spot.ino, name)

    async def do_read(self, x: int, y: int, z: int) -> None:
        spot = self.pick(x, files=True)
        if spot is not None:
            fh = self.fs.open(spot.ino, O_RDONLY).fh
            try:
                await self.service.read(fh, 0, 1 << 20)
            finally:
                self.fs.release(fh)
                await trio.lowlevel.checkpoint()


ACTIONS: dict[str, int] = {
    "create": 12, "write": 12, "append": 10, "edit_copy": 3, "truncate": 3, "open": 4,
    "write_open": 8, "close": 4, "fsync": 4, "unlink": 12, "mkdir": 6, "rename": 12, "replace": 6,
    "exchange": 2, "link": 4, "symlink": 2, "chmod": 3, "utimens": 2, "xattr": 3, "read": 3,
}  # fmt: skip
