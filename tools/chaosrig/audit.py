"""What must hold once everything is healed: one state everywhere, nothing lost, nothing leaked."""

import json
import os
import re
import subprocess
import time
from collections import Counter as Tally
from pathlib import Path
from typing import Any, Final

from blocks import parse
from history import History
from hosts import Cluster, FailedError, Host, eventually

CONVERGE_S: Final = 120
MEMORY_MIB_MAX: Final = 400
DESCRIPTORS_MAX: Final = 120
THREADS_MAX: Final = 60
DIRECTORY_TIME: Final = ".d..t...... "  # in the words of rsync: a directory, and only its time
TASKS_MAX: Final = 120
# Unforeseen errors are logged with the traceback or with one of these events.
ALARM: Final = re.compile(r"Traceback|fuse\.failed|peer\.failed|AssertionError|control\.failed")


class Audit:
    """The checks at the end of a round."""

    def __init__(self, cluster: Cluster, history: History) -> None:
        self.cluster = cluster
        self.history = history
        self.made: Tally[str] = Tally()
        self._read: dict[int, int] = {}

    def run(self) -> list[str]:
        """All checks; returns what was found."""
        found: list[str] = []
        for check in (
            self._converged, self._trees, self._versions, self._fsck, self._resources, self._logs,
        ):  # fmt: skip
            self.made[check.__name__.strip("_")] += 1
            try:
                found += check()
            except (FailedError, OSError, subprocess.TimeoutExpired) as error:
                found.append(f"{check.__name__.strip('_')}: {error}")
        return found

    def _converged(self) -> list[str]:
        begun = time.monotonic()
        hosts = self.cluster.hosts

        def same() -> bool:
            facts = [host.status() for host in hosts]
            whole = not any(f["store"]["chunks_wanted"] for f in facts)
            return whole and len({host.digest() for host in hosts}) == 1

        if not eventually(same, CONVERGE_S):
            return [f"no convergence within {CONVERGE_S} s: {_standing(hosts)}"]
        self.made["seconds to converge"] += round(time.monotonic() - begun)
        return []

    def _trees(self) -> list[str]:
        """Content, modes, times, links and xattrs; times of directories are not replicated."""
        first, *others = self.cluster.hosts
        found = []
        for other in others:
            done = subprocess.run(
                ["rsync", "-naciHAX", "--delete", f"{first.mountpoint}/", f"{other.mountpoint}/"],
                capture_output=True, text=True, errors="replace", check=False, timeout=300,
            )  # fmt: skip
            lines = done.stdout.splitlines()
            unlike = [line for line in lines if not line.startswith(DIRECTORY_TIME)]
            self.made["times of directories apart"] += len(lines) - len(unlike)
            if done.returncode or unlike:
                words = f"{unlike[:6]} {done.stderr[:300]}"
                found.append(f"{first.name} and {other.name} differ: {words}")
        return found

    def _versions(self) -> list[str]:
        root = self.cluster.hosts[0].mountpoint
        paths = [*_files(root / "shared"), *_files(root / ".piperfs/orphans")]
        contents = [parse(path.read_bytes()) for path in paths]
        found = self.history.check(each.last for each in contents if each.last is not None)
        self.made["versions"] = self.history.checked
        self.made["versions excused"] = self.history.excused
        return found

    def _fsck(self) -> list[str]:
        found = []
        for host in self.cluster.hosts:
            text = host.piperfs("fsck", str(host.state)).strip()
            if text != "No findings.":
                found.append(f"{host.name}: fsck: {text[:600]}")
        return found

    def _resources(self) -> list[str]:
        found = []
        limits = {
            "anonymous": MEMORY_MIB_MAX, "descriptors": DESCRIPTORS_MAX, "threads": THREADS_MAX,
            "tasks": TASKS_MAX,
        }  # fmt: skip
        for host in self.cluster.hosts:
            used = host.resources()
            for name, value in used.items():
                self.made[f"most {name}"] = max(self.made[f"most {name}"], value)
                if value > limits[name]:
                    found.append(f"{host.name}: {value} {name}, more than {limits[name]}")
        return found

    def _logs(self) -> list[str]:
        found = []
        for host in self.cluster.hosts:
            text = host.log_text()
            fresh = text[self._read.get(host.number, 0) :]
            self._read[host.number] = len(text)
            alarms = [line for line in fresh.splitlines() if ALARM.search(line)]
            if alarms:
                found.append(f"{host.name}: {len(alarms)} alarms in its log: {alarms[0][-1500:]}")
        return found


def _files(below: Path) -> list[Path]:
    return [
        Path(above) / name
        for above, _, names in os.walk(below)
        for name in names
        if not (Path(above) / name).is_symlink()
    ]


def _standing(hosts: list[Host]) -> str:
    facts: list[dict[str, Any]] = []
    for host in hosts:
        status = host.status()
        facts.append({
            "name": host.name, "digest": status["digest"][:8], "waiting": status["waiting"],
            "operations": status["store"]["operations"], "wanted": status["store"]["chunks_wanted"],
            "peers": [(p["name"], p["state"], p.get("waits_for")) for p in status["peers"]],
            "health": status["health"],
        })  # fmt: skip
    return json.dumps(facts)
