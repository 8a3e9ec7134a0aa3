"""kill -9 of the daemon under load, at random instants and at random system calls of its store.

Four threads and a SQLite process work on a real mount. The daemon is killed by a timer, or by
strace at the n-th pwrite, fdatasync or reply to the kernel. Then `piperfs mount` must work at once,
what fsync acknowledged must be there, the state must be one that existed at a moment not before
the last fsync that was answered, and fsck must find nothing. A second replica is connected the
whole time: nothing it has seen may be unknown, or another operation, after the restart.
"""

import argparse
import os
import random
import select
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from crashing.rounds import KILL_S, outlives, pid_of, run_round
from crashing.verify import BrokenPromiseError
from tests.support.volumes import Replica, eventually, replicas

CALLS = ("pwrite64", "pwritev", "fdatasync", "writev")


def run(options: argparse.Namespace) -> str:
    """Run rounds. Raises BrokenPromiseError."""
    base = Path(tempfile.mkdtemp(prefix="piperfs-kill-"))
    traced = 0
    with replicas(base, "anna", "ben") as (anna, ben):
        anna.init().mount()
        ben.join(anna)
        address = anna.address
        serve(ben, address)
        for number in range(options.rounds):
            seed = options.seed + number
            rng = random.Random(seed)
            by_call = rng.random() < 0.5
            traced += by_call
            crash = kill_at_call(anna, rng) if by_call else kill_after(anna, rng)
            text = run_round(anna, number, seed, crash)
            if number % 10 == 9:
                check_said(anna, ben)
            if not options.quiet:
                print(f"{number}: {text}", flush=True)
    return f"{options.rounds} kills ({traced} at a system call), no promise broken"


def serve(ben: Replica, address: str) -> None:
    """Let a second replica follow."""
    ben.piperfs(
        "serve", str(ben.state), "-d", "-o", f"listen=127.0.0.1:0,discovery=off,peer={address}"
    )


def kill_after(replica: Replica, rng: random.Random) -> Callable[[], None]:
    """Kill the daemon after a random time."""
    pid, pause = pid_of(replica), rng.uniform(0.05, 3) if rng.random() < 0.8 else rng.uniform(6, 9)

    def crash() -> None:
        process = os.pidfd_open(pid)
        threading.Event().wait(pause)
        os.kill(pid, signal.SIGKILL)
        select.select([process], [], [], KILL_S)
        os.close(process)

    return crash


def kill_at_call(replica: Replica, rng: random.Random) -> Callable[[], None]:
    """Kill the daemon at the n-th call of one kind; by the clock if that does not come."""
    pid, call, nth = pid_of(replica), rng.choice(CALLS), int(1.5 ** rng.uniform(0, 14))

    def crash() -> None:
        process = os.pidfd_open(pid)
        tracer = subprocess.Popen(
            ["strace", "-f", "-qq", "-p", str(pid), "-e", f"trace={call}", "-o", "/dev/null",
             "-e", f"inject={call}:signal=KILL:when={nth}"],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        outlives(pid, process, 8)
        os.close(process)
        tracer.wait(KILL_S)

    return crash


def check_said(anna: Replica, ben: Replica) -> None:
    """Both agree after the restart, and nobody proves that a number was used twice."""
    seen = ben.status()
    if any("refused" in (peer.get("waits_for") or "") for peer in seen["peers"]):
        raise BrokenPromiseError(f"ben refuses operations of anna: {seen['peers']}")
    try:
        eventually(lambda: anna.digest() == ben.digest(), within_s=60)
    except AssertionError as error:
        raise BrokenPromiseError(
            f"the two do not converge: {anna.status()} {ben.status()}"
        ) from error
