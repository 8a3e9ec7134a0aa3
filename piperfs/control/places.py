"""Where things are on this computer: state directories, control sockets, running daemons.

The command line must find a daemon without importing what the daemon needs, so this module is
plain standard library. A socket is named after the path of the state directory, not after the
volume: one computer may hold several replicas of one volume, and each has a daemon of its own.
"""

import contextlib
import hashlib
import json
import os
import socket
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from piperfs.core.errors import ExitCode, UserError

RUNTIME_VARIABLE: Final = "PIPERFS_RUNTIME_DIR"
SPEC_PREFIXES: Final = ("piperfs#", "piperfs:")
SYMLINKS_MAX: Final = 40  # as in the kernel
SOCKET_PATH_BYTES_MAX: Final = 100  # Linux allows 107; the name behind a descriptor is short


@dataclass(frozen=True, slots=True)
class Running:
    """What a daemon writes down about itself, so that commands find it by its mount point."""

    pid: int
    state: str
    mountpoint: str | None
    device: str | None = None  # of the mount, as "major:minor"

    @property
    def is_dead(self) -> bool:
        """Whether the process ended for certain; where that cannot be seen it lives.

        Killed in a bad moment, it has ended though threads of it hang in the kernel. Only a /proc
        of our own process namespace tells that.
        """
        try:
            os.close(os.pidfd_open(self.pid))
        except ProcessLookupError:
            return True
        try:
            if os.readlink("/proc/self") != str(os.getpid()):
                return False
            facts = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False
        return facts.rpartition(")")[2].split()[0] in ("Z", "X")


def state_root() -> Path:
    """The directory below which a bare volume name is looked up. Raises UserError."""
    given = _directory_in("XDG_DATA_HOME")
    if given is None and os.geteuid() == 0:
        return Path("/var/lib/piperfs")
    return (given or _expanded("~") / ".local/share") / "piperfs"


def _directory_in(variable: str) -> Path | None:
    """The directory that the environment names; what is empty or relative is as good as unset."""
    given = os.environ.get(variable, "")
    return Path(given) if os.path.isabs(given) else None


def _expanded(path: str) -> Path:
    """A path with its ~ or ~USER replaced. Raises UserError."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{path}: no home directory is known; give a path that begins with /, or set HOME",
            ExitCode.NOT_FOUND,
        ) from None


def resolve_volume(spec: str) -> Path:
    """Turn what a person typed into the path of a state directory, which need not exist.

    Raises:
        UserError: the text is empty, or needs a home directory and there is none.
    """
    for prefix in SPEC_PREFIXES:
        spec = spec.removeprefix(prefix)
    if not spec:
        raise UserError("the volume's name is empty; give a name or a path", ExitCode.USAGE)
    if _is_path(spec):
        return Path(os.path.realpath(_expanded(spec)))
    return Path(os.path.realpath(state_root() / spec))


def _is_path(spec: str) -> bool:
    return "/" in spec or spec in (".", "..")


def runtime_directory() -> Path:
    """The directory of the control sockets, which need not exist.

    A command must find the daemon that cron, a service manager or another login started. So root
    has one place however it came in, and a user without a session looks where a session would.
    """
    if (own := _directory_in(RUNTIME_VARIABLE)) is not None:
        return own
    uid, given = os.geteuid(), _directory_in("XDG_RUNTIME_DIR")
    login = Path(f"/run/user/{uid}")
    if uid == 0 and given in (None, login):
        return Path("/run/piperfs")
    if given is not None:
        return given / "piperfs"
    return login / "piperfs" if login.is_dir() else Path(f"/tmp/piperfs-{uid}")


def _directories() -> list[Path]:
    """Where daemons may have their sockets: ours, and for root those of mounts with `runas=`."""
    own = runtime_directory()
    others = _found_in(own.parent, f"{own.name}-*") if os.geteuid() == 0 else []
    return [own, *others]


def _found_in(directory: Path, pattern: str) -> list[Path]:
    """What lies in a directory; nothing of ours, if it may not be entered."""
    try:
        return sorted(directory.glob(pattern))
    except OSError:
        return []


def make_private(directory: Path) -> None:
    """Make a directory that its owner alone may enter, if it is not there. Raises UserError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{directory}: cannot make it: {error.strerror}; set XDG_RUNTIME_DIR to a directory "
            "that only you may enter, or unset it",
            ExitCode.REFUSED if isinstance(error, PermissionError) else ExitCode.FAILED,
        ) from error


def prepare_runtime_directory() -> Path:
    """Make the directory of the control sockets, for its owner alone.

    Raises:
        UserError: it cannot be made, belongs to somebody else, or others may enter it.
    """
    directory = runtime_directory()
    make_private(directory)
    facts = directory.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise UserError(
            f"{directory} must be a directory that only you may enter (mode 0700); remove it",
            ExitCode.REFUSED,
        )
    return directory


