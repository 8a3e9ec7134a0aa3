"""fsck: a check over a snapshot, and a repair that builds a new store beside the old one."""

import shutil

from piperfs.core.errors import StoreError
from piperfs.core.manifest import node_children
from piperfs.daemon.node import Node
from piperfs.obs.facts import Finding
from piperfs.store import check as checks
from piperfs.store.engine import LmdbEngine
from piperfs.store.repair import Salvage, copy_facts, rebuild
from piperfs.store.schema import NAMES
from piperfs.store.store import Identity, Store


def _identity(node: Node) -> Identity:
    return Identity(node.store.volume, node.store.replica, node.identity, node.keyring)


def check(node: Node) -> list[checks.Finding]:
    """Everything that is wrong with what is durable. Runs in a thread, beside the mount."""
    snapshot = node.store.snapshot_engine()
    try:
        store = Store(
            snapshot,
            _identity(node),
            node.secrets.store,
            node.clock.entropy,
            node_children,
            is_blind=node.store.is_blind,
        )
        return list(checks.check_store(store))
    finally:
        snapshot.close()


def repair(node: Node) -> list[Finding]:
    """Rebuild the store from all that proves itself; the old one is kept aside until then."""
    found = check(node)
    if not found:
        return []
    fresh, old = node.state.path / "store.new", node.state.path / "store.damaged"
    shutil.rmtree(fresh, ignore_errors=True)
    engine = LmdbEngine(fresh, NAMES)
    salvage = Salvage()
    copy_facts(node.store, engine, salvage)
    engine.refresh()
    target = Store(
        engine,
        _identity(node),
        node.secrets.store,
        node.clock.entropy,
        node_children,
        is_blind=node.store.is_blind,
    )
    unseal = None if node.store.is_blind else node.keyring.unseal_bodies
    for _ in rebuild(node.store, target, unseal, node.clock.now_ns(), salvage):
        pass
    left = list(checks.check_store(target))
    target.close()
    if left:
        raise StoreError(f"the repaired store still has {len(left)} findings; nothing was changed")
    node.store.close()
    shutil.rmtree(old, ignore_errors=True)
    node.state.store.rename(old)
    fresh.rename(node.state.store)
    return [Finding(kind=each.damage.name.lower(), what=str(each), repaired=True) for each in found]
