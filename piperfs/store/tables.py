"""Typed tables over an engine, with an overlay of what is not committed yet.

All changes go into the overlay on the event-loop thread as plain objects; encoding, sealing and
signing happen when the overlay is committed, in a worker thread, many operations at a time. Reads
look into the overlay, then into the part that is being committed, then into the engine. A crash
loses the overlay as a whole and never a part of it, so what remains is a prefix of what happened.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, Generic, TypeAlias, TypeVar

import msgspec

from piperfs.store.cells import Cells
from piperfs.store.engine import Engine

V = TypeVar("V")
Encode: TypeAlias = Callable[[V], bytes]
Decode: TypeAlias = Callable[[bytes], V]

READ_MAX: Final = 512  # decoded rows of one table that are kept until it changes

_pack = msgspec.msgpack.Encoder().encode


class Codec(Generic[V]):
    """How a table's values become bytes. The cell is bound to the table's name and the key."""

    def __init__(self, encode: Encode[V], decode: Decode[V], cells: Cells | None) -> None:
        self._encode, self._decode, self._cells = encode, decode, cells
        self.is_dear = cells is not None  # to decode, for what it holds

    def encode(self, prefix: bytes, rows: dict[bytes, V | None]) -> dict[bytes, bytes | None]:
        """The bytes of many rows; a value of None stays None."""
        encode, cells = self._encode, self._cells
        if cells is None or not rows:
            return {k: None if v is None else encode(v) for k, v in rows.items()}
        seal = cells.sealer(len(rows))
        return {k: None if v is None else seal(prefix + k, encode(v)) for k, v in rows.items()}

    def decode(self, place: bytes, raw: bytes) -> V:
        return self._decode(raw if self._cells is None else self._cells.open(place, raw))


def sealed(kind: object, cells: Cells) -> Codec[V]:
    """A codec for msgspec values in sealed cells."""
    return Codec(_pack, msgspec.msgpack.Decoder(kind).decode, cells)


def raw_bytes(cells: Cells | None = None) -> Codec[bytes]:
    """A codec for bytes; without cells they must check themselves, as chunks do."""
    return Codec(bytes, bytes, cells)


def _paged(
    scan: Callable[[bytes, bytes], Iterator[tuple[bytes, V]]], start: bytes, end: bytes, size: int
) -> Iterator[list[tuple[bytes, V]]]:
    while rows := list(islice(scan(start, end), size)):
        yield rows
        start = rows[-1][0] + b"\0"


class Overlay(dict[bytes, V | None]):
    """Rows on top of the engine, None being a deletion; only a scan needs their keys in order.

    A key stays until the overlay is dropped as a whole, so those that came since the last scan are
    the last ones.
    """

    __slots__ = ("_order",)

    def __init__(self) -> None:
        super().__init__()
        self._order: list[bytes] = []

    def between(self, start: bytes, end: bytes) -> list[bytes]:
        """Keys with start <= key < end, in order."""
        if len(self._order) < len(self):
            self._order += islice(self, len(self._order), None)
            self._order.sort()  # nearly sorted already, which costs little
        return self._order[bisect_left(self._order, start) : bisect_left(self._order, end)]


class Table(Generic[V]):
    """One table: a mapping from bytes to immutable values, ordered by key."""

    def __init__(self, name: str, engine: Engine, codec: Codec[V]) -> None:
        self.name = name
        self._prefix = name.encode() + b"\x00"
        self._engine = engine
        self._codec = codec
        self._active: Overlay[V] = Overlay()
        self._frozen: Overlay[V] = Overlay()
        self._read: dict[bytes, V | None] = {}  # what the engine holds, of keys asked for lately

    def get(self, key: bytes) -> V | None:
        if key in self._active:
            return self._active[key]
        if key in self._frozen:
            return self._frozen[key]
        if key in self._read:
            return self._read[key]
        value = self.get_durable(key)
        if self._codec.is_dear:
            if len(self._read) >= READ_MAX:
                self._read.clear()
            self._read[key] = value  # one system call asks for the same row many times
        return value

    def get_anywhere(self, key: bytes) -> V | None:
        """Like `get`, from any thread.

        A row moves from the active overlay to the frozen one and then to the engine, and is looked
        for in that order, so it cannot be missed on the way.
        """
        for overlay in (self._active, self._frozen):
            if key in overlay:
                return overlay[key]
        raw = self._engine.get_anywhere(self.name, key)
        return None if raw is None else self._codec.decode(self._prefix + key, raw)

    def has(self, key: bytes) -> bool:
        for overlay in (self._active, self._frozen):
            if key in overlay:
                return overlay[key] is not None
        return self._engine.has(self.name, key)

    def put(self, key: bytes, value: V) -> None:
        self._active[key] = value

    def delete(self, key: bytes) -> None:
        self._active[key] = None

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, V]]:
        """Pairs with start <= key < end in key order. Do not change the table meanwhile."""
        raws = self._engine.scan(self.name, start, end)
        for key, raw, value in self._overlaid(raws, start, end):
            if raw is not None:
                yield key, self._codec.decode(self._prefix + key, raw)
            elif value is not None:
                yield key, value

    def keys(self, start: bytes, end: bytes) -> Iterator[bytes]:
        """The keys that `scan` gives, without decoding a value."""
        raws = ((key, b"") for key in self._engine.keys(self.name, start, end))
        for key, raw, value in self._overlaid(raws, start, end):
            if raw is not None or value is not None:
                yield key

    def _overlaid(
        self, raws: Iterator[tuple[bytes, bytes]], start: bytes, end: bytes
    ) -> Iterator[tuple[bytes, bytes | None, V | None]]:
        """Rows of the engine, with those of the overlays in their places."""
        overlay: dict[bytes, V | None] = {}
        for layer in (self._frozen, self._active):
            for key in layer.between(start, end):
                overlay[key] = layer[key]
        fresh = iter(sorted(overlay))
        waiting = next(fresh, None)
        for key, raw in raws:
            while waiting is not None and waiting < key:
                yield waiting, None, overlay[waiting]
                waiting = next(fresh, None)
            if waiting == key:
                yield key, None, overlay[key]
                waiting = next(fresh, None)
            else:
                yield key, raw, None
        while waiting is not None:
            yield waiting, None, overlay[waiting]
            waiting = next(fresh, None)

    def pages(self, start: bytes, end: bytes, size: int) -> Iterator[list[tuple[bytes, V]]]:
        """Like `scan`, in lists of `size` pairs, between which anything may change."""
        return _paged(self.scan, start, end, size)

    def durable_keys(self, start: bytes, end: bytes, size: int) -> Iterator[list[bytes]]:
        """Keys of what is committed, in lists of `size`, between which anything may change."""
        while keys := list(islice(self._engine.keys(self.name, start, end), size)):
            yield keys
            start = keys[-1] + b"\0"

    def durable_pages(self, start: bytes, end: bytes, size: int) -> Iterator[list[tuple[bytes, V]]]:
        """Like `pages`, over what is committed; the snapshot may be renewed between two."""
        return _paged(self.scan_durable, start, end, size)

    def bytes_durable(self) -> int:
        """About how many bytes the table takes on the disk."""
        return self._engine.table_bytes(self.name)

    def scan_durable(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, V]]:
        """Like `scan`, over what is committed only."""
        for key, raw in self._engine.scan(self.name, start, end):
            yield key, self._codec.decode(self._prefix + key, raw)

    def count_durable(self) -> int:
        return self._engine.count(self.name)

    def get_durable(self, key: bytes) -> V | None:
        raw = self._engine.get(self.name, key)
        return None if raw is None else self._codec.decode(self._prefix + key, raw)

    @property
    def changes(self) -> int:
        """Rows waiting for the next commit."""
        return len(self._active)

    def forget_reads(self) -> None:
        """What the engine holds may have changed."""
        self._read.clear()

    def freeze(self) -> None:
        """Set the overlay aside for a commit; new changes gather in a fresh one."""
        assert not self._frozen, "one commit at a time"
        if self._active:  # most tables see no change between two commits
            self._frozen, self._active = self._active, Overlay()

    def encode_frozen(self) -> dict[bytes, bytes | None]:
        """The frozen overlay as bytes. Runs in the committing thread; values are immutable."""
        return self._codec.encode(self._prefix, self._frozen)

    def thaw(self, *, committed: bool) -> None:
        """Forget the frozen overlay once the engine has it, or put it back after a failure."""
        if not self._frozen:
            return
        if not committed:
            for key, value in self._frozen.items():
                self._active.setdefault(key, value)
        self._frozen = Overlay()
        self.forget_reads()
