"""Operations that a member signs and no honest replica would write."""

from collections.abc import Mapping

from piperfs.core import operation as operations
from piperfs.core.ids import FILE, InodeId, LinkId, ReplicaId, make_inode_id
from piperfs.core.operation import Envelope, Operation, Write, signed_bytes
from piperfs.core.record import Birth, ContentBody, Kind, LinkBody, Stamp
from piperfs.daemon.node import Node


def signed(
    node: Node, writes: tuple[Write, ...], seq: int, author: ReplicaId | None = None
) -> bytes:
    """An operation with the signature of a node, in its own or another name."""
    keyring = node.keyring
    envelope = operations.encode(
        author or node.store.replica, seq, keyring.epoch, writes, keyring.seal_bodies
    )
    signature = node.identity.sign(signed_bytes(node.store.volume, envelope.id))
    return Envelope(envelope.header, envelope.sealed, signature).encode()


def version(node: Node, inode: InodeId, text: bytes, known: Mapping[ReplicaId, int]) -> Write:
    """A version of a small file that claims to know others; its text stands in the record."""
    hlc = node.clock.now_ns()
    body = ContentBody(True, 0, hlc, birth_by(node), target=text)
    return Write(Kind.CONTENT, inode, hlc, dict(known), (), body)


def file_called(
    node: Node, entropy: bytes, name: bytes, hlc: int, parent: InodeId | None = None
) -> tuple[Write, ...]:
    """A new empty file."""
    inode = make_inode_id(FILE, entropy[:15])
    stamp = Stamp(hlc, node.store.replica)
    link = LinkBody(True, parent or node.store.root, name, inode, stamp)
    content = ContentBody(True, 0, hlc, birth_by(node))
    return (
        Write(Kind.LINK, LinkId(entropy[15:31]), hlc, {}, (), link),
        Write(Kind.CONTENT, inode, hlc, {}, (), content),
    )


def birth_by(node: Node) -> Birth:
    return Birth(0o644, "root", "root", node.store.replica)


def directory(node: Node, inode: InodeId, parent: InodeId, name: bytes) -> Write:
    """A new directory, wherever its parent is."""
    hlc = node.clock.now_ns()
    stamp = Stamp(hlc, node.store.replica)
    body = LinkBody(True, parent, name, inode, stamp, birth=birth_by(node))
    return Write(Kind.LINK, LinkId(inode), hlc, {}, (), body)


def opened(node: Node, raw: bytes) -> Operation:
    """A signed operation as a replica takes it in."""
    return operations.decode(raw, node.keyring.unseal_bodies)
