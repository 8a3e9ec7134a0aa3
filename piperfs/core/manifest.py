"""Manifests: which chunks a file's bytes are in, and the trees that long ones become.

A manifest is a list of extents. Up to 64 stand in the version itself; beyond that they are cut
into nodes, which are chunks too, and the list of nodes is treated likewise. Where a list is cut
depends on the ids in it, so a small change to a huge file writes one new node a level. A node
names its children in the clear, so that a replica without keys can fetch and keep them; lengths
are sealed.

Node: magic (2 bytes), height (1), number of ids (4), ids (32 each), sealed lengths.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Final, NamedTuple, Protocol

import msgspec
from blake3 import blake3

from piperfs.core.decoding import MALFORMED
from piperfs.core.errors import PeerError
from piperfs.core.ids import CHUNK_ID_SIZE, ChunkId, EpochId
from piperfs.core.limits import (
    FILE_BYTES_MAX,
    INLINE_EXTENTS_MAX,
    MANIFEST_HEIGHT_MAX,
    NODE_EXTENTS_MAX,
)
from piperfs.core.record import ContentBody

MAGIC: Final = b"PN"
_HEAD_BYTES: Final = 7
_SPLIT_MASK: Final = 0x7F  # a node ends after an id whose last seven bits are 0: 128 on average
_NODE_EXTENTS_MIN: Final = 32
REMEMBERED_NODES_MAX: Final = 256  # what a file of 4 GiB has

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[int]).decode


class Extent(NamedTuple):
    """`length` bytes that are one chunk (or the subtree below one node), or a hole."""

    length: int
    chunk: ChunkId | None


class Manifest(NamedTuple):
    """The top of a file's manifest as its version carries it; height 0 lists the data itself."""

    height: int
    extents: tuple[Extent, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths as a content body holds them: holes are negative."""
        return tuple(e.length if e.chunk is not None else -e.length for e in self.extents)

    @property
    def refs(self) -> tuple[ChunkId, ...]:
        return tuple(e.chunk for e in self.extents if e.chunk is not None)


EMPTY: Final = Manifest(0, ())


class NodeSealing(Protocol):
    """Seals the lengths of a node, bound to its clear part."""

    @property
    def epoch(self) -> EpochId: ...

    def seal_node(self, clear: bytes, plain: bytes) -> bytes: ...

    def open_node(self, clear: bytes, sealed: bytes) -> bytes: ...


def of_version(body: ContentBody, refs: Sequence[ChunkId]) -> Manifest:
    """The manifest that a version carries."""
    return Manifest(body.height, _join(body.lengths, refs))


def _join(lengths: Iterable[int], refs: Sequence[ChunkId]) -> tuple[Extent, ...]:
    chunks = iter(refs)
    return tuple(
        Extent(length, next(chunks)) if length > 0 else Extent(-length, None) for length in lengths
    )


class Nodes:
    """Makes nodes, and remembers the last ones: a small change to a long file leaves most alone."""

    def __init__(self, sealing: NodeSealing, has: Callable[[ChunkId], bool]) -> None:
        self._sealing = sealing
        self._has = has
        self._made: OrderedDict[tuple[object, ...], Extent] = OrderedDict()

    def make(
        self, height: int, extents: list[Extent], keep: Callable[[ChunkId, bytes], None]
    ) -> Extent:
        """The node above `extents`; `keep` is given its bytes unless they are here already."""
        key = (height, self._sealing.epoch, *extents)
        node = self._made.pop(key, None)
        if node is None or node.chunk is None or not self._has(node.chunk):
            node = _make_node(height, extents, self._sealing, keep)
        self._made[key] = node
        if len(self._made) > REMEMBERED_NODES_MAX:
            self._made.popitem(last=False)
        return node


def build(
    extents: Sequence[Extent],
    nodes: Nodes,
    keep: Callable[[ChunkId, bytes], None],
) -> Manifest:
    """Make a manifest of a file's extents; `keep` is given each new node as a chunk."""
    level = _join_holes(extents)
    height = 0
    while len(level) > INLINE_EXTENTS_MAX:
        height += 1
        level = [nodes.make(height, part, keep) for part in _split(level)]
    return Manifest(height, tuple(level))


def _join_holes(extents: Sequence[Extent]) -> list[Extent]:
    if 0 not in map(itemgetter(0), extents) and None not in map(itemgetter(1), extents):
        return list(extents)
    joined: list[Extent] = []
    for extent in extents:
        if extent.chunk is None and joined and joined[-1].chunk is None:
            joined[-1] = Extent(joined[-1].length + extent.length, None)
        elif extent.length:
            joined.append(extent)
    return joined


def _split(level: list[Extent]) -> Iterable[list[Extent]]:
    cuts = [i for i, (_, chunk) in enumerate(level, 1) if chunk and not chunk[-1] & _SPLIT_MASK]
    begin = 0
    for end in (*cuts, len(level)):
        while end - begin >= NODE_EXTENTS_MAX:
            yield level[begin : begin + NODE_EXTENTS_MAX]
            begin += NODE_EXTENTS_MAX
        if end - begin >= _NODE_EXTENTS_MIN or (end == len(level) and end > begin):
            yield level[begin:end]
            begin = end


def _make_node(
    height: int,
    extents: list[Extent],
    sealing: NodeSealing,
    keep: Callable[[ChunkId, bytes], None],
) -> Extent:
    top = Manifest(height, tuple(extents))
    refs = top.refs
    clear = b"".join((MAGIC, bytes((height,)), len(refs).to_bytes(4, "big"), *refs))
    raw = clear + sealing.seal_node(clear, _pack(list(top.lengths)))
    chunk = ChunkId(blake3(raw).digest())
    keep(chunk, raw)
    return Extent(sum(extent.length for extent in extents), chunk)


def node_children(raw: bytes) -> tuple[int, tuple[ChunkId, ...]]:
    """Height and children of a node, without keys; (0, ()) for what is no node."""
    try:
        height, refs, _ = _take_apart(raw)
    except PeerError:
        return 0, ()
    return height, refs


def _take_apart(raw: bytes) -> tuple[int, tuple[ChunkId, ...], int]:
    count = int.from_bytes(raw[3:_HEAD_BYTES], "big")
    end = _HEAD_BYTES + CHUNK_ID_SIZE * count
    height = raw[2] if len(raw) > 2 else 0
    if raw[:2] != MAGIC or not 1 <= height <= MANIFEST_HEIGHT_MAX:
        raise PeerError("a manifest node has an unknown form")
    if count > NODE_EXTENTS_MAX or end > len(raw):
        raise PeerError("a manifest node holds more children than are allowed")
    ids = range(_HEAD_BYTES, end, CHUNK_ID_SIZE)
    return height, tuple(ChunkId(raw[i : i + CHUNK_ID_SIZE]) for i in ids), end


def open_node(raw: bytes, expected: Extent, height: int, sealing: NodeSealing) -> Manifest:
    """The extents of a node whose parent says `expected`. Raises PeerError."""
    level, refs, end = _take_apart(raw)
    try:
        lengths = _unpack(sealing.open_node(raw[:end], raw[end:]))
    except MALFORMED as error:
        raise PeerError("a manifest node's lengths do not decode") from error
    positive = sum(1 for length in lengths if length > 0)
    if level != height or 0 in lengths or positive != len(refs):
        raise PeerError("a manifest node contradicts itself")
    if not 0 < len(lengths) <= NODE_EXTENTS_MAX:
        raise PeerError("a manifest node is empty or too long")
    if sum(map(abs, lengths)) != expected.length or expected.length > FILE_BYTES_MAX:
        raise PeerError("a manifest node covers another length than its parent says")
    return Manifest(level - 1, _join(lengths, refs))


def offsets(extents: Sequence[Extent]) -> list[int]:
    """Where each extent begins, in bytes."""
    return [0, *accumulate(extent.length for extent in extents)][:-1]
