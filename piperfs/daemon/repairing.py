"""fsck: a check over a snapshot, and a repair that builds a new store beside the old one."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from piperfs.core.errors import StoreError
from piperfs.core.manifest import node_children
from piperfs.daemon.node import Node
from piperfs.daemon.origin import write_origin
from piperfs.obs.facts import Finding
from piperfs.replication.verifying import unseal_of
from piperfs.store.check import Finding as Damaged
from piperfs.store.check import check_rules, check_store, check_values
from piperfs.store.engine import DATA_FILE, Engine, LmdbEngine
from piperfs.store.pages import check_file
from piperfs.store.repair import Salvage, copy_facts, rebuild
from piperfs.store.schema import NAMES
from piperfs.store.store import Identity, Store

SEQ_MARGIN: Final = 1 << 20  # operations that a lost commit may have held, and peers may have seen


def _store_on(node: Node, engine: Engine) -> Store:
    """A second store of the same replica, over another engine."""
    identity = Identity(node.store.volume, node.store.replica, node.identity, node.keyring)
    key, entropy = node.secrets.store, node.clock.entropy
    return Store(engine, identity, key, entropy, node_children, is_blind=node.store.is_blind)


def check(node: Node) -> list[Finding]:
    """Everything that is wrong with what is durable. Runs in a thread, beside the mount."""
    if node.salvage is not None:
        return [*_of_pages(node.salvage.damage), *_of_rows(node.store)]
    snapshot = node.store.snapshot_engine()
    try:
        if isinstance(snapshot, LmdbEngine):
            damage = check_file(node.state.store / DATA_FILE, snapshot.transaction)
            if damage:
                return _of_pages(damage)  # LMDB might not survive a look at the rows
        values = [*check_values(_store_on(node, snapshot), snapshot.renew)]
        snapshot.renew()
        rules = [*check_rules(_store_on(node, snapshot))]  # a store of its own for this moment
        return _told([*values, *rules])
    finally:
        snapshot.close()


def _of_pages(damage: list[str]) -> list[Finding]:
    return [Finding(kind="page", what=text) for text in damage]


def _of_rows(store: Store) -> list[Finding]:
    return _told(check_store(store))


def _told(found: Iterable[Damaged]) -> list[Finding]:
    return [Finding(kind=each.damage.name.lower(), what=str(each)) for each in found]


def repair(node: Node) -> list[Finding]:
    """Rebuild the store from all that proves itself; the old one is kept aside."""
    found = check(node)
    if not found:
        return []
    fresh = node.state.path / "store.new"
    shutil.rmtree(fresh, ignore_errors=True)
    target = rebuild_on(node, LmdbEngine(fresh, NAMES), Salvage())
    left = _of_rows(target)
    target.close()
    if left:
        raise StoreError(f"the repaired store still has {len(left)} findings; nothing was changed")
    data = node.state.store / DATA_FILE
    _exchange(fresh / DATA_FILE, data, node.state.path / "store.damaged")
    write_origin(node.state.path, data)
    shutil.rmtree(fresh)
    return [Finding(kind=each.kind, what=each.what, repaired=True) for each in found]


def rebuild_on(node: Node, engine: Engine, salvage: Salvage) -> Store:
    """Fill an empty engine with all that proves itself in a damaged store, durably."""
    copy_facts(node.store, engine, salvage)
    engine.refresh()
    target = _store_on(node, engine)
    now = node.clock.now_ns()
    for _ in rebuild(node.store, target, unseal_of(node), now, salvage):
        pass
    seq = max(target.last_seq, node.store.highest_seq_of(node.store.replica), now // 1_000_000)
    target.put_last_seq(seq + SEQ_MARGIN)
    for replica, row in target.peers().items():  # they may have sent what is lost
        target.put_peer(replica, replace(row, is_whole=False))
    target.commit(now)
    return target


def _exchange(fresh: Path, data: Path, aside: Path) -> None:
    """Put the new file in the place of the old one, at one stroke; the old one stays aside."""
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700)
    os.link(data, aside / DATA_FILE)
    fresh.replace(data)
    for directory in (aside, data.parent, data.parent.parent):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
