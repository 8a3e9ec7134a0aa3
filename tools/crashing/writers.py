"""Writers: threads that use a mount as programs do, and keep a history of what they did."""

import os
import random
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from crashing.verify import File, History, Step, Tree

NAMES = [f"f{n}" for n in range(6)]
FOLDERS = ["", "", "d0/", "d1/"]
LARGE_BYTES = 3_000_000


class Writer(threading.Thread):
    """Does random steps in its own directory until a call fails, which a crash makes happen."""

    def __init__(self, root: Path, seed: int, tick: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self.history = History(root)
        self.error: OSError | None = None
        self._rng = random.Random(seed)
        self._tick = tick
        self._stopped = False
        self._tree: Tree = {}
        self._weighted = [
            (self._create, 5), (self._large, 1), (self._append, 4), (self._overwrite, 3),
            (self._replace, 3), (self._replace_unclosed, 2), (self._rename, 3), (self._unlink, 2),
            (self._mkdir, 2), (self._rmdir, 1), (self._symlink, 1), (self._chmod, 1),
            (self._sync_directory, 1),
        ]  # fmt: skip

    def run(self) -> None:
        try:
            while not self._stopped:
                names, weights = zip(*self._weighted, strict=True)
                self._rng.choices(names, weights)[0]()
        except OSError as error:
            self.error = error

    def stop(self) -> None:
        """Let it end after its present step."""
        self._stopped = True

    # Bookkeeping

    def _path(self, key: str) -> str:
        return f"{self.history.root}/{key}"

    def _step(
        self, name: str, change: Tree, act: Callable[[], None], *, gone: str = "",
        growing: str = "", whole: bytes = b"",
    ) -> None:  # fmt: skip
        tree = {key: value for key, value in self._tree.items() if key != gone} | change
        step = Step(name, self._tick(), tree, growing or None, whole)
        self.history.steps.append(step)
        act()
        step.end = self._tick()
        self._tree = tree

    def _answered(self, begin: int) -> None:
        """An fsync that began then was answered: all that had ended is safe."""
        self.history.promised = max(self.history.promised, begin)
        self.history.answered += 1

    def _fsync(self, descriptor: int, call: Callable[[int], None] = os.fsync) -> None:
        begin = self._tick()
        call(descriptor)
        self._answered(begin)

    def _files(self) -> list[str]:
        return [key for key, value in self._tree.items() if isinstance(value, File)]

    def _free(self) -> str | None:
        folder = self._rng.choice(FOLDERS)
        if folder and folder[:-1] not in self._tree:
            return None
        free = [folder + name for name in NAMES if folder + name not in self._tree]
        return self._rng.choice(free) if free else None

    def _bytes(self, limit: int = 9000) -> bytes:
        return self._rng.randbytes(self._rng.randint(1, limit))

    def _make(self, key: str) -> int:
        opened: list[int] = []
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY

        def act() -> None:
            opened.append(os.open(self._path(key), flags, 0o644))

        self._step(f"create {key}", {key: File(b"")}, act)
        return opened[0]

    # Steps

    def _create(self) -> None:
        self._fill(self._free(), self._bytes())

    def _large(self) -> None:
        self._fill(self._free(), self._bytes(LARGE_BYTES))

    def _fill(self, key: str | None, data: bytes) -> None:
        if key is None:
            return
        descriptor = self._make(key)
        wanted = self._rng.random() < 0.3

        def act() -> None:
            with open(descriptor, "wb", buffering=0) as file:
                for at in range(0, len(data), 1 << 17):
                    file.write(data[at : at + (1 << 17)])
                if wanted:
                    os.fsync(descriptor)

        begin = self._tick()
        self._step(f"write {key}", {key: File(data)}, act, growing=key, whole=data)
        if wanted:
            self._answered(begin)

    def _append(self) -> None:
        self._change(append=True)

    def _overwrite(self) -> None:
        self._change(append=False)

    def _change(self, *, append: bool) -> None:
        files = [f for f in self._files() if len(self._content(f)) < LARGE_BYTES]
        if not files:
            return
        key = self._rng.choice(files)
        old, data = self._content(key), self._bytes(3000)
        offset = len(old) if append else self._rng.randint(0, len(old))
        new = old[:offset] + data + old[offset + len(data) :]
        entry = self._tree[key]
        assert isinstance(entry, File)
        flags = self._rng.choice([0, os.O_SYNC, os.O_DSYNC])
        descriptor = os.open(self._path(key), os.O_WRONLY | flags)
        call = self._rng.choice([os.fsync, os.fdatasync])

        def act() -> None:
            with open(descriptor, "wb", buffering=0):
                os.pwrite(descriptor, data, offset)
                call(descriptor)

        begin = self._tick()
        changed: Tree = {key: File(new, entry.mode)}
        self._step(f"write {key} at {offset}", changed, act, growing=key, whole=new)
        self._answered(begin)

    def _content(self, key: str) -> bytes:
        entry = self._tree[key]
        assert isinstance(entry, File)
        return entry.content

    def _replace(self) -> None:
        """Save as editors do: a new file, closed and renamed over the old one."""
        files, new = self._files(), self._free()
        if not files or new is None:
            return
        self._fill(new, self._bytes())
        old = self._rng.choice([key for key in self._files() if key != new] or [new])
        if old != new:
            act = partial(os.rename, self._path(new), self._path(old))
            self._step(f"rename {new} over {old}", {old: self._tree[new]}, act, gone=new)

    def _replace_unclosed(self) -> None:
        """Rename before the file is closed: the bytes written so far go along."""
        files, new = self._files(), self._free()
        if not files or new is None:
            return
        old, data = self._rng.choice(files), self._bytes()
        with open(self._make(new), "wb", buffering=0) as file:

            def act() -> None:
                file.write(data)
                os.rename(self._path(new), self._path(old))

            # A crash may come between the write and the rename.
            changed: Tree = {old: File(data)}
            name = f"write {new}, over {old}"
            self._step(name, changed, act, gone=new, growing=new, whole=data)

    def _rename(self) -> None:
        files, new = self._files(), self._free()
        if files and new is not None:
            old = self._rng.choice(files)
            act = partial(os.rename, self._path(old), self._path(new))
            self._step(f"rename {old} {new}", {new: self._tree[old]}, act, gone=old)

    def _unlink(self) -> None:
        files = [key for key, value in self._tree.items() if value is not None]
        if files:
            key = self._rng.choice(files)
            self._step(f"unlink {key}", {}, lambda: os.unlink(self._path(key)), gone=key)

    def _mkdir(self) -> None:
        key = self._rng.choice(["d0", "d1"])
        if key not in self._tree:
            self._step(f"mkdir {key}", {key: None}, lambda: os.mkdir(self._path(key)))

    def _rmdir(self) -> None:
        key = self._rng.choice(["d0", "d1"])
        if key in self._tree and not any(name.startswith(key + "/") for name in self._tree):
            self._step(f"rmdir {key}", {}, lambda: os.rmdir(self._path(key)), gone=key)

    def _symlink(self) -> None:
        key = self._free()
        if key is not None:
            target = f"to/{self._rng.random()}"
            self._step(f"symlink {key}", {key: target}, lambda: os.symlink(target, self._path(key)))

    def _chmod(self) -> None:
        files = self._files()
        if files:
            key, mode = self._rng.choice(files), self._rng.choice([0o600, 0o644, 0o755])
            changed: Tree = {key: File(self._content(key), mode)}
            self._step(f"chmod {key}", changed, lambda: os.chmod(self._path(key), mode))

    def _sync_directory(self) -> None:
        descriptor = os.open(self.history.root, os.O_RDONLY)
        try:
            self._fsync(descriptor)
        finally:
            os.close(descriptor)
