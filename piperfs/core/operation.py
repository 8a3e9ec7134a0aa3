"""Operations: what one local action wrote, signed as a whole and applied as a whole.

    envelope  = [header, sealed bodies, signature]
    header    = [format, replica, seq, epoch, [[kind, key, hlc, vector, refs], ...], seen]
    id        = BLAKE3(len(header) | header | sealed)
    signature = Ed25519(context | volume | id)

The header is in the clear: kinds, keys, vectors and chunk ids are all that a replica without keys
needs to merge, to fetch and to collect. Names, targets and values are in the sealed part. The
bytes are kept exactly as they were signed and never encoded again, so verification cannot
disagree between versions of an encoder. On the wire a vector omits the write's own dot.

A removal says in its sealed body which versions its author had seen; what the writes' own vectors
do not say of that stands in `seen`. So everything that an operation *claims* to know of others is
in the clear, and even a replica without keys can ask for proof of it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias, cast

import msgspec
from blake3 import blake3

from piperfs.core import limits
from piperfs.core.decoding import MALFORMED
from piperfs.core.errors import PeerError
from piperfs.core.ids import (
    CHUNK_ID_SIZE,
    DIRECTORY,
    HIDDEN,
    INODE_ID_SIZE,
    ORPHANS,
    ROOT_PARENT,
    TYPES,
    ChunkId,
    EpochId,
    OperationId,
    ReplicaId,
    VolumeId,
)
from piperfs.core.record import (
    BODY_TYPES,
    AnyHead,
    AttributesBody,
    Body,
    ContentBody,
    Head,
    Kind,
    LinkBody,
    XattrBody,
    xattr_key,
)
from piperfs.core.version_vector import join

FORMAT: Final = 1
SIGNATURE_CONTEXT: Final = b"piperfs operation v1"
VIRTUAL: Final = frozenset((ROOT_PARENT, ORPHANS, HIDDEN))

Seal: TypeAlias = Callable[[bytes, bytes], bytes]  # (header, plaintext) -> sealed
Unseal: TypeAlias = Callable[[EpochId, bytes, bytes], bytes]  # (epoch, header, sealed) -> plaintext


class Write(msgspec.Struct, frozen=True):
    """One record's share of an operation. `based_on` is its vector without the own dot."""

    kind: Kind
    key: bytes
    hlc: int
    based_on: dict[ReplicaId, int]
    refs: tuple[ChunkId, ...]
    body: Body | None  # None where this replica has no key to read it


class Operation(msgspec.Struct, frozen=True):
    """A decoded operation. All its writes share the dot (`replica`, `seq`)."""

    id: OperationId
    replica: ReplicaId
    seq: int
    epoch: EpochId
    writes: tuple[Write, ...]
    envelope: bytes  # exactly as signed
    seen: tuple[tuple[ReplicaId, int], ...] = ()

    @property
    def claims(self) -> dict[ReplicaId, int]:
        """The highest number of each other author that it says to know."""
        return join((*(write.based_on for write in self.writes), dict(self.seen)))

    def head(self, write: Write) -> AnyHead:
        """The write as the record keeps it."""
        vector = {**write.based_on, self.replica: self.seq}
        fields = (self.replica, self.seq, write.hlc, vector, write.refs, write.body, self.id)
        return cast(AnyHead, Head(*fields))


class HeaderWrite(msgspec.Struct, array_like=True, frozen=True):
    """The clear part of one write; `vector` is sorted and omits the author's own entry."""

    kind: Kind
    key: bytes
    hlc: int
    vector: tuple[tuple[ReplicaId, int], ...]
    refs: tuple[ChunkId, ...]


class Header(msgspec.Struct, array_like=True, frozen=True):
    """The clear part of an operation."""

    format: int
    replica: ReplicaId
    seq: int
    epoch: EpochId
    writes: tuple[HeaderWrite, ...]
    seen: tuple[tuple[ReplicaId, int], ...] = ()  # by bodies, beyond the writes' vectors; sorted

    @property
    def refs(self) -> tuple[ChunkId, ...]:
        """The chunks that the operation refers to."""
        return tuple(chunk for write in self.writes for chunk in write.refs)

    @property
    def claims(self) -> dict[ReplicaId, int]:
        """The highest number of each other author that the operation says to know."""
        return join((*(dict(row.vector) for row in self.writes), dict(self.seen)))


class Envelope(msgspec.Struct, array_like=True, frozen=True):
    """The signed unit as bytes."""

    header: bytes
    sealed: bytes
    signature: bytes

    def encode(self) -> bytes:
        """The envelope as it travels."""
        return _encode(self)

    @property
    def id(self) -> OperationId:
        length = len(self.header).to_bytes(4, "big")
        return OperationId(blake3(length + self.header + self.sealed).digest())


_encode = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(Header).decode
_decode_envelope = msgspec.msgpack.Decoder(Envelope).decode
_decode_bodies = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_body = {kind: msgspec.msgpack.Decoder(body).decode for kind, body in BODY_TYPES.items()}


