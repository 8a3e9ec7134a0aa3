"""One seeded user of one mount: works in a directory of its own and in one that all share.

In its own directory it knows what must be there: a model holds every state since the last fsync,
and after a crash the mount must show one of them. In the shared directory it writes down what it
saw before it wrote, so that afterwards it can be told whether a version got lost. A process of
its own, which takes `go`, `pause` and `quit` from standard input and answers in JSON lines.
"""

import errno
import json
import os
import random
import select
import sys
import time
from pathlib import Path
from typing import Any, Final

from hosts import Counter
from private import Private
from shared import Shared

PAUSE_S: Final = 0.2
GONE: Final = frozenset({errno.ENOTCONN, errno.ECONNABORTED, errno.ESTALE, errno.ENODEV})


class Worker:
    """The loop around the two kinds of work."""

    def __init__(
        self, mountpoint: Path, name: str, seed: str, log: Path, generation: Counter
    ) -> None:
        self.mountpoint = mountpoint
        self.random = random.Random(seed)
        self.generation = generation
        self.seen_generation = generation.value
        self.mounted_device = 0
        self.private = Private(mountpoint / f"own-{name}", name, random.Random(seed + "p"))
        self.shared = Shared(mountpoint / "shared", name, random.Random(seed + "s"), log)
        self.problems: list[str] = []
        self.counts = {"operations": 0, "crashes": 0, "full": 0, "absent": 0}

    def run(self) -> None:
        is_paused = True
        while True:
            order = _order(None if is_paused else 0.0)
            if order == "quit":
                return
            if order == "pause":
                self._pause()
                is_paused = True
            elif order == "go":
                is_paused = False
            elif not is_paused:
                self._step()

    def _step(self) -> None:
        """One piece of work, whatever happens to the daemon meanwhile."""
        if not self._is_up():
            time.sleep(PAUSE_S)
            return
        work = self.private if self.random.random() < 0.4 else self.shared
        try:
            work.step()
            self.counts["operations"] += 1
        except OSError as error:
            self._failed(work, error)
        if self.generation.value != self.seen_generation:
            self._crashed()

    def _failed(self, work: Private | Shared, error: OSError) -> None:
        if error.errno in GONE or self.generation.value != self.seen_generation:
            self._crashed()
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            self.counts["full"] += 1
            self.private.crashed()
            time.sleep(PAUSE_S)
        elif error.errno in (errno.EHOSTUNREACH, errno.ETIMEDOUT):
            self.counts["absent"] += 1
            self.private.crashed()
        elif work is self.private or error.errno not in work.races:
            where = f"{type(work).__name__}.{work.doing}"
            self.problems.append(f"{where}: {error!r} {error.filename}")
            self._crashed()

    def _crashed(self) -> None:
        self.seen_generation = self.generation.value
        self.counts["crashes"] += 1
        self.private.crashed()
        self.shared.crashed()

    def _is_up(self) -> bool:
        """Whether the mount is there; the first look after a crash checks what survived."""
        if not self._is_mounted():
            if not self.private.is_in_doubt:
                self._crashed()
            return False
        if self.private.is_in_doubt:
            try:
                fault = self.private.recover()
            except OSError:
                return False
            if fault is not None:
                self.problems.append(fault)
        return True

    def _is_mounted(self) -> bool:
        try:
            inside = os.stat(self.mountpoint).st_dev != os.stat(self.mountpoint.parent).st_dev
            return inside and self.private.directory.is_dir()
        except OSError:
            return False

    def _pause(self) -> None:
        """Come to rest with everything acknowledged; tells what was found wrong."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if self._is_up():
                    self.private.sync()
                    self.shared.sync()
                    if self.generation.value == self.seen_generation:
                        break
                    self._crashed()
            except OSError as error:
                last = repr(error)
                time.sleep(PAUSE_S)
                if error.errno in GONE:
                    self._crashed()
                elif time.monotonic() > deadline:
                    self.problems.append(f"could not come to rest: {last}")
            time.sleep(0.05)
        else:
            self.problems.append("the mount did not come back")
        fault = self.private.compare()
        if fault is not None:
            self.problems.append(fault)
        _say(paused=True, problems=self.problems, **self.counts)
        self.problems = []


def _order(wait: float | None) -> str:
    """The next order; empty if there is none yet."""
    if wait is not None and not select.select([0], [], [], wait)[0]:
        return ""
    return sys.stdin.buffer.raw.readline().decode().strip() or "quit"


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    """Arguments: mount point, name, seed, log of shared work, file with the generation."""
    mountpoint, name, seed, log, generation = sys.argv[1:]
    worker = Worker(Path(mountpoint), name, seed, Path(log), Counter(Path(generation), fresh=False))
    worker.run()


if __name__ == "__main__":
    main()
