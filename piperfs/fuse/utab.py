"""Tells umount(8) which helper unmounts a directory.

Called by root, umount(8) asks the kernel for the type, which is "fuse" for all of them, and looks
no further, unless the table of libmount says more of the directory. That table is written by
libmount itself, which locks it and knows its form; umount(8) removes the line.
"""

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Final

HELPER: Final = Path("/sbin/umount.piperfs")
OPTION: Final = b"uhelper=piperfs"


def name_helper(source: str, directory: Path, kind: str) -> None:
    """Note the helper of a fresh mount, if it is installed; without the note umount works too."""
    if not HELPER.exists():
        return
    with contextlib.suppress(OSError, AttributeError):  # no libmount, or not this one
        _write(os.fsencode(source), os.fsencode(os.path.abspath(directory)), kind.encode())


def _write(source: bytes, directory: bytes, kind: bytes) -> None:
    lib = ctypes.CDLL("libmount.so.1")
    for make in (lib.mnt_new_fs, lib.mnt_new_update):
        make.restype = ctypes.c_void_p
    fs, update = ctypes.c_void_p(lib.mnt_new_fs()), ctypes.c_void_p(lib.mnt_new_update())
    try:
        lib.mnt_fs_set_source(fs, source)
        lib.mnt_fs_set_target(fs, directory)
        lib.mnt_fs_set_fstype(fs, kind)
        lib.mnt_fs_set_root(fs, b"/")
        lib.mnt_fs_append_options(fs, OPTION)
        if lib.mnt_update_set_fs(update, ctypes.c_ulong(0), None, fs) == 0:
            lib.mnt_update_table(update, None)
    finally:
        lib.mnt_free_update(update)
        lib.mnt_unref_fs(fs)
