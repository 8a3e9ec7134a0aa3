"""Tickets: one line of text that lets one more computer into a volume, once.

A ticket holds a secret; the volume's records hold only the public key made from it, so whoever
reads the records cannot use the invite. Text: `piper1:` and base32 of the fields with a checksum.
"""

import base64
import binascii
from collections.abc import Callable
from typing import Final

import msgspec
from blake3 import blake3

from piperfs.core.decoding import MALFORMED
from piperfs.core.errors import ExitCode, UserError
from piperfs.core.identity import SigningKey
from piperfs.core.ids import VolumeId
from piperfs.core.limits import TICKET_ADDRESSES_MAX, TICKET_CHARS_MAX
from piperfs.core.membership_records import Invite, Role

PREFIX: Final = "piper1:"
CHECKSUM_BYTES: Final = 4
SYLLABLES: Final = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"][:64]


class Ticket(msgspec.Struct, array_like=True, frozen=True):
    """What a new computer needs to know."""

    volume: VolumeId
    invite: bytes  # id of the Invite record
    secret: bytes
    expires_ns: int
    addresses: tuple[str, ...]  # HOST:PORT of members that may be met there


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Ticket).decode


def make_invite(
    entropy: Callable[[int], bytes], role: Role, expires_ns: int
) -> tuple[Invite, bytes]:
    """An invite for the records, and the secret for the ticket."""
    secret = entropy(32)
    return Invite(SigningKey(secret).public, role, expires_ns), secret


def format_ticket(ticket: Ticket) -> str:
    raw = _pack(ticket)
    text = base64.b32encode(raw + blake3(raw).digest(length=CHECKSUM_BYTES)).decode()
    return PREFIX + text.rstrip("=").lower()


def parse_ticket(text: str, now_ns: int) -> Ticket:
    """Read a ticket. Raises UserError, which never repeats the text."""
    text = "".join(text.split())
    if not text.lower().startswith(PREFIX):
        known = text.lower().startswith("piper") and ":" in text
        hint = "of another version of PiperFS" if known else f"no ticket; one begins with {PREFIX}"
        raise UserError(f"this is {hint}", ExitCode.USAGE)
    if len(text) > TICKET_CHARS_MAX:
        raise _mangled()
    body = text[len(PREFIX) :].upper()
    try:
        raw = base64.b32decode(body + "=" * (-len(body) % 8))
    except (binascii.Error, ValueError) as error:
        raise _mangled() from error
    raw, checksum = raw[:-CHECKSUM_BYTES], raw[-CHECKSUM_BYTES:]
    if blake3(raw).digest(length=CHECKSUM_BYTES) != checksum:
        raise _mangled()
    try:
        ticket = _unpack(raw)
    except MALFORMED as error:
        raise _mangled() from error
    return _checked(ticket, now_ns)


def _checked(ticket: Ticket, now_ns: int) -> Ticket:
    sizes = (len(ticket.volume), len(ticket.invite), len(ticket.secret))
    if sizes != (32, 32, 32) or len(ticket.addresses) > TICKET_ADDRESSES_MAX:
        raise _mangled()
    if now_ns > ticket.expires_ns:
        raise UserError("the ticket has expired; ask for a new one", ExitCode.REFUSED)
    return ticket


def _mangled() -> UserError:
    return UserError(
        "the ticket is mangled: part of it is missing or changed; copy it again, all of it",
        ExitCode.USAGE,
    )


def check_words(transcript: bytes) -> str:
    """Six words that two people compare to know that nobody stands between their computers."""
    digest = blake3(transcript, derive_key_context="piperfs check words v1").digest(length=12)
    pairs = zip(digest[::2], digest[1::2], strict=True)
    return " ".join(SYLLABLES[a % 64] + SYLLABLES[b % 64] for a, b in pairs)