def socket_path(state: Path) -> Path:
    """The control socket of the daemon that runs on a state directory."""
    return runtime_directory() / f"{_tag(state)}.sock"


def home_socket(state: Path) -> Path:
    """The same daemon's socket in the state directory, which no logout takes away."""
    return state / "control.sock"


def _note_in(directory: Path, state: Path) -> Path:
    return directory / f"{_tag(state)}.json"


def _tag(state: Path) -> str:
    return hashlib.blake2s(os.fsencode(os.path.realpath(state)), digest_size=8).hexdigest()


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name for a socket that fits into an address however deep its directory is."""
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def connect(state: Path) -> socket.socket | None:
    """Connect to the daemon of a state directory; None when there is none.

    A directory that may not be entered is somebody else's, and says nothing about ours.

    Raises:
        UserError: there is one, and it may not be asked.
    """
    home = home_socket(state)
    for path in (*(each / f"{_tag(state)}.sock" for each in _directories()), home):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_path(path) as name:
                client.connect(name)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            client.close()
        except OSError as error:
            client.close()
            if isinstance(error, PermissionError) and path != home:
                continue
            raise UserError(f"{path}: {error.strerror}", ExitCode.REFUSED) from error
        else:
            return client
    return None


def write_running(running: Running) -> Path:
    """Write down that a daemon runs; the returned file is removed when it ends."""
    path = _note_in(prepare_runtime_directory(), Path(running.state))
    draft = path.with_suffix(f".{running.pid}")
    draft.write_text(json.dumps(asdict(running)))
    draft.replace(path)
    return path


def keep_running(running: Running) -> None:
    """Write it down again if it went."""
    if not _note_in(runtime_directory(), Path(running.state)).exists():
        write_running(running)


def forget_running(state: Path) -> None:
    """A daemon begins where another one may have been killed."""
    _note_in(runtime_directory(), state).unlink(missing_ok=True)


def find_running(state: Path) -> Running | None:
    """The daemon that runs on a state directory, if one does."""
    found = (_read_running(_note_in(each, state)) for each in _directories())
    return next((running for running in found if running is not None), None)


def find_mounted(mountpoint: Path) -> Running | None:
    """The daemon that last said it was mounted at a directory; a dead one if none is alive."""
    return _mounted_at(str(mountpoint), _all_mounted())


def _mounted_at(mountpoint: str, said: Iterable[Running]) -> Running | None:
    found = [running for running in said if running.mountpoint == mountpoint]
    return min(found, key=lambda running: running.is_dead, default=None)


def _all_mounted() -> list[Running]:
    paths = (path for each in _directories() for path in _found_in(each, "*.json"))
    said = (_read_running(path) for path in paths)
    return [running for running in said if running is not None and running.mountpoint is not None]


def find_mounted_above(path: str | Path) -> Running | None:
    """The daemon at whose mount point a path is, or below it; symlinks may lead there."""
    said = _all_mounted()
    full = Path(_walk(os.fspath(path), {str(running.mountpoint) for running in said}))
    found = (_mounted_at(str(each), said) for each in (full, *full.parents))
    return next((running for running in found if running is not None), None)


def real_path(path: str) -> str:
    """An absolute path without symlinks, but for those in mounts. Raises UserError."""
    return _walk(path, {str(running.mountpoint) for running in _all_mounted()})


def _walk(path: str, mountpoints: Collection[str]) -> str:
    """Follow symlinks as the kernel does, but look at nothing in a mount, which may hang."""
    whole = path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
    waiting, current, links = whole.split("/")[::-1], "/", 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            current = os.path.dirname(current)
        elif part not in ("", "."):
            is_ours = any(current == each or current.startswith(each + "/") for each in mountpoints)
            step = os.path.join(current, part)
            target = None if is_ours else _read_link(step)
            links += target is not None
            current = step if target is None else "/" if target.startswith("/") else current
            waiting += (target or "").split("/")[::-1]
        if links > SYMLINKS_MAX:
            raise UserError(f"{path}: too many symbolic links lead there", ExitCode.NOT_FOUND)
    return current


def _read_link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def find_volume(spec: str) -> Path:
    """The state directory that a person means: by name, by its path, or by a place in its mount.

    Raises:
        UserError: the text is empty, or needs a home directory and there is none.
    """
    running = find_mounted_above(_expanded(spec)) if _is_path(spec) else None
    return resolve_volume(spec) if running is None else Path(running.state)


def _read_running(path: Path) -> Running | None:
    try:
        return Running(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
