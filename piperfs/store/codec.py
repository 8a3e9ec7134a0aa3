"""Compression of a chunk's payload: zstd where it pays, raw where it does not.

Payload: codec (1 byte), length of the plain bytes (4), data. A frame's own header is parsed
before anything is allocated, since the decompressor's output limit does not limit it. Contexts
belong to one thread each: sharing one between threads crashes.
"""

import threading
from typing import Final

import zstandard

from piperfs.core.errors import PeerError
from piperfs.core.limits import CHUNK_BYTES_MAX, ZSTD_WINDOW_BYTES_MAX

RAW: Final = 0
ZSTD: Final = 1
LEVEL: Final = 3
WORTHWHILE: Final = 0.95  # keep a compressed form only if it is smaller than this share
TRIAL_BYTES: Final = 4096  # of a large chunk, tried first: most media do not compress
PREFIX_BYTES: Final = 5

_local = threading.local()


def encode(plain: bytes | bytearray | memoryview) -> bytes:
    """The payload that stands for `plain`."""
    prefix = len(plain).to_bytes(4, "big")
    if len(plain) >= 64 and _looks_compressible(plain):
        packed = _compressor().compress(plain)
        if len(packed) < len(plain) * WORTHWHILE:
            return b"".join((bytes((ZSTD,)), prefix, packed))
    return b"".join((bytes((RAW,)), prefix, plain))


def _looks_compressible(plain: bytes | bytearray | memoryview) -> bool:
    if len(plain) < 8 * TRIAL_BYTES:
        return True
    middle = len(plain) // 2
    sample = memoryview(plain)[middle : middle + TRIAL_BYTES]
    return len(_compressor().compress(sample)) < TRIAL_BYTES * WORTHWHILE or (
        len(_compressor().compress(memoryview(plain)[:TRIAL_BYTES])) < TRIAL_BYTES * WORTHWHILE
    )


def decode(payload: bytes, length_max: int = CHUNK_BYTES_MAX) -> bytes:
    """The plain bytes of a payload. Raises PeerError."""
    length = int.from_bytes(payload[1:PREFIX_BYTES], "big")
    if len(payload) < PREFIX_BYTES or length > length_max:
        raise PeerError(f"a chunk claims {length} bytes; at most {length_max} are allowed")
    data = memoryview(payload)[PREFIX_BYTES:]
    if payload[0] == RAW and len(data) == length:
        return bytes(data)
    if payload[0] != ZSTD:
        raise PeerError("a chunk has an unknown codec or another length than it says")
    try:
        header = zstandard.get_frame_parameters(data)
        if header.content_size != length or header.dict_id:
            raise PeerError("a compressed chunk contradicts its own length")
        if header.window_size > ZSTD_WINDOW_BYTES_MAX:
            raise PeerError("a compressed chunk needs too large a window")
        plain: bytes = _decompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PeerError(f"a chunk does not decompress: {error}") from error
    if len(plain) != length:
        raise PeerError("a compressed chunk has another length than it says")
    return plain


def _compressor() -> zstandard.ZstdCompressor:
    found: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
    if found is None:
        found = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False)
        _local.compressor = found
    return found


def _decompressor() -> zstandard.ZstdDecompressor:
    found: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if found is None:
        found = zstandard.ZstdDecompressor()
        _local.decompressor = found
    return found
