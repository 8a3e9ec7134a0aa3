"""Chunks: sealed pieces of content, named by the hash of their bytes and checked on every read.

A chunk that does not match its name is dropped and wanted again: another replica has it, and
wrong bytes must reach neither a reader nor a peer.
"""

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable

from blake3 import blake3

from piperfs.core.ids import ChunkId
from piperfs.store.rows import WantRow
from piperfs.store.schema import Tables

NodeChildren = Callable[[bytes], tuple[int, Iterable[ChunkId]]]  # raw node -> height, children
InUse = Callable[[], Iterable[tuple[ChunkId, int]]]  # what open files need now, with heights


class ChunkStore:
    """Chunks by id, the ones that are wanted, and the deduplication table."""

    def __init__(
        self, tables: Tables, node_children: NodeChildren, content_hash: Callable[[bytes], bytes]
    ) -> None:
        self._tables = tables
        self.content_hash = content_hash  # stands for plain bytes in the deduplication table
        self.node_children = node_children
        self._wants: dict[ChunkId, WantRow] = {
            ChunkId(key): row for key, row in tables.want.scan(b"", b"\xff" * 33)
        }
        self.is_doubtful = bool(self._wants)  # whether some may be of versions that are not kept
        self._order = max((row.order for row in self._wants.values()), default=0)
        self._noted: dict[ChunkId, int] | None = None
        self._used: OrderedDict[ChunkId, None] = OrderedDict()  # the longest unused first
        self._used_max = 0
        self.uncommitted_bytes = 0
        self._frozen_bytes = 0
        self.damaged = 0
        self.has_room: Callable[[], bool] = lambda: True  # for what peers could send

    def get(self, chunk: ChunkId) -> bytes | None:
        """The sealed bytes, or None if they are absent or turned out to be damaged."""
        sealed = self.peek(chunk)
        if sealed is not None and self._used_max:
            self._note_use(chunk)
        return sealed

    def peek(self, chunk: ChunkId) -> bytes | None:
        """Like `get`, for those who look through the store: it counts as no use."""
        sealed = self._tables.chunk.get(chunk)
        if sealed is None or blake3(sealed).digest() == chunk:
            return sealed
        self.damaged += 1
        self._tables.chunk.delete(chunk)
        self.note(chunk, 1)
        self._put_want(chunk, 1, lost=True)  # nobody can tell any more whether it was a node
        self.doubt()
        return None

    def listed(self, chunk: ChunkId, height: int) -> list[tuple[ChunkId, int]]:
        """What a manifest node lists, with heights; nothing for data, or if it is absent."""
        node = self.peek(chunk) if height > 0 else None
        if node is None:
            return []
        level, children = self.node_children(node)
        return [(child, level - 1) for child in children]

    def is_lost(self, chunk: ChunkId) -> bool:
        """Whether it was here, turned out to be damaged and did not come back yet."""
        row = self._wants.get(chunk)
        return row is not None and row.lost

    def get_anywhere(self, chunk: ChunkId) -> bytes | None:
        """Like `get`, from any thread; leaves it to others to note damage."""
        sealed = self._tables.chunk.get_anywhere(chunk)
        return sealed if sealed is not None and blake3(sealed).digest() == chunk else None

    def digest_anywhere(self, digest: bytes) -> ChunkId | None:
        """The chunk that should hold this plaintext, asked from any thread.

        The answer may be out of date: check with `has` on the loop thread before relying on it.
        """
        return self._tables.digest.get_anywhere(digest)

    def has(self, chunk: ChunkId) -> bool:
        return self._tables.chunk.has(chunk)

    def put(self, chunk: ChunkId, sealed: bytes) -> None:
        """Keep a chunk; the caller has checked that the bytes match the id."""
        self.note(chunk, 0)
        wanted = self._wants.pop(chunk, None)
        if wanted is not None:
            self._tables.want.delete(chunk)
        elif self.has(chunk):
            return
        self._tables.chunk.put(chunk, sealed)
        if self._used_max:
            self._note_use(chunk)
        self.uncommitted_bytes += len(sealed)
        if wanted is not None and wanted.height > 0:
            height, children = self.node_children(sealed)
            for child in children:
                self.want(child, height - 1)

    def want(self, chunk: ChunkId, height: int) -> None:
        """Note that a live version needs the chunk, unless it is here.

        A node that is here may still lack children, so its subtree is looked through.
        """
        pending = [(chunk, height)]
        while pending:
            chunk, height = pending.pop()
            self.note(chunk, height)
            if chunk in self._wants:
                continue
            if not self.has(chunk):
                self._put_want(chunk, height, lost=False)
            else:
                pending.extend(self.listed(chunk, height))

    def _put_want(self, chunk: ChunkId, height: int, *, lost: bool) -> None:
        self._order += 1
        row = WantRow(height, self._order, lost)
        self._wants[chunk] = row
        self._tables.want.put(chunk, row)

    def forget_want(self, chunk: ChunkId) -> None:
        """No version needs an absent chunk any more."""
        if self._wants.pop(chunk, None) is not None:
            self._tables.want.delete(chunk)

    def doubt(self) -> None:
        """A version that is not kept is gone; what only it needed is wanted in vain."""
        self.is_doubtful = bool(self._wants)

    def wanted(self, limit: int, skip: int = 0) -> list[ChunkId]:
        """Absent chunks of live versions, longest wanted first."""
        found = []
        for index, chunk in enumerate(self._wants):
            if index >= skip:
                found.append(chunk)
            if len(found) == limit:
                break
        return found

    def defer(self, chunk: ChunkId) -> None:
        """Nobody who was asked has it: until the next start, all others come first."""
        row = self._wants.pop(chunk, None)
        if row is not None:
            self._wants[chunk] = row

    def is_wanted(self, chunk: ChunkId) -> bool:
        return chunk in self._wants

    @property
    def want_count(self) -> int:
        return len(self._wants)

    def known_digest(self, digest: bytes) -> ChunkId | None:
        """The chunk that holds a plaintext with this keyed digest, if it is here."""
        chunk = self._tables.digest.get(digest)
        if chunk is None or not self.has(chunk):
            return None
        self.note(chunk, 0)
        return chunk

    def remember_digest(self, digest: bytes, chunk: ChunkId) -> None:
        self._tables.digest.put(digest, chunk)

    def freeze(self) -> None:
        """What gathered goes into a commit now."""
        self._frozen_bytes, self.uncommitted_bytes = self.uncommitted_bytes, 0

    @property
    def waiting_bytes(self) -> int:
        """Bytes that the disk does not have yet."""
        return self.uncommitted_bytes + self._frozen_bytes

    def thaw(self, *, committed: bool) -> None:
        """A commit is done; what it could not write is waiting again."""
        if not committed:
            self.uncommitted_bytes += self._frozen_bytes
        self._frozen_bytes = 0

    # Keeping only some

    def track_use(self, count: int) -> None:
        """From now on remember the last `count` chunks that were read or came."""
        self._used_max = count

    def _note_use(self, chunk: ChunkId) -> None:
        self._used[chunk] = None
        self._used.move_to_end(chunk)
        if len(self._used) > self._used_max:
            self._used.popitem(last=False)

    def lately_used(self) -> list[ChunkId]:
        """Chunks in the order of their last use."""
        return list(self._used)

    def bytes_held(self) -> int:
        """About how many bytes of chunks are on the disk."""
        return self._tables.chunk.bytes_durable()

    # Collection

    def forget_wants(self, needed: Container[ChunkId]) -> None:
        """No longer ask for chunks that nothing here needs."""
        for chunk in [chunk for chunk in self._wants if chunk not in needed]:
            del self._wants[chunk]
            self._tables.want.delete(chunk)

    @property
    def is_collecting(self) -> bool:
        """Whether a collection, or an eviction, is under way; there can be one at a time."""
        return self._noted is not None

    def begin_noting(self) -> dict[ChunkId, int]:
        """From now on remember which chunks become referenced; see `collector.py`."""
        assert self._noted is None, "one collection at a time"
        self._noted = {}
        return self._noted

    def end_noting(self) -> None:
        self._noted = None

    def note(self, chunk: ChunkId, height: int) -> None:
        """A version refers to the chunk from now on."""
        if self._noted is not None:
            self._noted[chunk] = max(height, self._noted.get(chunk, 0))

    def drop(self, chunk: ChunkId) -> int:
        """Forget a chunk that nothing refers to; returns its size in bytes."""
        sealed = self._tables.chunk.get(chunk)
        self._tables.chunk.delete(chunk)
        return len(sealed or b"")
