"""Content that is made to harm whoever looks at it."""

import resource
import tracemalloc

import pytest
import zstandard

from piperfs.core.errors import PeerError
from piperfs.core.ids import DIRECTORY, FILE, make_inode_id
from piperfs.core.limits import CHUNK_BYTES_MAX, MIB
from piperfs.core.operation import Write, decode, encode
from piperfs.core.record import Kind, LinkBody, Stamp
from piperfs.store import codec
from tests.support.stores import PlainSealing

PLAIN = PlainSealing()
AUTHOR = b"author".ljust(16, b".")


def bomb(size: int, claimed: int, *, with_size: bool = True) -> bytes:
    """A payload whose frame unfolds to `size` bytes, while it claims another number."""
    parameters = zstandard.ZstdCompressionParameters(write_content_size=with_size)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj(
        size if with_size else -1
    )
    frame = b"".join([*(packer.compress(bytes(MIB)) for _ in range(size // MIB)), packer.flush()])
    return bytes((codec.ZSTD,)) + claimed.to_bytes(4, "big") + frame


@pytest.mark.parametrize(
    "payload",
    [
        bomb(64 * MIB, 1000),
        bomb(64 * MIB, CHUNK_BYTES_MAX),
        bomb(64 * MIB, 64 * MIB),
        bomb(64 * MIB, CHUNK_BYTES_MAX, with_size=False),
        codec.encode(b"text " * 100) + codec.encode(b"text " * 100)[codec.PREFIX_BYTES :],
        bytes((codec.ZSTD,)) + (1000).to_bytes(4, "big") + b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8,
        bytes((codec.RAW,)) + (0xFFFFFFFF).to_bytes(4, "big") + b"x",
    ],
    ids=["small", "largest", "honest", "silent", "two frames", "exabytes", "raw"],
)
def test_a_bomb_is_refused_before_it_takes_memory(payload: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(PeerError):
            codec.decode(payload)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/etc/passwd", b"a\0b", b"x" * 256])
def test_names_that_lead_elsewhere_are_refused(name: bytes) -> None:
    folder = make_inode_id(DIRECTORY, bytes(15))
    body = LinkBody(True, folder, name, make_inode_id(FILE, bytes(15)), Stamp(1, AUTHOR))
    write = Write(Kind.LINK, b"l" * 16, 1, {}, (), body)
    raw = encode(AUTHOR, 1, PLAIN.epoch, (write,), PLAIN.seal_bodies).encode()
    with pytest.raises(PeerError, match="name"):
        decode(raw, lambda epoch, header, sealed: sealed)
