"""File contents that say what they are: blocks with a unique token and bytes that follow from it.

A version of a file is known by its last token; anything torn, mixed or wrong does not parse.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

HEADER: Final = re.compile(rb"@@([a-z0-9.-]+) (\d+)\n")


def filler(token: str, length: int) -> bytes:
    """Bytes that follow from a token and do not compress."""
    return hashlib.shake_128(token.encode()).digest(length)


def block(token: str, length: int) -> bytes:
    return f"@@{token} {length}\n".encode() + filler(token, length)


@dataclass(frozen=True, slots=True)
class Parsed:
    """Tokens of the whole blocks of a file, and whether that was all there is."""

    tokens: tuple[str, ...]
    is_whole: bool

    @property
    def last(self) -> str | None:
        return self.tokens[-1] if self.tokens else None


def parse(data: bytes) -> Parsed:
    tokens: list[str] = []
    position = 0
    while position < len(data):
        found = HEADER.match(data, position)
        if found is None:
            return Parsed(tuple(tokens), is_whole=False)
        token, length = found[1].decode(), int(found[2])
        end = found.end() + length
        if data[found.end() : end] != filler(token, length):
            return Parsed(tuple(tokens), is_whole=False)
        tokens.append(token)
        position = end
    return Parsed(tuple(tokens), is_whole=True)
