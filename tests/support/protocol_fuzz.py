"""Arbitrary requests for the adapter that speaks the kernel protocol, over a socket.

The socket stands where the kernel's device is: whole packets in, whole packets out. Most requests
are nearly right, with the numbers, names and sizes that break things; some are noise. Each must
get one well-formed answer, none may raise, and afterwards an honest request must be answered.
"""

import errno
import os
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from piperfs.daemon.clock import in_thread
from piperfs.fuse.kernel import layout
from piperfs.fuse.kernel.connection import Connection
from piperfs.fuse.kernel.layout import Opcode
from piperfs.fuse.service import Service, Surroundings
from tests.support.computers import Computer

SILENT = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}
KNOWN = [opcode for opcode in Opcode if opcode is not Opcode.INIT]
NUMBERS = (
    0, 1, 2, 3, 4, 7, 255, 4095, 4096, 65_536, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1,
    1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
)  # fmt: skip
NAMES = (
    b"a", b"b", b"d", b"s", b"new", b"", b".", b"..", b"a/b", b"n" * 255, b"n" * 256, b"\xff\xfe",
    b".piperfs", b"user.a", b"security.capability", b"system.posix_acl_access", b"x" * 5000,
    b"trusted.t", b"user.", b"orphans",
)  # fmt: skip
LAYOUTS = {
    Opcode.FORGET: layout.FORGET_IN, Opcode.BATCH_FORGET: layout.BATCH_FORGET_IN,
    Opcode.GETATTR: layout.GETATTR_IN, Opcode.SETATTR: layout.SETATTR_IN,
    Opcode.MKNOD: layout.MKNOD_IN, Opcode.MKDIR: layout.MKDIR_IN, Opcode.RENAME: layout.RENAME_IN,
    Opcode.RENAME2: layout.RENAME2_IN, Opcode.LINK: layout.LINK_IN, Opcode.OPEN: layout.OPEN_IN,
    Opcode.OPENDIR: layout.OPEN_IN, Opcode.CREATE: layout.CREATE_IN,
    Opcode.TMPFILE: layout.CREATE_IN, Opcode.READ: layout.READ_IN, Opcode.WRITE: layout.WRITE_IN,
    Opcode.READDIR: layout.READ_IN, Opcode.READDIRPLUS: layout.READ_IN,
    Opcode.RELEASE: layout.RELEASE_IN, Opcode.RELEASEDIR: layout.RELEASE_IN,
    Opcode.FLUSH: layout.FLUSH_IN, Opcode.FSYNC: layout.FSYNC_IN, Opcode.FSYNCDIR: layout.FSYNC_IN,
    Opcode.SETXATTR: layout.SETXATTR_EXT_IN, Opcode.GETXATTR: layout.GETXATTR_IN,
    Opcode.LISTXATTR: layout.GETXATTR_IN, Opcode.INTERRUPT: layout.INTERRUPT_IN,
    Opcode.FALLOCATE: layout.FALLOCATE_IN, Opcode.LSEEK: layout.LSEEK_IN,
    Opcode.COPY_FILE_RANGE: layout.COPY_FILE_RANGE_IN,
    Opcode.COPY_FILE_RANGE_64: layout.COPY_FILE_RANGE_IN,
}  # fmt: skip


