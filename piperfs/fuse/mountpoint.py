"""Attaching to a directory and letting go of it, whichever adapter serves it.

mount(2) and umount2(2) are called directly as root; anybody else goes through the setuid helper
fusermount3. A daemon that died leaves a mount point on which every call fails with ENOTCONN: it
is recognised and detached before a new mount, so that a restart needs no help from a person.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from piperfs.core.errors import ExitCode, UserError
from piperfs.fuse import utab

FS_TYPE: Final = "fuse.piperfs"
SOURCE_PREFIX: Final = "piperfs:"

SAFE: Final = ("nosuid", "nodev")  # only root may do without
READAHEAD_KIB: Final = 1024
CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
MOUNT_FLAGS: Final = {
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "nosymfollow": 256,
    "noatime": 1024,
    "nodiratime": 2048,
    "relatime": 1 << 21,
    "strictatime": 1 << 24,
}


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How a mount looks to the kernel. Permissions are always checked by the kernel itself."""

    label: str
    read_only: bool = False
    allow_other: bool = False
    words: tuple[str, ...] = ("nosuid", "nodev")  # generic words of mount(8)
    owner: tuple[int, int] | None = None  # whose daemon serves it, of a mount made by root

    @property
    def source(self) -> str:
        return SOURCE_PREFIX + self.label

    @property
    def kernel_words(self) -> tuple[str, ...]:
        words = self.words if os.geteuid() == 0 else (*self.words, *SAFE)
        words = (*words, "noatime") if not _names_atime(words) else words
        return ("ro", *words) if self.read_only else words


def _names_atime(words: tuple[str, ...]) -> bool:
    return any(word.endswith("atime") for word in words)


def attach(mountpoint: Path, options: MountOptions) -> int:
    """Mount and return the descriptor to serve. `/dev/fd/N` names one mounted by somebody else.

    Raises:
        UserError: the mount point cannot be used; the text says why.
    """
    if (given := given_descriptor(mountpoint)) is not None:
        return given
    check_mountpoint(mountpoint)
    return _attach_as_root(mountpoint, options) if os.geteuid() == 0 else _attach_by_helper(
        mountpoint, options
    )  # fmt: skip


def given_descriptor(mountpoint: Path) -> int | None:
    """The number in `/dev/fd/N`, or None for an ordinary path."""
    parent, number = os.path.split(os.fspath(mountpoint))
    return int(number) if parent == "/dev/fd" and number.isdigit() else None


def check_mountpoint(mountpoint: Path) -> None:
    """Detach what a dead daemon left, and refuse what cannot be mounted on."""
    while not is_automount(mountpoint) and is_stale(mountpoint):
        free(mountpoint)
    if is_automount(mountpoint):
        return  # a look into it would wait for the very mount that we are about to make
    try:
        entries = os.listdir(mountpoint)
    except FileNotFoundError:
        raise UserError(
            f"mount point '{mountpoint}' does not exist; create the directory first",
            ExitCode.NOT_FOUND,
        ) from None
    except NotADirectoryError:
        raise UserError(
            f"mount point '{mountpoint}' is not a directory", ExitCode.REFUSED
        ) from None
    except PermissionError:
        raise UserError(
            f"mount point '{mountpoint}' may not be read by you", ExitCode.REFUSED
        ) from None
    if find_mount(mountpoint) is not None:
        raise UserError(f"'{mountpoint}' has a PiperFS volume mounted already", ExitCode.REFUSED)
    if entries:
        raise UserError(
            f"mount point '{mountpoint}' is not empty; choose an empty directory", ExitCode.REFUSED
        )


def is_automount(mountpoint: Path) -> bool:
    """Whether the kernel waits here for somebody to mount something."""
    return _kinds_at(mountpoint)[-1:] == ["autofs"]


def covers_automount(mountpoint: Path) -> bool:
    """Whether something is mounted here, and would be again if it were detached."""
    kinds = _kinds_at(mountpoint)
    return "autofs" in kinds[:-1] and kinds[-1] != "autofs"


def _kinds_at(mountpoint: Path) -> list[str]:
    """Types of all file systems that are mounted here, the one that shows last."""
    wanted = os.path.abspath(mountpoint)
    return [each.fs_type for each in mounts() if each.point == wanted]


def is_stale(mountpoint: Path) -> bool:
    """Whether a mount hangs here that nobody serves any more.

    The question must reach the daemon: attributes are answered from the kernel's cache long after.
    """
    try:
        os.statvfs(mountpoint)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


class Mount(NamedTuple):
    """One line of the kernel's list of mounts."""

    point: str
    device: str  # "major:minor"
    fs_type: str
    source: str


