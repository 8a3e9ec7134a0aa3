"""Versions of files and what is done with them: history, restore, revert, resolve.

What takes time (looking through a long history, fetching bytes that are elsewhere) is done in
steps between which the mount goes on.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

import trio

from piperfs.core import resolve
from piperfs.core.errors import ExitCode, FsError, UserError
from piperfs.core.ids import (
    FILE,
    SYMLINK,
    ChunkId,
    InodeId,
    LinkId,
    ReplicaId,
    is_directory,
    make_inode_id,
)
from piperfs.core.limits import NAME_BYTES_MAX
from piperfs.core.operation import check_name
from piperfs.core.record import PENDING, ContentHead, Kind
from piperfs.daemon import report
from piperfs.daemon.node import Node
from piperfs.fs import resolution, undo
from piperfs.obs.facts import VersionFacts
from piperfs.store.change import Change, PutContent, PutLink
from piperfs.store.directory import Found
from piperfs.store.history import Gathering
from piperfs.store.pending import RecordKey
from piperfs.store.store import Store

FETCH_S: Final = 60.0
BATCH: Final = 16
PAGE: Final = 500
END: Final = b"\xff" * 17
ESCAPED: Final = re.compile(rb"\\x(0[1-9a-f]|[189a-f][0-9a-f]|7f)")  # no text, as printed
Act: TypeAlias = Callable[[Store, InodeId, bytes, Found], list[Change]]
Conflict: TypeAlias = tuple[InodeId, bytes, bytes, Found]  # directory, wanted name, shown name


@dataclass(frozen=True, slots=True)
class Version:
    """A version of one file. `superseded_ns` is None for heads."""

    inode: InodeId
    head: ContentHead
    superseded_ns: int | None = None

    @property
    def name(self) -> str:
        """Eight letters that tell it from the file's other versions."""
        return self.head.operation.hex()[:8]


def parts_of(node: Node, path: str) -> list[bytes]:
    """A path below the root of the volume, given as such or as one below the mount point."""
    mountpoint = node.mountpoint
    if mountpoint is not None and (path == mountpoint or path.startswith(mountpoint + "/")):
        path = path[len(mountpoint) :]
    raw = ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), os.fsencode(path))
    parts: list[bytes] = []
    for part in raw.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return parts


def find(node: Node, parts: list[bytes]) -> tuple[InodeId, Found] | None:
    """The directory and the entry that a path names now."""
    directory, found = node.store.root, None
    for number, name in enumerate(parts):
        found = node.store.lookup(directory, name)
        if found is None:
            return None
        if number < len(parts) - 1:
            directory = found.inode
    return None if found is None else (directory, found)


async def find_deleted(node: Node, parts: list[bytes]) -> list[InodeId]:
    """Files that had a path when their last name was removed, in whatever directories had it."""
    children: dict[tuple[bytes, bytes], set[InodeId]] = {}
    for rows in node.store.tables.link.pages(b"", END, PAGE):
        for _, heads in rows:
            body = resolve.current_link(heads).body
            if body.name in parts:
                children.setdefault((body.parent, body.name), set()).add(body.target)
        await trio.lowlevel.checkpoint()
    level = {node.store.root}
    for name in parts:
        level = set().union(*(children.get((parent, name), ()) for parent in level))
    return sorted(inode for inode in level if not is_directory(inode))


async def versions_at(node: Node, path: str) -> list[Version]:
    """All versions of what a path names, or named, newest first. Raises UserError."""
    parts = parts_of(node, path)
    there = find(node, parts)
    if not parts or (there is not None and is_directory(there[1].inode)):
        raise UserError(f"{path}: a directory has no versions", ExitCode.USAGE)
    inodes = [there[1].copy_of or there[1].inode] if there else await find_deleted(node, parts)
    if not inodes:
        raise UserError(f"{path}: nothing here ever had that name", ExitCode.NOT_FOUND)
    wanted = {(Kind.CONTENT, bytes(inode)) for inode in inodes}
    past = await gather(node, wanted)
    found = []
    for inode in inodes:
        heads = [h for h in node.store.contents(inode) if h.operation != PENDING]
        found += [Version(inode, head) for head in heads]
        known = past.found.get((Kind.CONTENT, inode), [])
        found += [Version(inode, cast(ContentHead, p.head), p.superseded_ns) for p in known]
    return sorted(found, key=lambda version: version.head.stamp, reverse=True)


