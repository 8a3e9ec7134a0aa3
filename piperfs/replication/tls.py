"""TLS 1.3 with certificates that are thrown away: privacy here, identity in the handshake.

A certificate is made anew at each start, in memory, and never checked by TLS itself. Its hash is
what both ends sign (`protocol/handshake.py`), which binds their proofs to this very connection.
"""

import datetime as dt
import hashlib
import os
import ssl
from dataclasses import dataclass
from typing import Final

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from piperfs.core.errors import PeerError
from piperfs.core.limits import PREAUTH_TIMEOUT_S

PROTOCOL: Final = "piperfs/1"


@dataclass(frozen=True, slots=True)
class Secured:
    """A connection, and the hash of the certificate that its server showed."""

    stream: trio.SSLStream[trio.SocketStream]
    binding: bytes


def _common(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([PROTOCOL])
    return context


class Certificate:
    """This start's certificate."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "piperfs")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(dt.datetime(2000, 1, 1, tzinfo=dt.UTC))
            .not_valid_after(dt.datetime(9999, 1, 1, tzinfo=dt.UTC))
            .sign(key, hashes.SHA256())
        )
        self.binding = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()
        pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self._server = _common(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self._server.num_tickets = 0
        memory = os.memfd_create("piperfs-certificate")  # the ssl module reads files only
        try:
            os.write(memory, pem)
            self._server.load_cert_chain(f"/proc/self/fd/{memory}")
        finally:
            os.close(memory)
        self._client = _common(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        self._client.check_hostname = False
        self._client.verify_mode = ssl.CERT_NONE

    async def secure_server(self, stream: trio.SocketStream) -> Secured:
        """The server's half. Raises PeerError, or TooSlowError after some seconds."""
        secured = trio.SSLStream(stream, self._server, server_side=True, https_compatible=True)
        await _shake_hands(secured)
        return Secured(secured, self.binding)

    async def secure_client(self, stream: trio.SocketStream) -> Secured:
        """The client's half. Raises PeerError, or TooSlowError after some seconds."""
        secured = trio.SSLStream(stream, self._client, https_compatible=True)
        await _shake_hands(secured)
        shown = secured.getpeercert(binary_form=True)
        if not shown:
            raise PeerError("the other end shows no certificate")
        return Secured(secured, hashlib.sha256(shown).digest())


async def _shake_hands(stream: trio.SSLStream[trio.SocketStream]) -> None:
    try:
        with trio.fail_after(PREAUTH_TIMEOUT_S):
            await stream.do_handshake()
    except (trio.BrokenResourceError, ssl.SSLError) as error:
        raise PeerError("the other end does not speak TLS 1.3") from error
