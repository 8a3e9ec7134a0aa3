"""Real daemons in network namespaces of their own: chaos for a minute, and finding one another."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

RIG = Path(__file__).resolve().parents[2] / "tools/chaosrig"
sys.path.insert(0, str(RIG))

from history import History  # noqa: E402 - found by the path above
from hosts import Cluster, Network, eventually  # noqa: E402
from run import Plan, run  # noqa: E402

MOVED_TO = 7001

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


@pytest.fixture
def cluster():
    with Network(2) as network:
        made = Cluster(Path(tempfile.mkdtemp(prefix="piperfs-chaos-")), network, 256)
        try:
            yield made
        finally:
            made.close()


def connected(host) -> bool:
    return any(peer["state"] == "connected" for peer in host.status()["peers"])


def meet_without_addresses(cluster: Cluster, options: str) -> None:
    """Two members that joined and then moved, so that neither knows where the other is."""
    first, second = cluster.hosts
    first.piperfs("init", str(first.state), "--name", "chaos", "--member", first.name)
    first.options = "discovery=off"
    first.mount()
    ticket = first.piperfs("invite", str(first.state))
    second.piperfs("join", str(second.state), "-", "--member", second.name, stdin=ticket)
    first.umount()
    for host in cluster.hosts:
        host.options = f"listen=0.0.0.0:{MOVED_TO},{options}"
        host.mount()


def test_members_find_each_other_on_a_network(cluster):
    meet_without_addresses(cluster, "discovery=on")
    first, second = cluster.hosts
    assert eventually(lambda: connected(first) and connected(second), 30)
    (first.mountpoint / "f").write_text("found")
    assert eventually((second.mountpoint / "f").exists, 10)


def test_nobody_is_found_without_discovery(cluster):
    meet_without_addresses(cluster, "discovery=off")
    first, second = cluster.hosts
    assert not eventually(lambda: connected(first) or connected(second), 5)


def test_a_cut_that_says_nothing_is_noticed_and_healed(cluster):
    cluster.start("discovery=off")
    first, second = cluster.hosts
    assert eventually(lambda: connected(first) and connected(second), 20)
    for source, target in ((0, 1), (1, 0)):
        cluster.network.change(source, target, up=False)
    (first.mountpoint / "note.txt").write_text("from the first")
    (second.mountpoint / "note.txt").write_text("from the second")
    assert eventually(lambda: not connected(first) and not connected(second), 30)
    cluster.network.heal()
    assert eventually(lambda: first.digest() == second.digest(), 40)
    shown = [sorted(os.listdir(host.mountpoint)) for host in cluster.hosts]
    assert shown[0] == shown[1]
    assert len(shown[0]) == 2
    texts = {(first.mountpoint / name).read_text() for name in shown[0]}
    assert texts == {"from the first", "from the second"}


@pytest.mark.slow
def test_a_minute_of_chaos_finds_nothing():
    outcome = run(Plan(seed=4, minutes=0.5, nodes=3))
    assert outcome.findings == []
    assert outcome.rounds
    assert outcome.checks["versions"]


def records(tmp_path: Path, *lines: str) -> History:
    path = tmp_path / "log"
    path.write_text("".join(f"{line}\n" for line in lines))
    return History([path])


OP = '{{"kind": "op", "number": 1, "action": "{}", "token": "{}", "saw": {}, "path": "f"}}'
DONE = '{"kind": "done", "number": 1, "saw": []}'
BLIND = '{"kind": "done", "number": 1, "saw": [], "blind": true}'
ACK = '{"kind": "ack", "number": 1}'
CRASH = '{"kind": "crash", "number": 1}'
FIRST = (OP.format("create", "t1", "[]"), DONE)
SECOND = (OP.format("overwrite", "t2", '["t1"]'), DONE)


@pytest.mark.parametrize(
    ("lines", "shown", "lost"),
    [
        ((*FIRST, ACK), ["t1"], 0),
        ((*FIRST, ACK), [], 1),
        (FIRST, [], 0),
        ((*FIRST, CRASH, ACK), [], 0),
        ((*FIRST, ACK, *SECOND, ACK), ["t2"], 0),
        ((*FIRST, ACK, *SECOND, ACK), [], 1),
        ((*FIRST, ACK, *SECOND, ACK, OP.format("rename", "t3", "[]"), BLIND), [], 0),
        ((*FIRST, ACK, *SECOND, CRASH), [], 1),
        ((*FIRST, ACK, OP.format("unlink", "t2", '["t1"]'), DONE), [], 0),
        ((*FIRST, ACK, OP.format("unlink", "t2", "[]"), DONE), [], 1),
    ],
)
def test_what_counts_as_lost(tmp_path, lines, shown, lost):
    assert len(records(tmp_path, *lines).check(shown)) == lost
