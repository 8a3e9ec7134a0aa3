"""What stat(2) says of an inode, and what chmod, chown, utimens and truncate do to it."""

from typing import Final, NamedTuple

from msgspec.structs import replace

from piperfs.core.errors import ErrorKind, FsError
from piperfs.core.ids import (
    DIRECTORY,
    FILE,
    HIDDEN,
    ORPHANS,
    SYMLINK,
    TYPES,
    InodeId,
    ReplicaId,
    is_directory,
)
from piperfs.core.record import ContentHead
from piperfs.fs.api import Attr, Caller, SetAttr
from piperfs.fs.files import Files
from piperfs.fs.inodes import Anonymous, Inodes, Node
from piperfs.fs.missing import MissingChunks
from piperfs.fs.owners import SET_ID_BITS, Owners
from piperfs.store.change import SetAttributes
from piperfs.store.rows import InodeRow, LocalRow
from piperfs.store.store import Store

BLOCK_BYTES: Final = 128 * 1024  # a good size for reads and writes
TYPE_BITS: Final = {
    DIRECTORY: 0o040000,
    FILE: 0o100000,
    SYMLINK: 0o120000,
    ord("p"): 0o010000,
    ord("c"): 0o020000,
    ord("b"): 0o060000,
    ord("s"): 0o140000,
}
VIRTUAL: Final = InodeRow(0o555, "", "", ReplicaId(b""))


def type_bits(inode: InodeId) -> int:
    """The file type as the bits of st_mode."""
    return TYPE_BITS[inode[0]]


def is_special(inode: InodeId) -> bool:
    """A fifo, socket or device node, which only this replica has."""
    return inode[0] not in TYPES


class Ownership(NamedTuple):
    """Whose a file is; not settled while an account is unknown, which may turn up any time."""

    uid: int
    gid: int
    mode: int
    is_settled: bool = True


