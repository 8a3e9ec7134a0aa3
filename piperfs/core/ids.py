"""Identifiers: distinct types, so that a link can never be mistaken for an inode.

All of them are plain bytes of a fixed length, cheap to hash, to compare and to use as keys.
An inode id begins with its type letter: an object's type is part of its name, so no merge can
ever turn a file into a directory.
"""

import base64
from typing import Final, NewType

InodeId = NewType("InodeId", bytes)  # 16 bytes: type letter + 15 random bytes
LinkId = NewType("LinkId", bytes)  # 16 bytes; a directory's link id is its inode id
ReplicaId = NewType("ReplicaId", bytes)  # 16 bytes: hash of the replica's public key
VolumeId = NewType("VolumeId", bytes)  # 32 bytes: hash of the genesis record
ChunkId = NewType("ChunkId", bytes)  # 32 bytes: BLAKE3 of the sealed bytes
OperationId = NewType("OperationId", bytes)  # 32 bytes: BLAKE3 of header and sealed bodies
EpochId = NewType("EpochId", bytes)  # 16 bytes: hash of the record that made the key
StoreId = NewType("StoreId", bytes)  # 16 random bytes, new for every fresh store

INODE_ID_SIZE: Final = 16
CHUNK_ID_SIZE: Final = 32

DIRECTORY: Final = 0x64  # ord("d")
FILE: Final = 0x66  # ord("f")
SYMLINK: Final = 0x6C  # ord("l")
TYPES: Final = frozenset((DIRECTORY, FILE, SYMLINK))

ROOT_PARENT: Final = InodeId(b"d" + b"\x00" * 15)  # parent of the root; never an inode itself
ORPHANS: Final = InodeId(b"d" + b"\xff" * 15)  # virtual directory that holds parentless links
HIDDEN: Final = InodeId(b"d" + b"\xfe" * 15)  # virtual directory `/.piperfs`, which holds that


def make_inode_id(type_letter: int, entropy: bytes) -> InodeId:
    """Build an inode id from a type letter and 15 bytes of entropy."""
    assert type_letter in TYPES
    assert len(entropy) == INODE_ID_SIZE - 1
    return InodeId(bytes((type_letter,)) + entropy)


def root_of(volume: VolumeId) -> InodeId:
    """The root directory's id: derived, so that every member agrees without being told."""
    return InodeId(b"d" + volume[:15])


def is_directory(inode: bytes) -> bool:
    return inode[0] == DIRECTORY


def is_file(inode: bytes) -> bool:
    return inode[0] == FILE


def is_symlink(inode: bytes) -> bool:
    return inode[0] == SYMLINK


def short(identifier: bytes) -> str:
    """Six base32 letters that a person can compare; used in conflict names and logs."""
    return base64.b32encode(identifier[:4]).decode("ascii").lower()[:6]
