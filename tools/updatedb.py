"""Keeps updatedb out of PiperFS volumes, by the list of file systems in /etc/updatedb.conf.

A nightly walk over a mounted volume would ask for every name, and a program that also reads would
fetch everything from peers. The functions are pure and can be applied any number of times.
"""

import re

NAMES = ("piperfs", "fuse.piperfs")
LINE = re.compile(r'^(\s*PRUNEFS\s*=\s*")([^"]*)(".*)$', re.MULTILINE)


def with_names(text: str) -> str:
    """The configuration with our names in PRUNEFS; unchanged when they are there."""
    found = LINE.search(text)
    if found is None:
        separator = "" if not text or text.endswith("\n") else "\n"
        return f'{text}{separator}PRUNEFS="{" ".join(NAMES)}"\n'
    missing = [name for name in NAMES if name not in found[2].split()]
    words = " ".join((found[2], *missing)).lstrip() if missing else found[2]
    return _replaced(text, found, words)


def without_names(text: str) -> str:
    """The configuration without them."""
    found = LINE.search(text)
    if found is None or not set(NAMES) & set(found[2].split()):
        return text
    return _replaced(text, found, " ".join(w for w in found[2].split() if w not in NAMES))


def _replaced(text: str, found: "re.Match[str]", words: str) -> str:
    return f"{text[: found.start()]}{found[1]}{words}{found[3]}{text[found.end() :]}"
