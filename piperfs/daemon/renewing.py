"""A device of whose state there is a copy goes on under other keys, without losing anything.

What the store holds stays as it is: operations of the former self are those of any other author.
The record that makes the new member is signed by the old key, so nobody has to be asked, and it
becomes durable together with the store's new owner: a crash leaves the one or the other.
"""

from typing import TYPE_CHECKING, Final

from piperfs.core.epochs import renewal
from piperfs.core.errors import PeerError
from piperfs.core.identity import DeviceSecrets, Identity, successor
from piperfs.core.membership_records import record_id
from piperfs.obs.log import get_logger
from piperfs.store.cells import Cells
from piperfs.store.engine import Engine

if TYPE_CHECKING:
    from piperfs.daemon.node import Node

SALT: Final = b"renewed"  # in the table of facts: what the newest keys were derived with
SALT_BYTES: Final = 32

log = get_logger("members")


def identity_of(engine: Engine, cells: Cells, secrets: DeviceSecrets) -> Identity:
    """Who owns a store: the device, under its first keys or those it went on under."""
    sealed = engine.get("meta", SALT)
    if sealed is None:
        return Identity(secrets)
    return Identity(successor(secrets, cells.open(b"meta\x00" + SALT, sealed)))


def renew(node: "Node") -> bool:
    """Let the store belong to a new member; the node must be assembled anew then.

    A removed member cannot, and stays what it is.
    """
    salt = node.clock.entropy(SALT_BYTES)
    renewed = Identity(successor(node.secrets.device, salt))
    statement = renewal(node.graph, node.identity, renewed)
    try:
        raw = node.graph.author(node.identity, node.clock.now_ns(), statement)
    except PeerError as error:
        log.warning("replica.not_renewed", reason=str(error))
        return False
    store = node.store
    store.put_member_record(record_id(raw), raw)
    store.tables.meta.put(SALT, salt)
    store.change_owner(renewed.replica)
    store.commit(node.clock.now_ns())
    log.warning("replica.renewed", before=node.identity.replica.hex(), member=renewed.replica.hex())
    return True
