"""The local half of the one write path: changes in, pending operations out, then publication.

Every local put keeps the invariant on which the merge rests (I-base): a new write supersedes only
heads that it is based on. Vectors cannot say "my ninth write but not my fifth", so a write that
forgot one of its own author's losing heads would destroy it without any replica noticing. It is
asserted here, on every put.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

from msgspec.structs import replace

from piperfs.core import moments, resolve
from piperfs.core import operation as operations
from piperfs.core.clock import HybridClock
from piperfs.core.errors import StoreError
from piperfs.core.ids import ORPHANS, EpochId, InodeId, LinkId, ReplicaId, is_directory
from piperfs.core.limits import CHANGED_DIRECTORIES_MAX
from piperfs.core.merge import is_covered
from piperfs.core.operation import Write
from piperfs.core.record import (
    PENDING,
    PENDING_SEQ,
    AnyHead,
    Body,
    ContentBody,
    ContentHead,
    Head,
    Kind,
    LinkBody,
    XattrBody,
    xattr_key,
)
from piperfs.core.version_vector import join
from piperfs.store import bodies
from piperfs.store.authors import Authors, Shown
from piperfs.store.change import (
    Change,
    DeleteContent,
    KillLink,
    MoveLink,
    Pin,
    PutContent,
    PutLink,
    RetargetLink,
    SetAttributes,
    SetXattr,
)
from piperfs.store.index import Index
from piperfs.store.oplog import OperationLog, dot_key
from piperfs.store.pending import PendingOperation, PendingOperations, PendingWrite, RecordKey
from piperfs.store.records import Records, operations_of
from piperfs.store.schema import Tables

VERSION_AGE_NS_MIN: Final = 30 * 1_000_000_000


class Sealing(Protocol):
    """The epoch that this replica writes in, and the means to seal bodies for it."""

    @property
    def epoch(self) -> EpochId: ...

    def seal_bodies(self, header: bytes, plain: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What the write path works on."""

    tables: Tables
    records: Records
    index: Index
    log: OperationLog
    authors: Authors
    clock: HybridClock


class HalfMadeError(StoreError):
    """A change was begun and cannot be made whole: it must never reach the disk or a peer."""


