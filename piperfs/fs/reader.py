"""From chunk ids to bytes: verified, opened, decompressed, and cached for the next request.

A large read touches the same chunk in several requests, so the plain bytes of the last few stay
in memory. What is absent is collected over the whole range that was asked for, so that one round
trip to a peer brings all of it.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from piperfs.core.errors import ErrorKind, FsError, PeerError
from piperfs.core.ids import ChunkId
from piperfs.core.limits import MIB
from piperfs.core.manifest import Extent, Manifest, open_node
from piperfs.core.sealing import Keyring
from piperfs.fs.missing import MissingChunks
from piperfs.store import codec
from piperfs.store.chunks import ChunkStore

CACHE_BYTES_MAX: Final = 32 * MIB


class ChunkReader:
    """Plain bytes of chunks, and the extents of manifests."""

    def __init__(self, chunks: ChunkStore, keyring: Keyring) -> None:
        self._chunks = chunks
        self.keyring = keyring
        self._cache: OrderedDict[ChunkId, bytes] = OrderedDict()
        self._cached_bytes = 0

    def plain(self, chunk: ChunkId) -> bytes:
        """A chunk's bytes. Raises MissingChunks, and FsError if it cannot be opened."""
        cached = self._cache.get(chunk)
        if cached is not None:
            self._cache.move_to_end(chunk)
            return cached
        sealed = self._chunks.get(chunk)
        if sealed is None:
            raise MissingChunks((chunk,))
        plain = self._open(sealed)
        self.remember(chunk, plain)
        return plain

    def plain_anywhere(self, chunk: ChunkId) -> bytes:
        """Like `plain`, from any thread."""
        cached = self._cache.get(chunk)
        if cached is not None:
            return cached
        sealed = self._chunks.get_anywhere(chunk)
        if sealed is None:
            raise MissingChunks((chunk,))
        return self._open(sealed)

    def _open(self, sealed: bytes) -> bytes:
        try:
            return codec.decode(self.keyring.open_chunk(sealed))
        except PeerError as error:
            raise FsError(ErrorKind.IO, str(error)) from error

    def remember(self, chunk: ChunkId, plain: bytes) -> None:
        """Keep plain bytes for the requests to come."""
        if chunk in self._cache:
            return
        self._cache[chunk] = plain
        self._cached_bytes += len(plain)
        while self._cached_bytes > CACHE_BYTES_MAX:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= len(dropped)

    def forget(self, chunks: Iterable[ChunkId]) -> None:
        """Plain bytes that nobody is likely to ask for again."""
        for chunk in chunks:
            self._cached_bytes -= len(self._cache.pop(chunk, b""))

    def require(self, chunks: Iterable[ChunkId]) -> None:
        """Raise MissingChunks with all of `chunks` that are not here."""
        missing = self.absent(chunks)
        if missing:
            raise MissingChunks(missing)

    def absent(self, chunks: Iterable[ChunkId]) -> list[ChunkId]:
        """Those of `chunks` that are not here."""
        return [c for c in chunks if c not in self._cache and not self._chunks.has(c)]

    def extents(self, manifest: Manifest) -> list[Extent]:
        """All extents of a file. Raises MissingChunks for nodes that are not here."""
        level, height = list(manifest.extents), manifest.height
        while height > 0:
            self.require(extent.chunk for extent in level if extent.chunk is not None)
            below: list[Extent] = []
            for extent in level:
                if extent.chunk is None:
                    below.append(extent)
                else:
                    below.extend(self._open_node(extent.chunk, extent, height))
            level, height = below, height - 1
        return level

    def _open_node(self, chunk: ChunkId, extent: Extent, height: int) -> tuple[Extent, ...]:
        raw = self._chunks.get(chunk)
        if raw is None:
            raise MissingChunks((chunk,))
        try:
            return open_node(raw, extent, height, self.keyring).extents
        except PeerError as error:
            raise FsError(ErrorKind.IO, str(error)) from error
