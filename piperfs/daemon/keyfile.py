"""Keys at rest: the device's secrets in one small file, for its owner alone.

With a passphrase the file is encrypted (Argon2id, then ChaCha20-Poly1305). The passphrase comes
from a file, a systemd credential or a descriptor, never from an argument that others can see. A
file that others may read is refused, as ssh refuses it.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from piperfs.core.errors import ExitCode, UserError
from piperfs.core.identity import DeviceSecrets

FILE: Final = "device.key"
CREDENTIAL: Final = "piperfs.passphrase"
CONTEXT: Final = b"piperfs key file v1"
NONCE: Final = bytes(12)  # the salt is new for each file, so each key encrypts once
ARGON_ITERATIONS: Final = 3
ARGON_LANES: Final = 4
ARGON_KIB: Final = 64 * 1024

Protection = Literal["passphrase", "credential", "none"]


class Secrets(msgspec.Struct, array_like=True, frozen=True):
    """Everything secret that a replica keeps beside its store."""

    device: DeviceSecrets
    store: bytes  # key of the local store


class KeyFile(msgspec.Struct, array_like=True, frozen=True):
    """The file: plain secrets without a salt, encrypted ones with it."""

    format: int
    salt: bytes
    body: bytes


def find_passphrase() -> tuple[bytes | None, Protection]:
    """The passphrase that the surroundings offer, and where it comes from."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials is not None:
        path = Path(credentials) / CREDENTIAL
        if path.exists():
            return path.read_bytes().rstrip(b"\n"), "credential"
    given = os.environ.get("PIPERFS_PASSPHRASE_FILE")
    if given:
        try:
            return Path(given).read_bytes().rstrip(b"\n"), "passphrase"
        except OSError as error:
            raise UserError(f"{given}: {error.strerror}", ExitCode.REFUSED) from error
    return None, "none"


def write_keys(directory: Path, secrets: Secrets, entropy: Callable[[int], bytes]) -> Protection:
    """Write the key file, durably and for its owner alone; returns how it is protected."""
    directory.mkdir(mode=0o700, exist_ok=True)
    passphrase, protection = find_passphrase()
    plain = msgspec.msgpack.encode(secrets)
    salt = entropy(16) if passphrase is not None else b""
    body = plain if passphrase is None else _cipher(passphrase, salt).encrypt(NONCE, plain, CONTEXT)
    draft = directory / f"{FILE}.new"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.msgpack.encode(KeyFile(1, salt, body)))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(directory / FILE)
    _sync(directory)
    return protection


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cipher(passphrase: bytes, salt: bytes) -> ChaCha20Poly1305:
    kdf = Argon2id(
        salt=salt, length=32, iterations=ARGON_ITERATIONS, lanes=ARGON_LANES, memory_cost=ARGON_KIB
    )
    return ChaCha20Poly1305(kdf.derive(passphrase))


def read_keys(directory: Path) -> tuple[Secrets, Protection]:
    """Read the key file. Raises UserError if it is missing, open to others, or locked."""
    path = directory / FILE
    for place, allowed in ((directory, 0o700), (path, 0o600)):
        _check_mode(place, allowed)
    try:
        stored = msgspec.msgpack.decode(path.read_bytes(), type=KeyFile)
        if stored.format != 1:
            raise UserError(f"{path} is of a newer PiperFS; update this one", ExitCode.REFUSED)
        plain, protection = _unlock(path, stored)
        return msgspec.msgpack.decode(plain, type=Secrets), protection
    except msgspec.MsgspecError as error:
        raise UserError(f"{path} is damaged; restore it or join again", ExitCode.REFUSED) from error


def _unlock(path: Path, stored: KeyFile) -> tuple[bytes, Protection]:
    if not stored.salt:
        return stored.body, "none"
    passphrase, protection = find_passphrase()
    if passphrase is None:
        raise UserError(
            f"{path} needs its passphrase: name a file in PIPERFS_PASSPHRASE_FILE", ExitCode.REFUSED
        )
    try:
        return _cipher(passphrase, stored.salt).decrypt(NONCE, stored.body, CONTEXT), protection
    except InvalidTag as error:
        raise UserError(f"the passphrase does not open {path}", ExitCode.REFUSED) from error


def _check_mode(path: Path, allowed: int) -> None:
    try:
        facts = path.stat()
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: is the disk mounted? without it, join again", ExitCode.NOT_FOUND
        ) from error
    if facts.st_mode & 0o777 & ~allowed:
        raise UserError(
            f"{path} may be read by others; chmod {allowed:o} it, and consider the key known",
            ExitCode.REFUSED,
        )