class LocalWriter:
    """Applies local changes and publishes what they amount to."""

    def __init__(self, replica: ReplicaId, parts: Parts, sealing: Sealing) -> None:
        self._replica = replica
        self._parts = parts
        self._sealing = sealing
        self._pending = PendingOperations()
        self._pins: dict[InodeId, Pin] = {}
        self._forgotten: dict[InodeId, int] = {}  # moments that records do not tell any more
        self._keeps = False  # all that is replaced now, however young
        raw = parts.tables.meta.get(b"last_seq")
        self.last_seq = int.from_bytes(raw or b"", "big")

    @property
    def waiting(self) -> int:
        """Operations that wait for publication."""
        return len(self._pending)

    def pin(self, inode: InodeId) -> Pin:
        """Remember the versions that a writer who opens the inode now will build on."""
        assert inode not in self._pins, "one session for each inode"
        pin = Pin(inode, self._parts.records.contents(inode))
        self._pins[inode] = pin
        return pin

    def unpin(self, inode: InodeId) -> None:
        del self._pins[inode]

    @property
    def untold(self) -> Iterable[InodeId]:
        """Directories whose newest change the next publication tells."""
        return self._forgotten.keys()

    def touch(self, directories: Iterable[InodeId], now: int) -> None:
        """Entries that only this replica has changed; the directories' times are everybody's."""
        for directory in directories:
            self._parts.index.touch(directory, now)
            self._forgotten[directory] = now

    def apply(
        self,
        changes: Sequence[Change],
        now_ns: int,
        stamp: int | None = None,
        *,
        keep: bool = False,
    ) -> None:
        """Apply the changes of one system call as one operation.

        `stamp` dates them earlier; with `keep` everything that they replace goes into history.
        """
        self._keeps = keep
        touched = {key for change in changes for key in self._touches(change)}
        fits = self._pending.fits(touched, 2 * len(changes))
        if not fits or any(map(self._needs_a_number, changes)):
            self.publish(now_ns)
        for key in touched:
            self._parts.records.heads(*key)  # what is damaged is met before anything is changed
        hlc = stamp or self._parts.clock.tick(now_ns)
        operation = self._pending.begin(touched)
        stale: dict[InodeId, set[LinkId]] = {}
        try:
            for change in changes:
                for inode, link in self._put_change(operation, change, hlc):
                    stale.setdefault(inode, set()).update((link,) if link else ())
        except StoreError as error:
            raise HalfMadeError(f"{error} (met in the middle of a change)", error.kind) from error
        for inode, links in stale.items():
            self._parts.index.refresh(inode, links)
        for change in changes:
            self._finish(operation, change)

    def _needs_a_number(self, change: Change) -> bool:
        """Whether the change is about a pending version, and cannot become part of it."""
        if isinstance(change, SetAttributes) and change.mtime_ns is not None:
            write = self._pending.write((Kind.CONTENT, change.inode))
            return write is not None and not _takes_times(write.body)
        return self._is_beside_pending(change)

    def _is_beside_pending(self, change: Change) -> bool:
        """Whether the change must not take the place of a pending version, not knowing it."""
        if not isinstance(change, PutContent | DeleteContent) or change.pin is None:
            return False
        write = self._pending.write((Kind.CONTENT, change.inode))
        if write is None:
            return False
        pending = write.head(self._replica)
        return not any(
            (h.operation, h.body, h.refs) == (PENDING, pending.body, pending.refs)
            for h in change.pin.heads
        )

    def _touches(self, change: Change) -> Iterable[RecordKey]:
        match change:
            case PutLink() | MoveLink() | RetargetLink() | KillLink():
                yield Kind.LINK, change.link
                write = self._pending.write((Kind.LINK, change.link))
                if isinstance(change, KillLink) and write is not None and write.is_birth:
                    yield from self._companions(InodeId(change.link))
            case PutContent():
                yield Kind.CONTENT, change.inode
            case DeleteContent():
                yield from self._records_of(change.inode)
            case SetAttributes():
                yield Kind.ATTRIBUTES, change.inode
                birth = Kind.LINK if is_directory(change.inode) else Kind.CONTENT
                yield birth, change.inode
            case SetXattr():
                yield Kind.XATTR, xattr_key(change.inode, change.name)

    def _records_of(self, inode: InodeId) -> list[RecordKey]:
        """A file's content and links, and whatever else goes with it while it is unpublished."""
        row = self._parts.tables.inode.get(inode)
        keys: list[RecordKey] = [(Kind.CONTENT, inode)]
        if row is not None:
            links = [*(place.link for place in row.links), *row.hidden]
            keys += [(Kind.LINK, link) for link in links]
        content = self._pending.write((Kind.CONTENT, inode))
        if content is not None and content.is_birth:
            keys += self._companions(inode)
        return keys

    def _companions(self, inode: InodeId) -> list[RecordKey]:
        """The records that mean nothing without the inode."""
        xattrs = self._parts.tables.xattrs.get(inode)
        names = xattrs.values if xattrs else ()
        keys: list[RecordKey] = [(Kind.XATTR, xattr_key(inode, name)) for name in names]
        return [*keys, (Kind.ATTRIBUTES, inode)]

    def _put_change(
        self, operation: PendingOperation, change: Change, hlc: int
    ) -> list[tuple[InodeId, LinkId | None]]:
        """Write one change; returns the inodes to evaluate anew, with the link that changed."""
        match change:
            case PutLink() | MoveLink() | RetargetLink() | KillLink():
                return self._put_link(operation, change, hlc)
            case PutContent():
                self._put_content(operation, change, hlc)
                return [(change.inode, None)]
            case DeleteContent():
                self._delete_content(operation, change, hlc)
                return [(change.inode, None)]
            case SetAttributes():
                self._set_attributes(operation, change, hlc)
                return [(change.inode, None)]
            case SetXattr():
                key = xattr_key(change.inode, change.name)
                xattr = XattrBody(change.inode, change.name, change.value)
                self._put(operation, (Kind.XATTR, key), hlc, xattr)
                self._parts.index.refresh_xattr(change.inode, key)
                return [(change.inode, None)]

    def _put_link(
        self,
        operation: PendingOperation,
        change: PutLink | MoveLink | RetargetLink | KillLink,
        hlc: int,
    ) -> list[tuple[InodeId, LinkId | None]]:
        heads = self._parts.records.links(change.link)
        before = resolve.current_link(heads).body if heads else None
        contents = self._parts.records.contents(before.target) if before is not None else ()
        if isinstance(change, KillLink) and change.pin is not None:
            contents = change.pin.heads
        seen = join(head.vector for head in contents)
        body = bodies.link_body(change, before, hlc, self._replica, seen)
        self._put(operation, (Kind.LINK, change.link), hlc, body)
        stale: list[tuple[InodeId, LinkId | None]] = [(body.target, change.link)]
        if before is not None and before.target != body.target:
            stale.insert(0, (before.target, change.link))
        return stale

    def _put_content(self, operation: PendingOperation, change: PutContent, hlc: int) -> None:
        known = None if change.pin is None else change.pin.heads
        key = (Kind.CONTENT, change.inode)
        body = change.body
        if change.replaces:
            body = replace(body, directories=self._directories_of(change.inode))
        head = self._put(operation, key, hlc, body, change.refs, known)
        if change.pin is not None:
            change.pin.heads = (cast(ContentHead, head),)

    def _delete_content(self, operation: PendingOperation, change: DeleteContent, hlc: int) -> None:
        inode, known = change.inode, None if change.pin is None else change.pin.heads
        heads = self._parts.records.contents(inode)
        winner = resolve.current_content(known or heads)
        row = self._parts.tables.inode.get(inode)
        assert row is not None
        seen = {}
        for link in (*(place.link for place in row.links), *row.hidden):
            if link_heads := self._parts.records.links(link):  # none where nobody named the file
                seen[link] = dict(resolve.current_link(link_heads).vector)
        directories = self._directories_of(inode)
        body = replace(winner.body, alive=False, base=b"", directories=directories, links_seen=seen)
        self._put(operation, (Kind.CONTENT, inode), hlc, body, winner.refs, known)

    def _directories_of(self, inode: InodeId) -> tuple[InodeId, ...]:
        row = self._parts.tables.inode.get(inode)
        found = {place.parent for place in row.links} - {ORPHANS} if row else set()
        return tuple(sorted(found)[:CHANGED_DIRECTORIES_MAX])

    def _set_attributes(self, operation: PendingOperation, change: SetAttributes, hlc: int) -> None:
        """Fold what can be folded into an unpublished birth; write a record for the rest."""
        birth = Kind.LINK if is_directory(change.inode) else Kind.CONTENT
        key = (birth, change.inode)
        write = operation.writes.get(key)
        body = None if write is None else write.body
        if write is not None and body is not None and _takes_times(body):
            folded, change = bodies.fold(change, write.body, birth_is_open=write.is_birth)
            if folded is not write.body:
                head = self._put(operation, key, hlc, folded, write.refs, known=())
                self._advance_pin(change.inode, write.head(self._replica), head)
        if bodies.is_empty(change):
            return
        if change.mtime_ns is not None and birth is Kind.LINK:
            # Whoever sets the time knows of what is shown, were it made by a clock far ahead.
            row = self._parts.tables.inode.get(change.inode)
            hlc = hlc if row is None else max(hlc, row.changed_ns, row.times_ns)
        heads = self._parts.records.attributes(change.inode)
        contents = self._parts.records.contents(change.inode)
        content = resolve.current_content(contents) if contents else None
        body = bodies.attributes_body(change, heads, content, hlc, self._replica)
        self._put(operation, (Kind.ATTRIBUTES, change.inode), hlc, body)

    def _put(
        self,
        operation: PendingOperation,
        key: RecordKey,
        hlc: int,
        body: Body,
        refs: tuple = (),  # type: ignore[type-arg]
        known: Sequence[AnyHead] | None = None,
    ) -> AnyHead:
        """Put one write. It supersedes `known` heads (None: all) and our own pending one."""
        before = self._parts.records.heads(*key)
        published = [head for head in before if head.operation != PENDING]
        based_on = published if known is None else [h for h in published if _is_in(h, known)]
        earlier = operation.writes.get(key)
        hlc = max(hlc, earlier.hlc if earlier else 0, *(head.hlc for head in based_on))
        vectors = [head.vector for head in based_on]
        base = join([earlier.based_on, *vectors] if earlier else vectors)
        write = PendingWrite(hlc, base, refs, body)
        head = write.head(self._replica)
        kept = [other for other in published if not is_covered(other, head)]
        assert len(kept) + len(based_on) == len(published), "a write covers only what it knows"
        self._pending.put(operation, key, write)
        heads = sorted([head, *kept], key=lambda h: h.stamp, reverse=True)
        self._parts.records.put(*key, tuple(heads))
        self._parts.index.note_moments(head)
        self._note_forgotten([h for h in before if h not in kept], heads)
        for superseded in based_on:
            self._release(superseded, key[0], hlc)
        if key[0] is Kind.CONTENT:
            self._parts.index.note_content(InodeId(key[1]))
        return head

    def _note_forgotten(self, superseded: Sequence[AnyHead], heads: Sequence[AnyHead]) -> None:
        """Whoever makes records forget the newest change of a directory must tell it otherwise."""
        for directory, moment in moments.forgotten(superseded, heads).items():
            row = self._parts.tables.inode.get(directory)
            if row is not None and row.changed_ns == moment:
                self._forgotten[directory] = moment

    def _release(self, head: AnyHead, kind: Kind, now_ns: int) -> None:
        keep = is_version(kind, head, None if self._keeps else self._replica, now_ns)
        dot = dot_key(head.replica, head.seq)
        self._parts.log.release(head.operation, dot, now_ns, keep=keep)

    def _finish(self, operation: PendingOperation, change: Change) -> None:
        """Effects that need the new row: births that came to nothing."""
        match change:
            case DeleteContent(inode):
                self._maybe_vanish(operation, inode, self._records_of(inode))
                self._drop_new_links(operation, inode)
            case KillLink(link) if is_directory(link):
                row = self._parts.tables.inode.get(InodeId(link))
                if row is not None and not row.entries:
                    keys = [(Kind.LINK, link), *self._companions(InodeId(link))]
                    self._maybe_vanish(operation, InodeId(link), keys)

    def _maybe_vanish(
        self, operation: PendingOperation, inode: InodeId, keys: list[RecordKey]
    ) -> None:
        """If nobody else ever heard of it, leave no trace but the directory's new time."""
        keys = [key for key in keys if key in operation.writes]
        heads = [head for key in keys for head in self._parts.records.heads(*key)]
        if not operation.writes[keys[0]].is_birth or operations_of(tuple(heads)):
            return
        self._note_forgotten(heads, ())
        for key in keys:
            self._parts.records.forget(*key)
        self._parts.tables.xattrs.delete(inode)
        self._pending.drop(operation, keys)
        self._parts.index.refresh(inode)

    def _drop_new_links(self, operation: PendingOperation, inode: InodeId) -> None:
        """Names that nobody else heard of go with the file.

        An edit made elsewhere meanwhile brings it back, and must do so under a known name.
        """
        row = self._parts.tables.inode.get(inode)
        for link in row.hidden if row is not None else ():
            key = (Kind.LINK, link)
            write, heads = operation.writes.get(key), self._parts.records.heads(*key)
            if write is None or not write.is_birth or not isinstance(write.body, LinkBody):
                continue
            if operations_of(heads):  # somebody else made the same name for a conflict copy
                continue
            self._note_forgotten(heads, ())
            self._parts.records.forget(*key)
            self._pending.drop(operation, [key])
            self._parts.index.refresh(inode, [link])

    # Publication

    def publish(self, now_ns: int) -> None:
        """Number, seal and log all pending operations, in the order they were made."""
        self._publish_directory_times(now_ns)
        for operation in self._pending.take_all():
            self._publish(operation, now_ns)

    def _publish_directory_times(self, now_ns: int) -> None:
        """Tell of directory times that no published operation implies."""
        forgotten, self._forgotten = self._forgotten, {}
        for inode, moment in forgotten.items():
            row = self._parts.tables.inode.get(inode)
            if row is not None and row.changed_ns == moment > row.times_ns:
                times = SetAttributes(inode, mtime_ns=moment)
                self.apply([times], now_ns, moment)  # and not the change time of now

    def _publish(self, operation: PendingOperation, now_ns: int) -> None:
        self.last_seq = max(self.last_seq + 1, now_ns // 1_000_000)
        seq = self.last_seq
        writes = tuple(
            Write(kind, key, write.hlc, write.based_on, write.refs, self._numbered(write.body, seq))
            for (kind, key), write in operation.writes.items()
        )
        sealing = self._sealing
        envelope = operations.encode(self._replica, seq, sealing.epoch, writes, sealing.seal_bodies)
        identity = envelope.id
        for write, pending in zip(writes, operation.writes.values(), strict=True):
            vector = {**write.based_on, self._replica: seq}
            fields = (self._replica, seq, write.hlc, vector, write.refs, write.body, identity)
            head = cast(AnyHead, Head(*fields))
            self._parts.records.publish(write.kind, write.key, head)
            if write.kind is Kind.CONTENT:
                self._advance_pin(InodeId(write.key), pending.head(self._replica), head)
        self._parts.log.append(identity, dot_key(self._replica, seq), envelope, len(writes))
        self._parts.authors.note(Shown(self._replica, seq, envelope))
        self._parts.tables.meta.put(b"last_seq", seq.to_bytes(8, "big"))

    def _advance_pin(self, inode: InodeId, before: AnyHead, now: AnyHead) -> None:
        """A pending version changed its form; an open file that builds on it goes along."""
        pin = self._pins.get(inode)
        if pin is not None:
            same = (before.operation, before.body, before.refs)
            pin.heads = tuple(
                cast(ContentHead, now) if (h.operation, h.body, h.refs) == same else h
                for h in pin.heads
            )

    def _numbered(self, body: Body, seq: int) -> Body:
        """A removal that has seen pending writes is published together with them."""

        def number(vector: Mapping[ReplicaId, int]) -> dict[ReplicaId, int]:
            return {r: seq if s == PENDING_SEQ else s for r, s in vector.items()}

        if isinstance(body, LinkBody) and body.content_seen:
            return replace(body, content_seen=number(body.content_seen))
        if isinstance(body, ContentBody) and body.links_seen:
            seen = {link: number(vector) for link, vector in body.links_seen.items()}
            return replace(body, links_seen=seen)
        return body


def _takes_times(body: Body) -> bool:
    """Whether a time fits into a version: not if its own one dates a change of directories."""
    return isinstance(body, ContentBody) and not body.directories


def is_version(kind: Kind, head: AnyHead, by: ReplicaId | None, now_ns: int) -> bool:
    """Tell whether a superseded head is kept as a version that people may want back.

    Everything that somebody else, or a command, superseded is kept, so that it can be undone. Of a
    replica's own quick successive saves (a database writes hundreds a second) and moves those that
    stood for a while.
    """
    if isinstance(head.body, ContentBody) and not head.body.alive:
        return False
    if head.replica != by:
        return True
    is_own_version = kind in (Kind.CONTENT, Kind.LINK)
    return is_own_version and now_ns - head.hlc >= VERSION_AGE_NS_MIN


def _is_in(head: AnyHead, known: Iterable[AnyHead]) -> bool:
    return any(
        head.replica == other.replica
        and head.seq == other.seq
        and head.operation == other.operation
        for other in known
    )
