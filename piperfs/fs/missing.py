"""The one thing the file system cannot answer by itself: bytes that are on another computer.

It says which chunks it lacks and does nothing else; whoever may wait fetches them and asks again.
"""

from collections.abc import Iterable

from piperfs.core.errors import PiperError
from piperfs.core.ids import ChunkId


class MissingChunks(PiperError):  # noqa: N818 - an answer, no error
    """These chunks are needed and absent."""

    def __init__(self, chunks: Iterable[ChunkId]) -> None:
        self.chunks = tuple(chunks)
        super().__init__(f"{len(self.chunks)} chunks are not here")
