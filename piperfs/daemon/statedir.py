"""The state directory of a volume: made once, recognised ever after, used by one process.

A directory that is missing, empty, foreign, newer than this program or in use is told apart
with one clear line each, because the worst answer to an unmounted disk is to begin afresh: an
empty replica that believed itself complete would look like a deletion of everything.
"""

import fcntl
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from piperfs.core.errors import ExitCode, UserError
from piperfs.core.ids import VolumeId
from piperfs.daemon.durably import write_json
from piperfs.daemon.origin import write_origin
from piperfs.store.engine import DATA_FILE

FORMAT: Final = 1
VOLUME_FILE: Final = "volume.json"
LOCK_FILE: Final = "lock"


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """What volume.json says."""

    volume: VolumeId
    label: str
    is_blind: bool = False  # a member that stores for others and has no key to read


class StateDirectory:
    """A locked state directory; `close` releases it.

    `was_killed` tells that the process that had it last did not close it.
    """

    def __init__(self, path: Path, lock: int, *, was_killed: bool = False) -> None:
        self.path = path
        self.was_killed = was_killed
        self.is_blind = False
        self._lock = lock

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def store(self) -> Path:
        return self.path / "store"

    @property
    def log(self) -> Path:
        return self.path / "daemon.log"

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make an empty state directory and lock it; `publish` makes a volume of it.

        Raises:
            UserError: something is there already, or it cannot be made.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(entry.name != LOCK_FILE for entry in path.iterdir()):
                raise UserError(_occupied(path), ExitCode.REFUSED)
            path.chmod(0o700)
        except OSError as error:
            is_refused = isinstance(error, PermissionError)
            raise UserError(
                f"{path}: cannot make it: {error.strerror}",
                ExitCode.REFUSED if is_refused else ExitCode.FAILED,
            ) from error
        return cls._locked(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Lock an existing volume's directory.

        Raises:
            UserError: it is missing, empty, foreign, newer than this program, or in use.
        """
        is_blind = read_volume_file(path).is_blind
        directory = cls._locked(path)
        directory.is_blind = is_blind
        return directory

    @classmethod
    def _locked(cls, path: Path) -> Self:
        try:
            lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UserError(
                f"{path}: cannot write in it: {error.strerror}", ExitCode.REFUSED
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            raise UserError(
                f"{path} is in use by process {holder}; unmount it, or stop the process first",
                ExitCode.REFUSED,
            ) from error
        was_killed = os.fstat(lock).st_size > 0
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
        return cls(path, lock, was_killed=was_killed)

    def publish(self, volume: VolumeFile) -> None:
        """Write volume.json, last of all, durably: from now on this is a volume."""
        text = {
            "format": FORMAT,
            "volume": volume.volume.hex(),
            "label": volume.label,
            "blind": volume.is_blind,
        }
        write_origin(self.path, self.store / DATA_FILE)
        write_json(self.path / VOLUME_FILE, text)
        for directory in (self.keys, self.store, self.path, self.path.parent):
            if directory.is_dir():
                _fsync_directory(directory)

    def read(self) -> VolumeFile:
        """What volume.json says; raises UserError as `open` does."""
        return read_volume_file(self.path)

    def discard(self) -> None:
        """Undo `create` after a failed init or join."""
        assert not (self.path / VOLUME_FILE).exists()
        shutil.rmtree(self.path)
        os.close(self._lock)

    def close(self, *, clean: bool = True) -> None:
        """Let another process have it. The lock file stays; it holds no lock any more.

        If it is not clean, the next process is told that this one was killed.
        """
        if clean:
            os.ftruncate(self._lock, 0)
        os.close(self._lock)


def _fsync_directory(path: Path) -> None:
    """Make the names in a directory durable: LMDB does not, for the file it creates."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_volume_file(path: Path) -> VolumeFile:
    """Recognise a volume.

    Raises:
        UserError: the directory is missing, empty, foreign or newer than this program.
    """
    try:
        raw = (path / VOLUME_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(_not_a_volume(path), ExitCode.NOT_FOUND) from error
    except OSError as error:
        raise UserError(f"{path / VOLUME_FILE}: {error.strerror}", ExitCode.REFUSED) from error
    return _parse(path, raw)


def _parse(path: Path, raw: bytes) -> VolumeFile:
    try:
        fields = json.loads(raw)
        version = fields["format"]
        if isinstance(version, int) and version > FORMAT:
            raise UserError(
                f"{path} has format {version}, and this PiperFS reads up to {FORMAT}; update it",
                ExitCode.REFUSED,
            )
        volume = bytes.fromhex(fields["volume"])
        if version != FORMAT or len(volume) != 32:
            raise ValueError("unknown format")
        return VolumeFile(VolumeId(volume), str(fields["label"]), fields.get("blind") is True)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path / VOLUME_FILE} is not a volume file of PiperFS; nothing was changed",
            ExitCode.REFUSED,
        ) from error


def _not_a_volume(path: Path) -> str:
    if not path.exists():
        return f"there is no volume at {path}; make one with init or join, or mount its disk"
    if path.is_dir() and not any(path.iterdir()):
        return f"{path} is empty: is its disk mounted? init or join makes a new volume"
    return f"{path} is not a volume: it has no {VOLUME_FILE}"


def _occupied(path: Path) -> str:
    if (path / VOLUME_FILE).exists():
        return f"{path} is a volume already; mount it, or choose another name"
    return f"{path} is not empty; choose another name, or empty it first"