class Attributes:
    """Reads and sets attributes of inodes the kernel knows."""

    def __init__(self, store: Store, inodes: Inodes, files: Files, owners: Owners) -> None:
        self._store = store
        self._inodes = inodes
        self._files = files
        self._owners = owners

    def row(self, node: Node) -> InodeRow:
        """Raises FsError (stale) if the inode is gone."""
        if node.anonymous is not None:
            return node.anonymous.row
        inode = node.inode if node.version is None else node.version.copy_of
        row = None if inode is None else self._store.inode(inode)
        if row is None and inode in (HIDDEN, ORPHANS):
            return VIRTUAL
        if row is None:
            raise FsError(ErrorKind.STALE)
        if node.version is not None and node.version.head is not None:
            return self._of_version(row, node.version.head)
        return row

    def _of_version(self, row: InodeRow, head: ContentHead) -> InodeRow:
        data = sum(length for length in head.body.lengths if length > 0)
        return replace(
            row, size=head.body.size, mtime_ns=head.body.mtime_ns, ctime_ns=head.hlc,
            links=row.links[:1], data_bytes=data,
        )  # fmt: skip

    def get(self, node: Node) -> Attr:
        row = self.row(node)
        size, mtime, ctime, data = row.size, row.mtime_ns, row.ctime_ns, row.data_bytes
        session = self._files.session(node)
        if session is not None and session.copy is not None:
            size, data = session.copy.size, session.copy.data_bytes
            if session.is_dirty or session.flush is not None:
                mtime, ctime = session.mtime_ns, max(ctime, session.stamp)
        elif session is not None and session.pin is not None and session.pin.heads:
            head = self._files.version(node)
            size, data = head.body.size, sum(n for n in head.body.lengths if n > 0)
        uid, gid, mode, is_settled = self.ownership(row)
        if node.inode[0] == DIRECTORY:
            mode = row.mode  # set-group-id of a directory gives nobody any right
        local = self.local(node)
        here = self._local_bytes(node, data)
        born = row.born_ns or mtime
        return Attr(
            ino=node.ino,
            mode=type_bits(node.inode) | mode,
            nlink=self._link_count(node, row),
            uid=uid,
            gid=gid,
            rdev=row.rdev,
            size=size,
            blocks=(here + 511) // 512,
            blksize=BLOCK_BYTES,
            atime_ns=born if local.atime_ns is None else local.atime_ns,
            mtime_ns=mtime,
            ctime_ns=max(ctime, local.ctime_ns),
            born_ns=row.born_ns,
            entry_valid=node.version is None,
            is_lasting=is_settled and here == data,
        )

    def local(self, node: Node) -> LocalRow:
        """What only this replica knows of a node."""
        return self._store.local(node.inode) if node.anonymous is None else node.anonymous.local

    def put_local(self, node: Node, row: LocalRow) -> None:
        if node.anonymous is None:
            self._store.put_local(node.inode, row)
        else:
            node.anonymous.local = row

    def ownership(self, row: InodeRow) -> Ownership:
        """uid, gid and permission bits as this computer shows them."""
        owners = self._owners
        if not self._is_own(row):
            return Ownership(*owners.peers_ids(row.owner, row.group), row.mode & ~SET_ID_BITS)
        uid, gid = owners.own_ids(row.owner, row.group)
        if uid is not None and gid is not None:
            return Ownership(uid, gid, row.mode)
        uid, gid = (owners.uid if uid is None else uid), (owners.gid if gid is None else gid)
        return Ownership(uid, gid, row.mode & ~SET_ID_BITS, is_settled=False)

    def _is_own(self, row: InodeRow) -> bool:
        return row.owner_set_by in (self._store.replica, b"")

    def _link_count(self, node: Node, row: InodeRow) -> int:
        if node.anonymous is not None:
            return 0
        if node.inode[0] == DIRECTORY:
            return 2 + sum(self._subdirs(member) for member in self._store.members(node.inode))
        return len(row.links)

    def _subdirs(self, inode: InodeId) -> int:
        row = self._store.inode(inode)
        return row.subdirs if row else 0

    def _local_bytes(self, node: Node, data: int) -> int:
        """How much of `data` is on this computer; all of it, unless something is wanted."""
        if node.inode[0] != FILE or not data or not self._store.chunks.want_count:
            return data
        if node.anonymous is not None or self._files.session(node) is not None:
            return data
        try:
            return data - self._files.contents(node).bytes_of(self._store.chunks.is_wanted)
        except MissingChunks:
            return 0  # not even the list of its chunks is here

    def set(self, node: Node, change: SetAttr, now_ns: int, caller: Caller | None = None) -> None:
        """Change attributes, size aside.

        The kernel gives nothing for a chown to nobody else, and before a write by somebody whom
        set-id bits must not survive.
        """
        row = self.row(node)
        is_empty = change == SetAttr()
        owner = None if change.uid is None else self._owners.user_name(change.uid)
        group = None if change.gid is None else self._owners.group_name(change.gid)
        mode = None if change.mode is None else change.mode & 0o7777
        if owner is not None or group is not None:
            owner = owner or self._kept_name(row, is_user=True)
            group = group or self._kept_name(row, is_user=False)
            mode = row.mode & ~self._hidden_bits(row) if mode is None else mode
        drops = owner is not None or change.kill_suidgid or is_empty
        if drops and not is_directory(node.inode):
            keeps_group = caller is not None and self.may_keep_group(row, caller)
            mode = without_set_id(row.mode if mode is None else mode, keeps_group=keeps_group)
        if change.atime_ns is not None or is_empty:
            self._note_locally(node, change.atime_ns, now_ns)
        given = SetAttributes(node.inode, mode, owner, group, change.mtime_ns)
        if mode == row.mode and (is_empty or change.kill_suidgid) and owner is None:
            given = SetAttributes(node.inode, mtime_ns=change.mtime_ns)
        if not _is_empty(given):
            self._set(node, given, now_ns)

    def _kept_name(self, row: InodeRow, *, is_user: bool) -> str:
        """What is stored when only the other of user and group is given away."""
        stored = row.owner if is_user else row.group
        if stored and self._is_own(row):
            return stored
        shown = self.ownership(row)
        return self._owners.user_name(shown.uid) if is_user else self._owners.group_name(shown.gid)

    def may_keep_group(self, row: InodeRow, caller: Caller) -> bool:
        """Whether a set-group-id bit may stay when this caller changes the file."""
        if caller.uid == 0 or not row.mode & SET_ID_BITS:
            return True
        return self._owners.is_member(self.ownership(row)[1], caller)

    def _note_locally(self, node: Node, atime_ns: int | None, now_ns: int) -> None:
        """Times that concern nobody else: they change no record."""
        local = self.local(node)
        atime = local.atime_ns if atime_ns is None else atime_ns
        self.put_local(node, replace(local, atime_ns=atime, ctime_ns=self._store.tick(now_ns)))

    def _hidden_bits(self, row: InodeRow) -> int:
        """Set-id bits that a peer asked for and that are not honoured here."""
        return row.mode & ~self.ownership(row)[2]

    def _set(self, node: Node, change: SetAttributes, now_ns: int) -> None:
        session = self._files.session(node)
        if session is not None and change.mtime_ns is not None:
            session.mtime_ns, session.is_timed = change.mtime_ns, True
        if node.anonymous is not None:
            node.anonymous.row = _changed(node.anonymous.row, change, self._store.tick(now_ns))
        elif is_special(node.inode):
            row = _changed(self.row(node), change, self._store.tick(now_ns))
            self._store.change_special(node.inode, row)
        else:
            change = self._with_session(node, change, now_ns)
            if not _is_empty(change):
                self._store.apply_local([change], now_ns)

    def _with_session(self, node: Node, change: SetAttributes, now_ns: int) -> SetAttributes:
        """The unsaved version of a file takes a time along; returns what is left to write."""
        session = self._files.session(node)
        unsaved = session is not None and (session.is_dirty or session.flush is not None)
        if session is None or not unsaved or change.mtime_ns is None:
            return change
        session.stamp = self._store.tick(now_ns)
        if session.dirty_since is None:
            self._files.keep_dirty(session)
        return SetAttributes(change.inode, change.mode, change.owner, change.group)


def _is_empty(change: SetAttributes) -> bool:
    return change == SetAttributes(change.inode)


def _changed(row: InodeRow, change: SetAttributes, now_ns: int) -> InodeRow:
    return replace(
        row,
        mode=row.mode if change.mode is None else change.mode,
        owner=row.owner if change.owner is None else change.owner,
        group=row.group if change.group is None else change.group,
        mtime_ns=row.mtime_ns if change.mtime_ns is None else change.mtime_ns,
        ctime_ns=now_ns,
    )


def without_set_id(mode: int, *, keeps_group: bool) -> int:
    """The bits that stay when somebody writes: set-group-id marks locking without group x."""
    return mode & ~(0o4000 if keeps_group and not mode & 0o010 else SET_ID_BITS)


def make_anonymous(row: InodeRow, now_ns: int, local: LocalRow) -> Anonymous:
    """A snapshot of an inode that loses its last name."""
    return Anonymous(replace(row, links=(), copies=0, ctime_ns=now_ns), local)
