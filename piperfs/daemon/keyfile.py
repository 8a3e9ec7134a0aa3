"""Keys at rest: the device's secrets in one small file, for its owner alone.

With a passphrase the file is encrypted (Argon2id, then ChaCha20-Poly1305). The passphrase comes
from a file, a systemd credential or a terminal, never from an argument that others can see; once
unlocked, the key may stay in the kernel's keyring over restarts. A file that others may read is
refused, as ssh refuses it.
"""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from piperfs.core.decoding import MALFORMED
from piperfs.core.errors import ExitCode, UserError
from piperfs.core.identity import KEY_BYTES, DeviceSecrets
from piperfs.daemon import kernel_keyring

FILE: Final = "device.key"
CREDENTIAL: Final = "piperfs.passphrase"
CONTEXT: Final = b"piperfs key file v1"
NONCE: Final = bytes(12)  # the salt is new for each file, so each key encrypts once
ARGON_ITERATIONS: Final = 3
ARGON_LANES: Final = 4
ARGON_KIB: Final = 64 * 1024

Protection = Literal["passphrase", "credential", "keyring", "none"]


class Secrets(msgspec.Struct, array_like=True, frozen=True):
    """Everything secret that a replica keeps beside its store."""

    device: DeviceSecrets
    store: bytes  # key of the local store


class KeyFile(msgspec.Struct, array_like=True, frozen=True):
    """The file: plain secrets without a salt, encrypted ones with it.

    The checksum tells a file that rotted from one that a wrong passphrase does not open, and keeps
    a key with a flipped bit from looking like somebody else's.
    """

    format: int
    salt: bytes
    body: bytes
    checksum: bytes

    @property
    def is_sound(self) -> bool:
        return self.checksum == _checksum(self.salt, self.body)


def _checksum(salt: bytes, body: bytes) -> bytes:
    return blake3(salt + body).digest(length=16)


def find_passphrases() -> tuple[tuple[bytes, ...], Protection]:
    """The passphrases that the surroundings offer, best first, and where they come from."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials is not None:
        path = Path(credentials) / CREDENTIAL
        if path.exists():
            return _read_passphrases(path), "credential"
    given = os.environ.get("PIPERFS_PASSPHRASE_FILE")
    if given:
        return _read_passphrases(Path(given)), "passphrase"
    return (), "none"


def _read_passphrases(path: Path) -> tuple[bytes, ...]:
    """The first line of a file; then all of it, as keys were once made with. Raises UserError."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", ExitCode.REFUSED) from error
    return tuple(dict.fromkeys((raw.partition(b"\n")[0], raw.rstrip(b"\n"))))


def write_keys(directory: Path, secrets: Secrets, entropy: Callable[[int], bytes]) -> Protection:
    """Write the key file, durably and for its owner alone; returns how it is protected.

    Raises:
        UserError: the passphrase that is offered is empty, or cannot be read.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    passphrases, protection = find_passphrases()
    passphrase = passphrases[0] if passphrases else None
    if passphrase == b"":
        raise UserError(
            "the first line of the passphrase file is empty, which protects nothing: write one",
            ExitCode.USAGE,
        )
    _write(directory, secrets, passphrase, entropy)
    return protection


def protect(
    directory: Path, passphrase: bytes | None, entropy: Callable[[int], bytes]
) -> Protection:
    """Encrypt the key file anew with a passphrase, or leave it plain. Raises UserError."""
    secrets, _ = read_keys(directory)
    kernel_keyring.forget(_name_in_keyring(_read(directory / FILE).salt))
    _write(directory, secrets, passphrase, entropy)
    return "none" if passphrase is None else "passphrase"


def unlock(directory: Path, passphrase: bytes) -> None:
    """Leave the key of the key file in the kernel's keyring. Raises UserError."""
    path = directory / FILE
    stored = _read(path)
    if not stored.salt:
        raise UserError(f"{path} has no passphrase: there is nothing to unlock")
    key = _derive(passphrase, stored.salt)
    _decrypt(path, stored, key)
    if not kernel_keyring.keep(_name_in_keyring(stored.salt), key):
        raise UserError("the kernel keeps no keys for you; name a PIPERFS_PASSPHRASE_FILE instead")


