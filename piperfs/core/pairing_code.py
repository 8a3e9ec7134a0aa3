"""Pairing codes: four short words that a person carries from one computer to another.

The first word is no secret: it says which computer is meant. Behind it are thirty secret bits,
which are enough, since SPAKE2 gives whoever guesses one try at a time and three tries are all
there are. The last syllable checks the others, so what is mistyped costs no try.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from piperfs.core.errors import ExitCode, UserError
from piperfs.core.ticket import SYLLABLES

SYLLABLES_OF_A_CODE: Final = 8  # two of a word; the last is the check
CODE_CHARS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class PairingCode:
    """The letters of a code, without what stands between its words."""

    letters: str

    def __str__(self) -> str:
        return "-".join(self.letters[at : at + 4] for at in range(0, len(self.letters), 4))

    @property
    def nameplate(self) -> str:
        """The word that everybody may know."""
        return self.letters[:4]

    @property
    def password(self) -> bytes:
        """What both ends must know."""
        return self.letters.encode()


def make_code(entropy: Callable[[int], bytes]) -> PairingCode:
    """A new code."""
    chosen = "".join(SYLLABLES[byte % 64] for byte in entropy(SYLLABLES_OF_A_CODE - 1))
    return PairingCode(chosen + _check_of(chosen))


def parse_code(text: str) -> PairingCode:
    """Read a code, however its words are set apart. Raises UserError, which never repeats it."""
    letters = "".join(text[: CODE_CHARS_MAX + 1].lower().replace("-", " ").split())
    syllables = [letters[at : at + 2] for at in range(0, len(letters), 2)]
    is_spelt = len(syllables) == SYLLABLES_OF_A_CODE and all(s in SYLLABLES for s in syllables)
    if not is_spelt or _check_of(letters[:-2]) != letters[-2:]:
        raise UserError(
            "this is no pairing code: it is four words of four letters; type it again, "
            "no try was spent",
            ExitCode.USAGE,
        )
    return PairingCode(letters)


def _check_of(letters: str) -> str:
    digest = blake3(letters.encode(), derive_key_context="piperfs pairing code v1").digest(length=1)
    return SYLLABLES[digest[0] % 64]
