"""Whose store it is, and which of all stores: written down in it, and asked at every opening."""

from collections.abc import Callable

from piperfs.core.errors import StoreError
from piperfs.core.ids import ReplicaId, StoreId, VolumeId
from piperfs.store.schema import Tables


def claim(tables: Tables, volume: VolumeId, replica: ReplicaId) -> None:
    """Make a fresh store a replica's own. Raises StoreError: it is another's already."""
    owner = volume + replica
    found = tables.meta.get(b"owner")
    if found is None:
        tables.meta.put(b"owner", owner)
    elif found != owner:
        raise StoreError("the store belongs to another volume or replica")


def hand_over(tables: Tables, volume: VolumeId, replica: ReplicaId) -> None:
    """With the next commit it is another replica's; peers of the old one must not mistake it."""
    tables.meta.put(b"owner", volume + replica)
    tables.meta.delete(b"store")


def store_id(tables: Tables, entropy: Callable[[int], bytes]) -> StoreId:
    """The store's own id, drawn when it is opened for the first time."""
    found = tables.meta.get(b"store")
    if found is None:
        found = entropy(16)
        tables.meta.put(b"store", found)
    return StoreId(found)
