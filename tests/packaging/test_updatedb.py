"""updatedb's list of file systems to leave out: added once, removed again, all else untouched."""

import pytest

from tools.updatedb import with_names, without_names

DEBIAN = 'PRUNE_BIND_MOUNTS="yes"\n# PRUNENAMES=".git"\nPRUNEPATHS="/tmp"\nPRUNEFS="NFS afs proc"\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (DEBIAN, DEBIAN.replace("proc", "proc piperfs fuse.piperfs")),
        ("", 'PRUNEFS="piperfs fuse.piperfs"\n'),
        ("x=1", 'x=1\nPRUNEFS="piperfs fuse.piperfs"\n'),
        ('PRUNEFS=""\n', 'PRUNEFS="piperfs fuse.piperfs"\n'),
        ('PRUNEFS = "fuse.piperfs a"  # b\n', 'PRUNEFS = "fuse.piperfs a piperfs"  # b\n'),
        ('#PRUNEFS="a"\n', '#PRUNEFS="a"\nPRUNEFS="piperfs fuse.piperfs"\n'),
    ],
)
def test_names_are_added_once(before: str, after: str):
    assert with_names(before) == after
    assert with_names(after) == after


@pytest.mark.parametrize("text", [DEBIAN, 'PRUNEFS=""\n', "x=1\n", ""])
def test_removal_gives_back_what_was_there(text: str):
    assert without_names(text) == text
    assert without_names(with_names(text)).replace('PRUNEFS=""\n', "") == text.replace(
        'PRUNEFS=""\n', ""
    )