def signed_bytes(volume: VolumeId, operation: OperationId) -> bytes:
    return SIGNATURE_CONTEXT + volume + operation


def encode(
    replica: ReplicaId, seq: int, epoch: EpochId, writes: tuple[Write, ...], seal: Seal
) -> Envelope:
    """Encode a local operation; the signature is left empty for the caller to fill in."""
    assert 0 < len(writes) <= limits.OPERATION_WRITES_MAX
    rows = tuple(
        HeaderWrite(
            write.kind,
            write.key,
            write.hlc,
            tuple(sorted((r, s) for r, s in write.based_on.items() if r != replica)),
            write.refs,
        )
        for write in writes
    )
    header = _encode(Header(FORMAT, replica, seq, epoch, rows, _seen(replica, writes)))
    sealed = seal(header, _encode([write.body for write in writes]))
    return Envelope(header, sealed, b"")


def _seen(replica: ReplicaId, writes: tuple[Write, ...]) -> tuple[tuple[ReplicaId, int], ...]:
    """What bodies say to have seen of others, where it goes beyond the writes' vectors."""
    known = join(write.based_on for write in writes)
    seen = join(vector for write in writes for vector in _vectors_in(write.body))
    return tuple(sorted((r, s) for r, s in seen.items() if r != replica and s > known.get(r, 0)))


def _vectors_in(body: Body | None) -> Iterable[Mapping[ReplicaId, int]]:
    if isinstance(body, LinkBody):
        return (body.content_seen,)
    return body.links_seen.values() if isinstance(body, ContentBody) else ()


def decode_envelope(raw: bytes) -> Envelope:
    """Take an envelope apart without trusting it. Raises PeerError."""
    if len(raw) > limits.OPERATION_BYTES_MAX:
        raise PeerError(f"operation of {len(raw)} bytes is over {limits.OPERATION_BYTES_MAX}")
    try:
        return _decode_envelope(raw)
    except MALFORMED as error:
        raise PeerError(f"operation envelope does not decode: {error}") from error


def decode(raw: bytes, unseal: Unseal | None) -> Operation:
    """Decode and check everything that can be checked without state. Raises PeerError.

    The signature is not checked here, since that is dear and may run in a worker thread. With
    `unseal` None (a replica without keys) the bodies stay None.
    """
    envelope = decode_envelope(raw)
    header = _open_header(envelope)
    bodies: list[Body | None] = [None] * len(header.writes)
    if unseal is not None:
        bodies = _open_bodies(header, unseal(header.epoch, envelope.header, envelope.sealed))
    writes = tuple(
        Write(row.kind, row.key, row.hlc, dict(row.vector), row.refs, body)
        for row, body in zip(header.writes, bodies, strict=True)
    )
    return Operation(
        envelope.id, header.replica, header.seq, header.epoch, writes, raw, header.seen
    )


def latest_stamp(operation: Operation) -> int:
    """The latest moment that anything in an operation is dated at and ordered by."""
    found = [write.hlc for write in operation.writes]
    for body in (write.body for write in operation.writes):
        if isinstance(body, LinkBody):
            found += [body.moved.hlc, *(place.moved.hlc for place in body.previous)]
        elif isinstance(body, AttributesBody):
            fields = (body.mode, body.owner, body.group, body.times)
            found += [field.stamp.hlc for field in fields if field is not None]
    return min(max(found), limits.SEQ_MAX)


def decode_header(raw: bytes) -> Header:
    """The clear part of an operation, checked. Raises PeerError."""
    return _open_header(decode_envelope(raw))


def header_of(envelope: Envelope) -> Header:
    """The clear part of an operation that was checked before it was kept."""
    return _decode_header(envelope.header)


def _open_header(envelope: Envelope) -> Header:
    try:
        header = _decode_header(envelope.header)
    except MALFORMED as error:
        raise PeerError(f"operation header does not decode: {error}") from error
    _check_header(header)
    return header


def _open_bodies(header: Header, plain: bytes) -> list[Body | None]:
    try:
        raws = _decode_bodies(plain)
        if len(raws) != len(header.writes):
            raise PeerError("operation holds another number of bodies than its header says")
        bodies: list[Body | None] = [
            _decode_body[row.kind](raw) for row, raw in zip(header.writes, raws, strict=True)
        ]
    except MALFORMED as error:
        raise PeerError(f"operation bodies do not decode: {error}") from error
    for row, body in zip(header.writes, bodies, strict=True):
        assert body is not None
        _CHECKS[row.kind](row, body)
    _check_seen(header, bodies)
    return bodies


def _require(condition: bool, rule: str) -> None:  # noqa: FBT001
    if not condition:
        raise PeerError(f"operation breaks a rule: {rule}")