async def gather(node: Node, wanted: set[RecordKey] | None) -> Gathering:
    """Past writes of the wanted records, or of all."""
    gathering = Gathering()
    is_wanted = (lambda _key: True) if wanted is None else wanted.__contains__
    for _ in gathering.steps(node.store.tables, node.keyring.unseal_bodies, is_wanted):
        await trio.lowlevel.checkpoint()
    return gathering


def facts(node: Node, versions: list[Version]) -> list[VersionFacts]:
    """For people and programs."""
    shown = []
    for version in versions:
        head, gone = version.head, version.superseded_ns
        size = head.body.size or len(head.body.target)
        shown.append(
            VersionFacts(
                version=version.name,
                when=report.iso(head.hlc),
                author=node.name_of(head.replica),
                size=size,
                state=_state(node, version),
                superseded=None if gone is None else report.iso(gone),
                here=not list(absent(node, head)),
            )
        )
    return shown


def _state(node: Node, version: Version) -> str:
    if version.superseded_ns is not None:
        return "superseded"
    if not version.head.body.alive:
        return "deleted"
    current = resolve.current_content(node.store.contents(version.inode))
    return "current" if version.head.operation == current.operation else "beside"


def absent(node: Node, head: ContentHead) -> Iterator[ChunkId]:
    """Chunks of a version that are not here, as far as the nodes that are here tell."""
    chunks = node.store.chunks
    waiting = [(chunk, head.body.height) for chunk in head.refs]
    while waiting:
        chunk, height = waiting.pop()
        if not chunks.has(chunk):
            yield chunk
        else:
            waiting += chunks.listed(chunk, height)


async def fetch(node: Node, head: ContentHead) -> None:
    """Bring a version's bytes here. Raises UserError."""
    while missing := list(absent(node, head)):
        if node.replicator is None:
            raise UserError(f"{len(missing)} parts of that version are not on this computer")
        try:
            await node.replicator.fetch(missing, trio.current_time() + FETCH_S)
        except FsError as error:
            raise UserError(
                f"{len(missing)} parts of that version are neither here nor with a connected member"
            ) from error


async def restore(node: Node, path: str, name: str, to: str) -> Version:
    """Make an earlier version the current one, or a new file. Raises UserError."""
    found = [v for v in await versions_at(node, path) if v.name.startswith(name.lower())]
    if not found or not name:
        raise UserError(f"{path} has no version '{name}'; history lists them", ExitCode.NOT_FOUND)
    if len({version.head.operation for version in found}) > 1:
        raise UserError(f"{path} has several versions that begin with '{name}'", ExitCode.USAGE)
    version = found[0]
    await fetch(node, version.head)
    now = node.clock.now_ns()
    if to:
        changes = _new_file(node, to, version.head)
    else:
        there = find(node, parts_of(node, path))
        inode = (there[1].copy_of or there[1].inode) if there else version.inode
        changes = undo.bring_back(node.store, inode, version.head, now)
    node.store.apply_command(changes, now)
    return version


def _new_file(node: Node, path: str, head: ContentHead) -> list[Change]:
    parts = parts_of(node, path)
    if parts and len(parts[-1]) > NAME_BYTES_MAX:
        raise UserError(f"{path}: a name has at most {NAME_BYTES_MAX} bytes", ExitCode.USAGE)
    above = find(node, parts[:-1]) if len(parts) > 1 else None
    directory = node.store.root if len(parts) <= 1 else above[1].inode if above else None
    if directory is None or not is_directory(directory):
        raise UserError(f"{path}: there is no such directory", ExitCode.NOT_FOUND)
    if not parts or find(node, parts) is not None:
        raise UserError(f"{path} exists already; nothing was changed", ExitCode.REFUSED)
    check_name(parts[-1])
    letter = SYMLINK if head.body.target else FILE
    inode = make_inode_id(letter, node.clock.entropy(15))
    link = LinkId(node.clock.entropy(16))
    restored = undo.revived(head, node.clock.now_ns())
    return [
        PutContent(inode, restored, head.refs),
        PutLink(link, directory, parts[-1], inode),
    ]


