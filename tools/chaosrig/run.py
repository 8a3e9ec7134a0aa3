"""A chaos run: episodes with a fresh cluster each, rounds of work and faults, then the checks."""

import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter as Tally
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from audit import Audit
from history import History
from hosts import RIG, Cluster, FailedError, Host, Network, eventually
from nemesis import FAULTS, Nemesis

EPISODE_S: Final = 300
ROUND_S: Final = 40
REST_TIMEOUT_S: Final = 90
DISK_MIB: Final = 1024


@dataclass(slots=True)
class Plan:
    """What to run."""

    seed: int
    minutes: float
    nodes: int
    faults: list[str] = field(default_factory=lambda: list(FAULTS))
    options: str = "discovery=off,deadline=8"
    keep: Path | None = None
    verbose: bool = False


@dataclass(slots=True)
class Outcome:
    """What a run came to."""

    findings: list[str] = field(default_factory=list)
    faults: Tally[str] = field(default_factory=Tally)
    checks: Tally[str] = field(default_factory=Tally)
    work: Tally[str] = field(default_factory=Tally)
    rounds: int = 0


class User:
    """The process that works on one mount."""

    def __init__(self, host: Host, seed: str) -> None:
        self.host = host
        self.log = host.base / "shared.log"
        self.log.touch()
        arguments = [
            str(host.mountpoint), host.name, seed, str(self.log), str(host.base / "generation"),
        ]  # fmt: skip
        self._errors = (host.base / "worker.err").open("w")
        self._process = subprocess.Popen(
            [sys.executable, str(RIG / "worker.py"), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0,
            env={**os.environ, "PYTHONPATH": str(RIG)},
        )  # fmt: skip

    def order(self, word: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{word}\n".encode())
        except BrokenPipeError:
            return

    def answer(self, within_s: float) -> dict[str, Any] | None:
        """Its report; None if it gives none."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], within_s)[0]:
            return None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def last_words(self) -> str:
        return (self.host.base / "worker.err").read_text()[-1500:]

    def stack(self) -> str:
        """Where it waits in the kernel."""
        try:
            return Path(f"/proc/{self._process.pid}/stack").read_text()
        except OSError:
            return "unknown"

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            stream.close()


def run(plan: Plan) -> Outcome:
    """Run episodes until the time is over or something was found."""
    outcome = Outcome()
    ends = time.monotonic() + plan.minutes * 60
    episode = 0
    while not outcome.findings and (left := ends - time.monotonic()) > 0:
        _run_episode(plan, plan.seed + episode, min(left, EPISODE_S), outcome)
        episode += 1
    return outcome


def _run_episode(plan: Plan, seed: int, seconds: float, outcome: Outcome) -> None:
    print(f"episode with seed {seed}", flush=True)
    base = Path(tempfile.mkdtemp(prefix="piperfs-chaos-"))
    with Network(plan.nodes) as network:
        cluster = Cluster(base, network, DISK_MIB)
        users: list[User] = []
        try:
            cluster.start(plan.options)
            _prepare(cluster)
            users = [User(host, f"{seed}.{host.name}") for host in cluster.hosts]
            _Episode(plan, seed, cluster, users, outcome).run(seconds)
        except (FailedError, subprocess.TimeoutExpired) as error:
            outcome.findings.append(f"seed {seed}: {error}")
        except Exception:  # noqa: BLE001 - the stores are kept for whoever looks into it
            outcome.findings.append(f"seed {seed}: the run itself failed: {traceback.format_exc()}")
        finally:
            for user in users:
                user.close()
            if outcome.findings and plan.keep is not None:
                _keep(cluster, plan.keep / str(seed))
            cluster.close()


def _prepare(cluster: Cluster) -> None:
    """Make the directories that the work takes place in, and wait until all have them."""
    first = cluster.hosts[0]
    names = ["shared", *(f"own-{host.name}" for host in cluster.hosts)]
    for name in names:
        (first.mountpoint / name).mkdir()
    for host in cluster.hosts:
        if not eventually(lambda host=host: set(names) <= set(os.listdir(host.mountpoint)), 60):
            raise FailedError(f"{host.name} did not get the first directories")


def _keep(cluster: Cluster, where: Path) -> None:
    """Leave logs and stores for whoever looks for the cause."""
    for host in cluster.hosts:
        host.kill()
        target = where / host.name
        shutil.copytree(
            host.state,
            target / "state",
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("*.sock"),
        )  # of a daemon that was killed
        for name in ("shared.log", "worker.err"):
            if (host.base / name).exists():
                shutil.copy(host.base / name, target / name)


class _Episode:
    """Rounds on one cluster."""

    def __init__(
        self, plan: Plan, seed: int, cluster: Cluster, users: list[User], outcome: Outcome
    ) -> None:
        self._plan = plan
        self._seed = seed
        self._cluster = cluster
        self._users = users
        self._outcome = outcome
        self._nemesis = Nemesis(cluster, random.Random(f"{seed}.nemesis"), plan.faults)
        self._audit = Audit(cluster, History([user.log for user in users]))

    def run(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while True:
            left = ends - time.monotonic()
            found = self._round(min(ROUND_S, max(10.0, left * 0.6)))
            self._outcome.rounds += 1
            self._outcome.findings += [f"seed {self._seed}: {each}" for each in found]
            print(f"  round {self._outcome.rounds}: {len(found)} findings", flush=True)
            if found or time.monotonic() > ends:
                break
        self._outcome.faults += self._nemesis.injected
        for name, value in self._audit.made.items():
            if name.startswith("most "):
                self._outcome.checks[name] = max(self._outcome.checks[name], value)
            else:
                self._outcome.checks[name] += value

    def _round(self, seconds: float) -> list[str]:
        for user in self._users:
            user.order("go")
        self._nemesis.run(seconds, self._say)
        found = self._rest()
        return found + self._audit.run()

    def _say(self, text: str) -> None:
        if self._plan.verbose:
            print(f"  {text}", flush=True)

    def _rest(self) -> list[str]:
        """Let the work come to rest; returns what the workers found."""
        found = []
        for user in self._users:
            user.order("pause")
        for user in self._users:
            report = user.answer(REST_TIMEOUT_S)
            if report is None:
                words = f"{user.last_words()} {user.stack()}"
                found.append(f"{user.host.name}: the worker hangs or died: {words}")
                continue
            found += [f"{user.host.name}: {problem}" for problem in report["problems"]]
            for name in ("operations", "crashes", "full", "absent"):
                self._outcome.work[f"{user.host.name} {name} of seed {self._seed}"] = report[name]
        return found
