"""Text of others on a terminal: what it cannot show, or would obey, becomes backslash escapes.

A member's name or a file's may hold line breaks, colours and whatever else a terminal obeys. Where
names of members and volumes are made such characters are refused; where anything is printed they
are escaped, since records and files that exist have them.
"""

import unicodedata

from piperfs.core.errors import ExitCode, UserError
from piperfs.core.limits import LABEL_CHARS_MAX


def _is_plain(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _escaped(char: str) -> str:
    errors = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in char.encode(errors=errors))


def plain(text: str) -> str:
    """A text as it may be printed in a line; escapes are of its bytes in UTF-8."""
    if text.isprintable():
        return text
    return "".join(char if _is_plain(char) else _escaped(char) for char in text)


def find_fault(label: str) -> str | None:
    """Why a text cannot be the name of a member or a volume, if it cannot.

    What is no text at all, but bytes, is none of ours: no message can hold it.
    """
    if len(label) > LABEL_CHARS_MAX:
        return f"is longer than {LABEL_CHARS_MAX} characters"
    if not all(_is_plain(char) or unicodedata.category(char) == "Cs" for char in label):
        return "holds a character that cannot be shown"
    return None


def check_label(label: str, what: str) -> str:
    """Raises UserError unless a text can be the name of a member or a volume."""
    fault = find_fault(label)
    if fault is not None:
        raise UserError(f"{what} {fault}; give another one", ExitCode.USAGE)
    return label