async def revert(node: Node, author: ReplicaId, since_ns: int) -> dict[str, int]:
    """Undo what a member did since a moment. Returns how many records of each kind changed."""
    past = (await gather(node, None)).found
    counts: Counter[Kind] = Counter()
    work = undo.Revert(node.store, past, author, since_ns)
    for _ in work.steps(node.clock.now_ns, counts):
        await trio.lowlevel.checkpoint()
    return {kind.name.lower(): counts[kind] for kind in Kind}


def settle(node: Node, path: str, keep: str) -> int:
    """End the conflicts at a path; `keep` is this, other or both. Raises UserError."""
    shown = _path(path, node)
    conflicts = list(node.store.conflicts())
    found = [c for c in conflicts if shown in _paths(node, c)]
    if not found:
        raise UserError(f"{path}: no conflict there; conflicts lists them", ExitCode.NOT_FOUND)
    names_copy = shown == _paths(node, found[0])[1]
    if keep == "other" and not names_copy and len(found) > 1:
        raise UserError(
            f"{path} has {len(found)} other versions: give the name of the one to keep, "
            "with --keep this",
            ExitCode.USAGE,
        )
    act = _act_of(keep, ACTS_ON_COPY if names_copy else ACTS_ON_NAME)
    done = sum(_act(node, act, conflict) for conflict in found)
    if names_copy and keep == "this":
        rivals = [c for c in conflicts if c[:2] == found[0][:2] and c not in found]
        done += sum(_act(node, resolution.drop, rival) for rival in rivals)
    return done


def settle_below(node: Node, path: str, keep: str, *, identical: bool) -> Iterator[int]:
    """End all conflicts at and below a path, one at a time. Raises UserError."""
    if keep == "other":
        raise UserError("--all keeps this or both: 'other' names one version", ExitCode.USAGE)
    act = _act_of(keep, ACTS_ON_NAME)
    parts = parts_of(node, path)
    if parts and find(node, parts) is None:
        raise UserError(f"{path}: no such file or directory in the volume", ExitCode.NOT_FOUND)
    top = b"".join(b"/" + part for part in parts)
    for conflict in list(node.store.conflicts()):
        wanted = _paths(node, conflict)[0]
        is_below = wanted == top or wanted.startswith(top + b"/")
        if is_below and (not identical or _is_alike(node, conflict)):
            yield _act(node, act, conflict)


def _is_alike(node: Node, conflict: Conflict) -> bool:
    """Whether a losing version has the bytes of what has the name."""
    directory, wanted, _, copy = conflict
    winner = node.store.lookup(directory, wanted)
    heads = node.store.contents(winner.inode) if winner is not None else ()
    losers = (copy.head,) if copy.head is not None else node.store.contents(copy.inode)
    if not heads or not losers:
        return False
    digests = [resolve.digest_of(resolve.current_content(group)) for group in (heads, losers)]
    return digests[0] == digests[1]


# What becomes of a losing version, when its own name is given, or the name that it lost.
ACTS_ON_COPY: Final[Mapping[str, Act]] = {
    "this": resolution.promote, "other": resolution.drop, "both": resolution.keep_both,
}  # fmt: skip
ACTS_ON_NAME: Final[Mapping[str, Act]] = {
    "this": resolution.drop, "other": resolution.promote, "both": resolution.keep_both,
}  # fmt: skip


def _act(node: Node, act: Act, conflict: Conflict) -> int:
    """Settle one losing version, unless settling another one did it."""
    directory, wanted, shown, copy = conflict
    now = node.store.lookup(directory, shown)
    if now is None or now.inode != copy.inode:
        return 0
    try:
        changes = act(node.store, directory, wanted, now)
    except FsError as error:
        raise UserError(
            "a directory has that name: rename or remove the other entry by hand", ExitCode.REFUSED
        ) from error
    node.store.apply_command(changes, node.clock.now_ns())
    return 1


def _act_of(keep: str, acts: Mapping[str, Act]) -> Act:
    if keep not in acts:
        raise UserError(f"'{keep}': keep this, other or both", ExitCode.USAGE)
    return acts[keep]


def _path(path: str, node: Node) -> bytes:
    return b"/" + b"/".join(parts_of(node, path))


def _paths(node: Node, conflict: Conflict) -> tuple[bytes, bytes]:
    directory, wanted, shown, _ = conflict
    return report.path_bytes(node, directory, wanted), report.path_bytes(node, directory, shown)