def find_mount(mountpoint: Path) -> Mount | None:
    """The PiperFS mount that hangs exactly here, found without looking at the mount itself."""
    absolute = os.path.abspath(mountpoint)
    parent, name = os.path.split(absolute)
    wanted = os.path.join(os.path.realpath(parent), name)
    found = [each for each in mounts() if each.point == wanted and each.fs_type == FS_TYPE]
    return found[-1] if found else None


def mounts() -> list[Mount]:
    """Every mount that this process sees, in the order of mounting."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        fields = before.split(b" ")
        fs_type, source = after.split(b" ")[:2]
        words = (_unescape(fields[4]), fields[2], fs_type, _unescape(source))
        found.append(Mount(*map(os.fsdecode, words)))
    return found


def _unescape(field: bytes) -> bytes:
    """Undo the octal escapes with which the kernel writes blanks in paths."""
    for char in b" \t\n\\":
        field = field.replace(b"\\%03o" % char, bytes((char,)))
    return field


def detach(mountpoint: Path, *, lazily: bool = True) -> None:
    """Unmount. Lazily, processes that still use the mount keep what they have open.

    Raises:
        UserError: the kernel refuses, normally since the mount is in use.
    """
    if os.geteuid() == 0:
        code = _libc().umount2(os.fsencode(mountpoint), MNT_DETACH if lazily else 0)
        reason = os.strerror(ctypes.get_errno()) if code else ""
    else:
        command = [_fusermount(), "-u", *(["-z"] if lazily else []), "--", os.fspath(mountpoint)]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False
        )
        reason = done.stderr.strip() if done.returncode else ""
    if reason:
        raise UserError(f"cannot unmount '{mountpoint}': {reason}")


def abort(mountpoint: Path) -> None:
    """End the connection of the mount here: everybody who waits for it gets an error."""
    mount = find_mount(mountpoint)
    if mount is None:
        return
    minor = mount.device.partition(":")[2]
    with contextlib.suppress(OSError):
        (CONNECTIONS / minor / "abort").write_text("1")
        return
    _libc().umount2(os.fsencode(mountpoint), MNT_FORCE)  # says busy, and does it


def free(mountpoint: Path) -> None:
    """Detach a mount that nobody serves any more.

    The connection ends first: a mount that is only detached lives on for those who use it, who wait
    for ever, and so does every sync(2) of the computer if one of them has written something.
    """
    abort(mountpoint)
    if find_mount(mountpoint) is not None:  # force may have sufficed
        detach(mountpoint)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _open_device() -> int:
    try:
        return os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UserError("/dev/fuse is missing; load it with 'modprobe fuse'") from None
    except PermissionError:
        raise UserError("/dev/fuse may not be opened by you", ExitCode.REFUSED) from None


def _attach_as_root(mountpoint: Path, options: MountOptions) -> int:
    descriptor = _open_device()
    flags = 0
    for word in options.kernel_words:
        flags |= MOUNT_FLAGS[word]
    uid, gid = options.owner or (os.getuid(), os.getgid())
    data = (f"fd={descriptor},rootmode=40000,user_id={uid},group_id={gid},default_permissions") + (
        ",allow_other" if options.allow_other else ""
    )
    failed = _libc().mount(
        options.source.encode(), os.fsencode(mountpoint), FS_TYPE.encode(), flags, data.encode()
    )
    if failed:
        reason = os.strerror(ctypes.get_errno())
        os.close(descriptor)
        raise UserError(f"cannot mount on '{mountpoint}': {reason}")
    utab.name_helper(options.source, mountpoint, FS_TYPE)
    return descriptor


def _attach_by_helper(mountpoint: Path, options: MountOptions) -> int:
    words = [
        f"fsname={options.source}", "subtype=piperfs", "default_permissions", *options.kernel_words,
        *(["allow_other"] if options.allow_other else []),
    ]  # fmt: skip
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = subprocess.run(
            [_fusermount(), "-o", ",".join(words), "--", os.fspath(mountpoint)],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        theirs.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if done.returncode or not descriptors:
        raise UserError(f"cannot mount on '{mountpoint}': {done.stderr.strip()}")
    os.set_inheritable(descriptors[0], False)  # noqa: FBT003 - the signature of os
    return descriptors[0]


def _fusermount() -> str:
    found = shutil.which("fusermount3") or shutil.which("fusermount")
    if found is None:
        raise UserError("fusermount3 is missing; install the package fuse3")
    return found


def raise_readahead(mountpoint: Path, kibibytes: int) -> None:
    """Let buffered reads ask for as much at once as a request can carry; only root may.

    The list of mounts is asked for the device: a stat of the mount would wait for ourselves.
    """
    mount = find_mount(mountpoint)
    if mount is None:
        return
    try:
        Path(f"/sys/class/bdi/{mount.device}/read_ahead_kb").write_text(str(kibibytes))
    except OSError:
        return  # slower by a third, and no more than that
