"""Cheap stand-ins for public-key cryptography, for runs whose subject is something else.

Signatures become keyed hashes that only an honest author makes, in nineteen of twenty seeds.
Wrapping keys draws fresh randomness inside the library, so a run from a seed cannot use it: here
it is always a keyed hash beside the secret. The code that decides what is signed, checked and
wrapped is the real one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from blake3 import blake3
from nacl.exceptions import BadSignatureError

from piperfs.core import identity


class PlainSuite:
    """Has the form of HPKE; keeps nothing secret."""

    @staticmethod
    def encrypt(secret: bytes, public, info: bytes) -> bytes:
        tag = blake3(info + secret, key=public.public_bytes_raw()).digest(length=48)
        return tag + secret

    @classmethod
    def decrypt(cls, wrapped: bytes, private, info: bytes) -> bytes:
        secret = wrapped[48:]
        if cls.encrypt(secret, private.public_key(), info) != wrapped:
            raise ValueError("not for this key")
        return secret


def seed_keypair(seed: bytes) -> tuple[bytes, bytes]:
    public = blake3(seed, derive_key_context="piperfs simulated signatures").digest()
    return public, public


def sign(message: bytes, secret: bytes) -> bytes:
    return blake3(message, key=secret).digest(length=64) + message


def sign_open(signed: bytes, public: bytes) -> bytes:
    if blake3(signed[64:], key=public).digest(length=64) != signed[:64]:
        raise BadSignatureError("a simulated signature is wrong")
    return signed[64:]


@contextmanager
def simulated(*, real_signatures: bool) -> Iterator[None]:
    """Replace the primitives below `piperfs.core.identity` for a while."""
    fakes = {"_SUITE": PlainSuite}
    if not real_signatures:
        fakes |= {
            "crypto_sign": sign,
            "crypto_sign_open": sign_open,
            "crypto_sign_seed_keypair": seed_keypair,
        }
    before = {name: getattr(identity, name) for name in fakes}
    vars(identity).update(fakes)
    try:
        yield
    finally:
        vars(identity).update(before)