def lock(directory: Path) -> bool:
    """Take the key out of the kernel's keyring; tells whether it was there. Raises UserError."""
    return kernel_keyring.forget(_name_in_keyring(_read(directory / FILE).salt))


def _name_in_keyring(salt: bytes) -> str:
    return f"piperfs:{salt.hex()}"


def _write(
    directory: Path,
    secrets: Secrets,
    passphrase: bytes | None,
    entropy: Callable[[int], bytes],
) -> None:
    plain = msgspec.msgpack.encode(secrets)
    salt = entropy(16) if passphrase is not None else b""
    body = plain
    if passphrase is not None:
        body = ChaCha20Poly1305(_derive(passphrase, salt)).encrypt(NONCE, plain, CONTEXT)
    draft = directory / f"{FILE}.new"
    draft.unlink(missing_ok=True)  # of an attempt that was interrupted
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.msgpack.encode(KeyFile(1, salt, body, _checksum(salt, body))))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(directory / FILE)
    _sync(directory)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _derive(passphrase: bytes, salt: bytes) -> bytes:
    kdf = Argon2id(
        salt=salt, length=32, iterations=ARGON_ITERATIONS, lanes=ARGON_LANES, memory_cost=ARGON_KIB
    )
    return kdf.derive(passphrase)


def read_keys(directory: Path) -> tuple[Secrets, Protection]:
    """Read the key file. Raises UserError if it is missing, open to others, or locked."""
    path = directory / FILE
    stored = _read(path)
    plain, protection = _unlock(path, stored)
    try:
        return msgspec.msgpack.decode(plain, type=Secrets), protection
    except MALFORMED as error:
        raise _damaged(path) from error


def _read(path: Path) -> KeyFile:
    """The key file as it lies there. Raises UserError if others may read it."""
    for place, allowed in ((path.parent, 0o700), (path, 0o600)):
        _check_mode(place, allowed)
    try:
        stored = msgspec.msgpack.decode(path.read_bytes(), type=KeyFile)
    except (*MALFORMED, OSError) as error:
        raise _damaged(path) from error
    if stored.format != 1:
        raise UserError(f"{path} is of a newer PiperFS; update this one", ExitCode.REFUSED)
    if not stored.is_sound:
        raise _damaged(path)
    return stored


def _damaged(path: Path) -> UserError:
    return UserError(
        f"{path} is damaged (its checksum does not match): put a copy of it back; "
        f"without one, remove {path.parent.parent} and join again",
        ExitCode.REFUSED,
    )


def _unlock(path: Path, stored: KeyFile) -> tuple[bytes, Protection]:
    if not stored.salt:
        return stored.body, "none"
    passphrases, protection = find_passphrases()
    for passphrase in passphrases:
        with suppress(UserError):
            return _decrypt(path, stored, _derive(passphrase, stored.salt)), protection
    if passphrases:
        raise _not_opened(path)
    kept = kernel_keyring.find(_name_in_keyring(stored.salt))
    if kept is not None and len(kept) == KEY_BYTES:
        return _decrypt(path, stored, kept), "keyring"
    raise UserError(
        f"{path} needs its passphrase: run piperfs unlock, or name a file that holds it in "
        "PIPERFS_PASSPHRASE_FILE",
        ExitCode.REFUSED,
    )


def _decrypt(path: Path, stored: KeyFile, key: bytes) -> bytes:
    try:
        return ChaCha20Poly1305(key).decrypt(NONCE, stored.body, CONTEXT)
    except InvalidTag as error:
        raise _not_opened(path) from error


def _not_opened(path: Path) -> UserError:
    return UserError(f"the passphrase does not open {path}", ExitCode.REFUSED)


def _check_mode(path: Path, allowed: int) -> None:
    try:
        facts = path.lstat()
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: is the disk mounted? without it, join again", ExitCode.NOT_FOUND
        ) from error
    if stat.S_ISLNK(facts.st_mode) or facts.st_uid not in (os.geteuid(), 0):
        raise UserError(f"{path} is a link or belongs to somebody else", ExitCode.REFUSED)
    if facts.st_mode & 0o777 & ~allowed:
        raise UserError(
            f"{path} may be read by others; chmod {allowed:o} it, and consider the key known",
            ExitCode.REFUSED,
        )
