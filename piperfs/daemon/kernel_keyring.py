"""The kernel's keyring, which holds an unlocked key for as long as its user is logged in.

A passphrase is asked for once; restarts of the daemon find the key here until `piperfs lock`, or
until the computer is switched off. Other users cannot read it, and it is never on a disk.
"""

import ctypes
import errno
import platform
from typing import Final

USER_KEYRING: Final = -4
SESSION_KEYRING: Final = -3
KEYCTL_SETPERM: Final = 5
KEYCTL_LINK: Final = 8
KEYCTL_UNLINK: Final = 9
KEYCTL_SEARCH: Final = 10
KEYCTL_READ: Final = 11
OWNER_READS: Final = 0x3F0B0000  # the possessor may do all; the same user view, read and search
SYSCALLS: Final = {"x86_64": (248, 250), "aarch64": (217, 219), "riscv64": (217, 219)}
SECRET_BYTES_MAX: Final = 256


def keep(name: str, secret: bytes) -> bool:
    """Keep a secret under a name; tells whether this kernel can."""
    numbers = SYSCALLS.get(platform.machine())
    if numbers is None:
        return False
    _call(numbers[1], KEYCTL_LINK, USER_KEYRING, SESSION_KEYRING)
    label = name.encode()
    key = _call(numbers[0], b"user", label, secret, ctypes.c_size_t(len(secret)), USER_KEYRING)
    return key >= 0 and _call(numbers[1], KEYCTL_SETPERM, key, OWNER_READS) >= 0


def find(name: str) -> bytes | None:
    """The secret that is kept under a name."""
    numbers = SYSCALLS.get(platform.machine())
    if numbers is None:
        return None
    key = _search(numbers[1], name)
    if key < 0:
        return None
    buffer = ctypes.create_string_buffer(SECRET_BYTES_MAX)
    length = _call(numbers[1], KEYCTL_READ, key, buffer, ctypes.c_size_t(SECRET_BYTES_MAX))
    return buffer.raw[:length] if 0 <= length <= SECRET_BYTES_MAX else None


def forget(name: str) -> bool:
    """Drop a secret; tells whether there was one."""
    numbers = SYSCALLS.get(platform.machine())
    if numbers is None:
        return False
    key = _search(numbers[1], name)
    return key >= 0 and _call(numbers[1], KEYCTL_UNLINK, key, USER_KEYRING) >= 0


def _search(number: int, name: str) -> int:
    return _call(number, KEYCTL_SEARCH, USER_KEYRING, b"user", name.encode(), 0)


def _call(number: int, *arguments: object) -> int:
    """A system call; -errno if it fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result = int(libc.syscall(ctypes.c_long(number), *map(_as_long, arguments)))
    return result if result >= 0 else -(ctypes.get_errno() or errno.EINVAL)


def _as_long(value: object) -> object:
    return ctypes.c_long(value) if isinstance(value, int) else value