def _check_header(header: Header) -> None:
    _require(header.format == FORMAT, f"its format is {FORMAT}")
    _require(len(header.replica) == INODE_ID_SIZE, "a replica id has 16 bytes")
    _require(0 < header.seq <= limits.SEQ_MAX, "a sequence number lies in 1..2^63-1")
    _require(0 < len(header.writes) <= limits.OPERATION_WRITES_MAX, "it holds 1 to 256 writes")
    seen = {(row.kind, row.key) for row in header.writes}
    _require(len(seen) == len(header.writes), "it writes each record once")
    _check_vector(header, header.seen)
    for row in header.writes:
        _check_vector(header, row.vector)
        _require(0 <= row.hlc <= limits.SEQ_MAX, "a time stamp lies in 0..2^63-1")
        _require(len(row.key) == INODE_ID_SIZE, "a record key has 16 bytes")
        _require(all(len(ref) == CHUNK_ID_SIZE for ref in row.refs), "a chunk id has 32 bytes")


def _check_seen(header: Header, bodies: Iterable[Body | None]) -> None:
    claims = header.claims
    seen = join(vector for body in bodies for vector in _vectors_in(body))
    _require(
        all(s <= claims.get(r, 0) for r, s in seen.items() if r != header.replica),
        "what a removal has seen stands in the clear",
    )


def _check_vector(header: Header, vector: tuple[tuple[ReplicaId, int], ...]) -> None:
    _require(len(vector) <= limits.VECTOR_ENTRIES_MAX, "a vector has at most 4096 entries")
    replicas = [replica for replica, _ in vector]
    _require(replicas == sorted(set(replicas)), "a vector is sorted and names a replica once")
    _require(header.replica not in replicas, "a vector leaves out the author's own entry")
    _require(
        all(len(r) == INODE_ID_SIZE and 0 < s <= limits.SEQ_MAX for r, s in vector),
        "a vector's entries are replica ids with positive numbers",
    )


def check_name(name: bytes) -> None:
    """Refuse what no directory may hold. Raises PeerError."""
    _require(0 < len(name) <= limits.NAME_BYTES_MAX, "a name has 1 to 255 bytes")
    _require(name not in {b".", b".."} and b"/" not in name and b"\0" not in name, "legal name")


def _check_link(row: HeaderWrite, body: Body) -> None:
    assert isinstance(body, LinkBody)
    check_name(body.name)
    for inode in (body.parent, *(place.parent for place in body.previous)):
        _require(len(inode) == INODE_ID_SIZE and inode[0] == DIRECTORY, "a parent is a directory")
    _require(len(body.target) == INODE_ID_SIZE and body.target[0] in TYPES, "a legal inode type")
    _require(len(body.previous) <= limits.PREVIOUS_PARENTS_MAX, "at most two earlier parents")
    _require(body.target not in VIRTUAL, "virtual directories are no targets")
    is_directory = body.target[0] == DIRECTORY
    _require(is_directory == (row.key == body.target), "a directory's link id is its inode id")
    _require(is_directory == (body.birth is not None), "directories, and they alone, have a birth")


def _check_content(row: HeaderWrite, body: Body) -> None:
    assert isinstance(body, ContentBody)
    _require(row.key[0] in TYPES and row.key[0] != DIRECTORY, "directories have no content")
    _require(0 <= body.size <= limits.FILE_BYTES_MAX, "a size lies in 0..2^63-1")
    _require(len(body.target) <= limits.SYMLINK_BYTES_MAX, "a symlink has at most 4095 bytes")
    _require(0 <= body.height <= limits.MANIFEST_HEIGHT_MAX, "a manifest tree is at most 8 high")
    _require(0 not in body.lengths, "an extent is not empty")
    chunks = sum(1 for length in body.lengths if length > 0)
    _require(chunks == len(row.refs), "a manifest has one chunk id for each extent with data")
    _require(sum(map(abs, body.lengths)) == body.size, "a manifest's lengths add up to the size")
    _require(
        len(body.directories) <= limits.CHANGED_DIRECTORIES_MAX
        and all(len(i) == INODE_ID_SIZE and i[0] == DIRECTORY for i in body.directories),
        "at most 64 directories hold a file's names",
    )


def _check_xattr(row: HeaderWrite, body: Body) -> None:
    assert isinstance(body, XattrBody)
    _require(len(body.inode) == INODE_ID_SIZE and body.inode[0] in TYPES, "a legal inode type")
    _require(0 < len(body.name) <= limits.XATTR_NAME_BYTES_MAX, "an xattr name has 1..255 bytes")
    value = body.value or b""
    _require(len(value) <= limits.XATTR_VALUE_BYTES_MAX, "an xattr value has at most 64 KiB")
    _require(row.key == xattr_key(body.inode, body.name), "an xattr's key is made of its name")


def _check_attributes(row: HeaderWrite, body: Body) -> None:
    del body
    _require(row.key[0] in TYPES, "a legal inode type")


_CHECKS: Final[dict[Kind, Callable[[HeaderWrite, Body], None]]] = {
    Kind.LINK: _check_link,
    Kind.CONTENT: _check_content,
    Kind.ATTRIBUTES: _check_attributes,
    Kind.XATTR: _check_xattr,
}
