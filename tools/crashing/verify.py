"""What may be there after a crash: a state that existed at one moment, no earlier than promised.

Each writer works in a directory of its own and notes, on a clock that only counts, when each of
its steps began and ended and what its tree looks like afterwards. A crash keeps what was done up
to some moment. So there must be a moment that explains the trees of all writers at once, and it
must not lie before the begin of any fsync that was answered.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

FOREVER = 1 << 62


class BrokenPromiseError(Exception):
    """A promise was broken."""


class File(NamedTuple):
    """A regular file."""

    content: bytes
    mode: int = 0o644


Tree: TypeAlias = dict[str, File | str | None]  # a file, the target of a symlink, a directory


@dataclass(slots=True)
class Step:
    """One action. Until it is done, `growing` may hold any part of `whole`."""

    name: str
    begin: int
    tree: Tree
    growing: str | None = None
    whole: bytes = b""
    end: int = FOREVER


@dataclass(slots=True)
class History:
    """All steps of one writer, after the tree it began with."""

    root: Path
    steps: list[Step] = field(default_factory=list)
    promised: int = 0  # the begin of the last fsync that was answered
    answered: int = 0


class Span(NamedTuple):
    """Moments that would explain a tree: from the begin of its last step to the next one's end."""

    first: int
    last: int
    text: str


def read_tree(root: Path) -> Tree:
    """What is there now."""
    tree: Tree = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory) / name
            facts = path.lstat()
            key = str(path.relative_to(root))
            if stat.S_ISDIR(facts.st_mode):
                tree[key] = None
            elif stat.S_ISLNK(facts.st_mode):
                tree[key] = os.readlink(path)
            else:
                tree[key] = File(path.read_bytes(), facts.st_mode & 0o7777)
    return tree


def spans(history: History, found: Tree) -> Iterator[Span]:
    """Every stretch of time in which the writer's tree was as it was found."""
    before: Tree = {}
    begin = 0
    for number, step in enumerate((*history.steps, None)):
        if found == before:
            last = FOREVER if step is None else step.end
            yield Span(begin, last, f"{number} steps")
        elif step is not None and step.growing and _is_part(found, before, step):
            yield Span(step.begin, step.end, f"{number} steps and a part of {step.name}")
        if step is not None:
            before, begin = step.tree, step.begin


def _is_part(found: Tree, before: Tree, step: Step) -> bool:
    """Whether a tree is the one before a step, but for some of the bytes that the step writes."""
    key = step.growing
    assert key is not None
    here, there = found.get(key), before.get(key)
    if not isinstance(here, File) or {**found, key: None} != {**before, key: None}:
        return False
    assert isinstance(there, File)
    return step.whole.startswith(here.content) and len(here.content) >= len(there.content)


def verify(histories: Iterable[History]) -> str:
    """Find the moment that explains everything. Raises BrokenPromiseError if there is none."""
    histories = list(histories)
    promised = max(history.promised for history in histories)
    explained = []
    for history in histories:
        found = read_tree(history.root)
        here = list(spans(history, found))
        if not here:
            raise BrokenPromiseError(
                f"{history.root}: no such tree ever was: {_difference(history, found)}"
            )
        explained.append(here)
    moments = {promised, *(span.first for here in explained for span in here)}
    for moment in sorted(moments):
        if moment >= promised and all(_fits(here, moment) for here in explained):
            done = sum(1 for h in histories for step in h.steps if step.begin <= moment)
            return f"{done} of {sum(len(h.steps) for h in histories)} steps"
    raise BrokenPromiseError(
        f"nothing explains all trees: promised {promised}, "
        + "; ".join(f"{h.root.name}: {here}" for h, here in zip(histories, explained, strict=True))
    )


def _fits(here: list[Span], moment: int) -> bool:
    return any(span.first <= moment < span.last for span in here)


def _difference(history: History, found: Tree) -> str:
    """How a tree differs from the nearest one that was."""
    trees = [step.tree for step in history.steps] or [{}]
    tree = min(reversed(trees), key=lambda t: len(set(t.items()) ^ set(found.items())))
    parts = [
        f"{key}: {_short(tree.get(key, 0))} became {_short(found.get(key, 0))}"
        for key in sorted({*tree, *found})
        if tree.get(key, 0) != found.get(key, 0)
    ]
    return f"after step {trees.index(tree) + 1} of {len(trees)}: " + ", ".join(parts)


def _short(entry: object) -> str:
    if isinstance(entry, File):
        return f"{len(entry.content)} bytes {entry.content[:12]!r} {entry.mode:o}"
    return "nothing" if entry == 0 else repr(entry)
