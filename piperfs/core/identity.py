"""Device identity: a signing key that names a replica, and a key to receive secrets with.

A replica's id is the hash of its public signing key, so an id cannot be claimed without the key.
Every signature covers a context that says what is signed, so none can be used for another purpose.
Signatures are made and checked by libsodium; a differential test holds it against `cryptography`.
"""

from collections.abc import Callable
from typing import Final

import msgspec
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from nacl.bindings import (
    crypto_sign,
    crypto_sign_BYTES,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import BadSignatureError, CryptoError

from piperfs.core.errors import PeerError
from piperfs.core.ids import ReplicaId

SEED_BYTES: Final = 32
KEY_BYTES: Final = 32
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


class PublicKeys(msgspec.Struct, array_like=True, frozen=True):
    """What others know of a device: 32 bytes each."""

    signing: bytes
    sealing: bytes

    @property
    def replica(self) -> ReplicaId:
        return replica_of(self.signing)


def replica_of(signing: bytes) -> ReplicaId:
    """The id that belongs to a public signing key."""
    return ReplicaId(blake3(signing).digest(length=16))


class SigningKey:
    """An Ed25519 key made from 32 secret bytes."""

    def __init__(self, seed: bytes) -> None:
        assert len(seed) == SEED_BYTES
        self.public, self._secret = crypto_sign_seed_keypair(seed)

    def sign(self, message: bytes) -> bytes:
        """A signature of 64 bytes."""
        return bytes(crypto_sign(message, self._secret)[:crypto_sign_BYTES])


def verify(public: bytes, message: bytes, signature: bytes) -> None:
    """Raises PeerError unless the signature is right."""
    if len(public) != KEY_BYTES or len(signature) != crypto_sign_BYTES:
        raise PeerError("a key or signature has the wrong length")
    try:
        crypto_sign_open(signature + message, public)
    except (BadSignatureError, CryptoError, ValueError) as error:
        raise PeerError("a signature is wrong") from error


class DeviceSecrets(msgspec.Struct, array_like=True, frozen=True):
    """The secret halves, as the key file keeps them."""

    signing: bytes
    sealing: bytes


class Identity:
    """This device."""

    def __init__(self, secrets: DeviceSecrets) -> None:
        self.secrets = secrets
        self._signing = SigningKey(secrets.signing)
        self._sealing = X25519PrivateKey.from_private_bytes(secrets.sealing)
        public = self._sealing.public_key().public_bytes_raw()
        self.public = PublicKeys(self._signing.public, public)
        self.replica = self.public.replica

    def sign(self, message: bytes) -> bytes:
        """A signature of 64 bytes; the message begins with its context."""
        return self._signing.sign(message)

    def unwrap(self, wrapped: bytes, info: bytes) -> bytes:
        """Open what was wrapped for this device. Raises PeerError."""
        try:
            return _SUITE.decrypt(wrapped, self._sealing, info)
        except Exception as error:
            raise PeerError("a key wrapped for this device does not open") from error


def successor(secrets: DeviceSecrets, salt: bytes) -> DeviceSecrets:
    """Other keys for the same device. Without the salt they cannot be found from the old ones."""

    def derive(secret: bytes, purpose: str) -> bytes:
        return blake3(secret + salt, derive_key_context=f"piperfs renewed {purpose} v1").digest()

    return DeviceSecrets(derive(secrets.signing, "signing"), derive(secrets.sealing, "sealing"))


def generate(entropy: Callable[[int], bytes]) -> Identity:
    """A new device."""
    return Identity(DeviceSecrets(entropy(SEED_BYTES), entropy(KEY_BYTES)))


def wrap(secret: bytes, recipient: bytes, info: bytes) -> bytes:
    """Encrypt a secret for a device's public sealing key (HPKE, RFC 9180)."""
    return _SUITE.encrypt(secret, X25519PublicKey.from_public_bytes(recipient), info)
