"""Notifications over the descriptor; each write may block, so a thread of its own sends them."""

import os

from piperfs.fuse.kernel import encoding


class Notifier:
    """The notifications of one mount.

    A duplicate of the descriptor would share its non-blocking flag, which is right: the kernel
    blocks on its own locks, not on the descriptor.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def forget_attributes(self, ino: int) -> None:
        os.write(self._descriptor, encoding.encode_inval_inode(ino, -1, 0))

    def forget_data(self, ino: int) -> None:
        os.write(self._descriptor, encoding.encode_inval_inode(ino, 0, 0))

    def forget_name(self, parent: int, name: bytes) -> None:
        os.write(self._descriptor, encoding.encode_inval_entry(parent, name))
