"""Cutting a stream of bytes into frames, with the limit known before memory is taken."""

from collections.abc import Iterator

from piperfs.core.errors import PeerError
from piperfs.core.limits import FRAME_BYTES_MAX, PREAUTH_FRAME_BYTES_MAX

HEADER_BYTES = 4


class FrameReader:
    """Collects bytes and yields the bodies of whole frames."""

    def __init__(self, limit: int = PREAUTH_FRAME_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self.limit = limit

    def trust(self) -> None:
        """The other end has proved who it is: frames may be large from now on."""
        self.limit = FRAME_BYTES_MAX

    def feed(self, data: bytes | bytearray) -> Iterator[bytes]:
        """Bodies of the frames that `data` completes. Raises PeerError for one over the limit."""
        self._buffer += data
        while len(self._buffer) >= HEADER_BYTES:
            length = int.from_bytes(self._buffer[:HEADER_BYTES], "big")
            if length > self.limit:
                raise PeerError(f"a frame of {length} bytes is over the limit of {self.limit}")
            end = HEADER_BYTES + length
            if len(self._buffer) < end:
                return
            body = bytes(memoryview(self._buffer)[HEADER_BYTES:end])
            del self._buffer[:end]
            yield body
