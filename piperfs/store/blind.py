"""The store of a member that holds a volume for others and has no key to read it.

The clear part of an operation (record keys, vectors, chunk ids) is all that merging, passing on
and fetching need, so such a replica has the same log, and the same fingerprints of it, as any
other. It has no index: there is no name in it to look up.
"""

from piperfs.core.ids import ChunkId, InodeId
from piperfs.core.operation import Write
from piperfs.core.record import Kind
from piperfs.store.remote import RemoteWriter


class BlindWriter(RemoteWriter):
    """Merges operations by their vectors alone."""

    is_blind = True

    def _targets(self, link: bytes) -> set[InodeId]:  # noqa: ARG002 - none can be read
        return set()

    def _refresh(self, write: Write, former: set[InodeId]) -> None:
        """There is no index."""

    def _want(self, write: Write) -> None:
        """Want all chunks: which are manifest nodes shows when they come."""
        if write.kind is Kind.CONTENT:
            for chunk in write.refs:
                self._chunks.want(ChunkId(chunk), 1)