class Requests:
    """Makes requests; remembers the numbers that answers gave, to use them again."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.inos = [1]
        self.handles = [1, 2]
        self.unique = 2

    def next(self) -> tuple[int, int, bytes]:
        """A request's unique number, opcode and bytes."""
        opcode = self._opcode()
        body = self._noise() if self.rng.random() < 0.1 else self._body(opcode)
        self.unique += 2
        ids = (self.rng.choice((0, 1000)), self.rng.choice((0, 1000)), self.rng.choice((0, 1, 99)))
        length = layout.IN_HEADER.size + len(body)
        if self.rng.random() < 0.03:
            length = self.rng.choice((0, 1, 39, length - 1, length + 1, 1 << 20, (1 << 32) - 1))
        head = layout.IN_HEADER.pack(length, opcode, self.unique, self._ino(), *ids, 0, 0)
        return self.unique, opcode, head + body

    def _opcode(self) -> int:
        if self.rng.random() < 0.05:
            return self.rng.choice((0, 7, 19, 33, 37, 49, 54, 4096, (1 << 32) - 1))
        return int(self.rng.choice(KNOWN))

    def _ino(self) -> int:
        return self.rng.choice(NUMBERS if self.rng.random() < 0.05 else self.inos[-40:])

    def _noise(self) -> bytes:
        return self.rng.randbytes(self.rng.choice((0, 1, 7, 8, 16, 40, 64, 200, 5000)))

    def _body(self, opcode: int) -> bytes:
        shape = LAYOUTS.get(Opcode(opcode)) if opcode in KNOWN else None
        fixed = b"" if shape is None else self._fill(shape)
        tail = self._name() + b"\0"
        if self.rng.random() < 0.5:
            tail += self._name() + b"\0"
        return fixed + tail if self.rng.random() < 0.95 else (fixed + tail)[:-3]

    def _name(self) -> bytes:
        return self.rng.choice(NAMES)

    def _fill(self, shape: struct.Struct) -> bytes:
        """The fields of a structure, half of them numbers in use."""
        codes = [c for c in shape.format if c in "IQqHi"]
        return shape.pack(*map(self._number, codes))

    def _number(self, code: str) -> int:
        bits = {"I": 32, "i": 31, "Q": 64, "q": 63, "H": 16}[code]
        pool = (
            (*self.handles[-6:], *self.inos[-3:], 0, 5, 100) if self.rng.random() < 0.6 else NUMBERS
        )
        return self.rng.choice(pool) & ((1 << bits) - 1)

    def learn(self, opcode: int, answer: bytes) -> None:
        """Take up inode numbers and handles from an answer."""
        body = answer[layout.OUT_HEADER.size :]
        entry = layout.ENTRY_OUT.size
        if opcode in (Opcode.LOOKUP, Opcode.MKDIR, Opcode.MKNOD, Opcode.SYMLINK, Opcode.LINK,
                      Opcode.CREATE, Opcode.TMPFILE) and len(body) >= entry:  # fmt: skip
            self.inos.append(struct.unpack_from("=Q", body)[0])
            body = body[entry:]
        if (
            opcode in (Opcode.OPEN, Opcode.OPENDIR, Opcode.CREATE, Opcode.TMPFILE)
            and len(body) >= 16
        ):
            self.handles.append(struct.unpack_from("=Q", body)[0])


def check_answer(unique: int, answer: bytes) -> None:
    """Whatever it says, it is well-formed and answers what was asked."""
    length, error, answered = layout.OUT_HEADER.unpack_from(answer)
    assert length == len(answer), (length, len(answer), answer[:40])
    assert answered == unique, (answered, unique)
    assert -4095 <= error <= 0
    assert -error in errno.errorcode or error == 0
    assert not error or length == layout.OUT_HEADER.size


@asynccontextmanager
async def connection(computer: Computer) -> Any:
    """A served connection and the kernel's end of it."""
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (kernel, ours):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)

    async def commit() -> None:
        computer.commit()

    async def fetch(_chunks: Any, _deadline: float) -> None:
        raise AssertionError("nothing is absent here")

    around = Surroundings(
        fetch, lambda _chunks: None, lambda: None, commit, computer.clock, in_thread
    )
    service = Service(computer.fs, around)
    with kernel, ours:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Connection(ours.fileno(), computer.fs, service).run)
            nursery.start_soon(service.run)
            talk = Talk(trio.socket.from_stdlib_socket(kernel.dup()))
            await talk.begin()
            yield talk
            nursery.cancel_scope.cancel()
            talk.socket.close()


class Talk:
    """The kernel's side of the conversation."""

    def __init__(self, end: trio.socket.SocketType) -> None:
        self.socket = end

    async def begin(self) -> None:
        body = layout.INIT_IN.pack(layout.KERNEL_MAJOR, 45, 1 << 20, (1 << 32) - 1)
        head = layout.IN_HEADER.pack(
            layout.IN_HEADER.size + len(body), Opcode.INIT, 1, 0, 0, 0, 0, 0, 0
        )
        await self.ask(1, head + body)

    async def ask(self, unique: int, request: bytes) -> bytes:
        """Send a request and wait for its answer."""
        await self.socket.send(request)
        with trio.fail_after(30):
            answer = await self.socket.recv(5 << 20)
        check_answer(unique, answer)
        return answer

    async def probe(self) -> None:
        """An honest question must still be answered."""
        head = layout.IN_HEADER.pack(56, Opcode.GETATTR, 999_999_999, 1, 0, 0, 1, 0, 0)
        answer = await self.ask(999_999_999, head + bytes(16))
        assert len(answer) > layout.OUT_HEADER.size


async def fuzz(computer: Computer, seed: int, count: int) -> int:
    """Ask `count` questions; returns how many of them were granted."""
    requests = Requests(seed)
    granted = 0
    async with connection(computer) as talk:
        for number in range(count):
            unique, opcode, raw = requests.next()
            if opcode in SILENT:
                await talk.socket.send(raw)
                continue
            answer = await talk.ask(unique, raw)
            if layout.OUT_HEADER.unpack_from(answer)[1] == 0:
                granted += 1
                requests.learn(opcode, answer)
            if number % 500 == 0:
                await talk.probe()
        await talk.probe()
    return granted


def seeds(first: int, count: int) -> Iterator[int]:
    yield from range(first, first + count)


assert os.sysconf("SC_PAGE_SIZE") == 4096
