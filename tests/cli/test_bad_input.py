"""Everything that people get wrong: one clear line, the right exit code, and nothing harmed.

The table is the contract. Each row runs the real command line against a real, running volume, and
afterwards everything on the disk is where it was.
"""

import fcntl
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3

from piperfs.core.ticket import format_ticket, parse_ticket
from tests.support.volumes import Replica, replicas

pytestmark = [pytest.mark.net, pytest.mark.mount]
REVERT = ("revert", "--author", "ben")
BYTES = os.fsdecode(b"a\xff")  # a name of a file, and no UTF-8
NOW_NS = 0  # before any expiry: tests look into tickets, they do not judge them


@dataclass
class World:
    """A served volume, and one of everything that can be wrong."""

    anna: Replica
    ben: Replica
    base: Path
    spent: str
    listener: socket.socket

    @property
    def fresh(self) -> str:
        return self.anna.piperfs("invite", str(self.anna.state)).strip()

    @property
    def forged(self) -> str:
        ticket = parse_ticket(self.spent, NOW_NS)
        fields = (ticket.volume, ticket.invite, bytes(32), ticket.expires_ns, ticket.addresses)
        return format_ticket(type(ticket)(*fields))

    @property
    def expired(self) -> str:
        ticket = parse_ticket(self.spent, NOW_NS)
        fields = (ticket.volume, ticket.invite, ticket.secret, 1, ticket.addresses)
        return format_ticket(type(ticket)(*fields))

    @property
    def unanswered(self) -> str:
        ticket = parse_ticket(self.spent, NOW_NS)
        nobody = (f"127.0.0.1:{self.bound_port}",)
        fields = (ticket.volume, ticket.invite, ticket.secret, ticket.expires_ns, nobody)
        return format_ticket(type(ticket)(*fields))

    @property
    def bound_port(self) -> int:
        return int(self.listener.getsockname()[1])

    def new(self) -> str:
        return str(self.base / "new")

    def missing(self) -> str:
        return str(self.base / "missing")

    def empty(self) -> str:
        (self.base / "empty").mkdir(exist_ok=True)
        return str(self.base / "empty")

    def foreign(self) -> str:
        (self.base / "foreign").mkdir(exist_ok=True)
        (self.base / "foreign/letter.txt").write_text("dear")
        return str(self.base / "foreign")

    def copy_of_ben(self, name: str) -> Path:
        """A volume that may be damaged; it must never run."""
        if not (self.base / name).exists():
            shutil.copytree(self.ben.state, self.base / name)
        return self.base / name

    def newer(self) -> str:
        path = self.copy_of_ben("newer")
        facts = json.loads((path / "volume.json").read_bytes()) | {"format": 99}
        (path / "volume.json").write_text(json.dumps(facts))
        return str(path)

    def mangled(self) -> str:
        path = self.copy_of_ben("mangled")
        (path / "volume.json").write_text('{"format": 1, "vol')
        return str(path)

    def without_store(self) -> str:
        path = self.copy_of_ben("without-store")
        shutil.rmtree(path / "store", ignore_errors=True)
        return str(path)

    def with_empty_store(self) -> str:
        path = self.copy_of_ben("with-empty-store")
        shutil.rmtree(path / "store", ignore_errors=True)
        (path / "store").mkdir()
        return str(path)

    def without_key(self) -> str:
        path = self.copy_of_ben("without-key")
        (path / "keys/device.key").unlink(missing_ok=True)
        return str(path)

    def with_open_key(self) -> str:
        path = self.copy_of_ben("with-open-key")
        (path / "keys/device.key").chmod(0o644)
        return str(path)

    def with_rotten_key(self) -> str:
        path = self.copy_of_ben("with-rotten-key")
        key = path / "keys/device.key"
        raw = bytearray(key.read_bytes())
        raw[len(raw) // 2] ^= 1
        key.write_bytes(raw)
        return str(path)

    def locked(self) -> str:
        path = self.copy_of_ben("locked")
        self.lock = os.open(path / "lock", os.O_RDWR)  # until the process ends
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return str(path)

    def own(self) -> str:
        return str(self.ben.state)

    def annas(self) -> str:
        """The volume on an admin's computer."""
        return str(self.anna.state)

    @property
    def ben_id(self) -> str:
        return str(self.ben.status()["replica"])

    def full(self) -> str:
        """A place on a disk without room."""
        disk = self.base / "disk"
        if not disk.is_mount():
            disk.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(disk)]
            subprocess.run(command, check=True)
        return str(disk / "volume")


def let_in_and_out(anna: Replica, base: Path) -> None:
    """One member that was removed, and two of the same name."""
    for number, name in enumerate(("gone", "twin", "twin")):
        ticket = anna.piperfs("invite", str(anna.state))
        state = str(base / f"guest{number}")
        anna.piperfs("join", state, "-", "--member", name, stdin=ticket)
    anna.piperfs("remove-member", str(anna.state), "gone")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    base = tmp_path_factory.mktemp("bad-input")
    with replicas(base, "anna", "ben") as (anna, ben), socket.socket() as listener:
        ben.environment["XDG_RUNTIME_DIR"] = anna.environment["XDG_RUNTIME_DIR"]
        listener.bind(("127.0.0.1", 0))
        anna.init()
        flags = ("--listen", "127.0.0.1:0", "--discovery", "off", "--detach")
        anna.piperfs("serve", str(anna.state), *flags)
        spent = anna.piperfs("invite", str(anna.state)).strip()
        ben.piperfs("join", str(ben.state), "-", "--member", "ben", stdin=spent)
        let_in_and_out(anna, base)
        made = World(anna, ben, base, spent, listener)
        yield made
        if (base / "disk").is_mount():
            subprocess.run(["umount", str(base / "disk")], check=True)


Make = Callable[[World], list[str]]
ROWS: list[tuple[str, Make, int, str]] = [
    # tickets
    ("wrong ticket", lambda w: ["join", w.new(), "sesame"], 2, "one begins with piper1:"),
    ("no ticket at all", lambda w: ["join", w.new(), "-"], 2, "one begins with piper1:"),
    ("newer ticket", lambda w: ["join", w.new(), "piper9:abc"], 2, "of another version"),
    ("cut ticket", lambda w: ["join", w.new(), w.fresh[:-3]], 2, "copy it again"),
    ("changed ticket", lambda w: ["join", w.new(), w.fresh[:-9] + "aaaaaaaaa"], 2, "mangled"),
    ("expired ticket", lambda w: ["join", w.new(), w.expired], 5, "has expired"),
    ("spent ticket", lambda w: ["join", w.new(), w.spent], 5, "spent"),
    ("forged ticket", lambda w: ["join", w.new(), w.forged], 5, "ticket"),
    ("nobody answers", lambda w: ["join", w.new(), w.unanswered], 4, "no member answers"),
    ("join over a volume", lambda w: ["join", w.own(), w.fresh], 5, "is a volume already"),
    ("join into somebody's files", lambda w: ["join", w.foreign(), w.fresh], 5, "is not empty"),
    # state directories
    ("missing volume", lambda w: ["status", w.missing()], 4, "there is no volume at"),
    ("missing name", lambda w: ["status", "nowhere"], 4, "there is no volume at"),
    ("empty volume", lambda w: ["status", w.empty()], 4, "is its disk mounted?"),
    ("foreign directory", lambda w: ["status", w.foreign()], 4, "is not a volume"),
    ("newer volume", lambda w: ["status", w.newer()], 5, "update it"),
    ("mangled volume", lambda w: ["status", w.mangled()], 5, "nothing was changed"),
    ("store is missing", lambda w: ["status", w.without_store()], 4, "is its disk mounted?"),
    ("store is empty", lambda w: ["serve", w.with_empty_store()], 4, "join again"),
    ("key is missing", lambda w: ["status", w.without_key()], 4, "is missing"),
    ("key is open to others", lambda w: ["status", w.with_open_key()], 5, "chmod 600"),
    ("key has rotted", lambda w: ["status", w.with_rotten_key()], 5, "put a copy of it back"),
    ("volume in use", lambda w: ["status", w.locked()], 5, "is in use"),
    ("served twice", lambda w: ["serve", str(w.anna.state)], 5, "is in use by process"),
    ("init over a volume", lambda w: ["init", w.own()], 5, "is a volume already"),
    ("init over files", lambda w: ["init", w.foreign()], 5, "is not empty"),
    ("a volume below a file", lambda w: ["init", w.own() + "/volume.json/x"], 1, "cannot make it"),
    (
        "a name too long",
        lambda w: ["init", w.new() + "x" * 300, "--name", "x"],
        1,
        "File name too long",
    ),
    ("no name", lambda w: ["init", ""], 2, "name is empty"),
    ("a name of bytes", lambda w: ["init", w.new() + BYTES], 2, "the label is not valid UTF-8"),
    ("a label of bytes", lambda w: ["init", w.new(), "--name", BYTES], 2, "label is not valid"),
    ("a member of bytes", lambda w: ["init", w.new(), "--member", BYTES], 2, "member is not valid"),
    ("a missing volume of bytes", lambda w: ["status", w.missing() + BYTES], 4, "no volume at"),
    ("a label of colours", lambda w: ["init", w.new(), "--name", "\x1b[31m"], 2, "cannot be shown"),
    ("a label of lines", lambda w: ["init", w.new() + "\n"], 2, "cannot be shown"),
    ("a long label", lambda w: ["init", w.new(), "--name", "x" * 101], 2, "than 100 characters"),
    ("a member of lines", lambda w: ["init", w.new(), "--member", "a\nb"], 2, "cannot be shown"),
    ("a long member", lambda w: ["init", w.new(), "--member", "x" * 101], 2, "than 100 characters"),
    ("a guest of bells", lambda w: ["join", w.new(), "-", "--member=\a"], 2, "cannot be shown"),
    ("a long guest", lambda w: ["join", w.new(), "-", "--member", "x" * 101], 2, "(--member)"),
    # mount points
    ("no mount point", lambda w: ["mount", w.own(), w.missing()], 4, "create the directory"),
    ("an empty mount point", lambda w: ["mount", w.own(), ""], 2, "mount point is empty"),
    ("nothing to unmount", lambda w: ["umount", ""], 2, "mount point is empty"),
    ("a file", lambda w: ["mount", w.own(), "/etc/hostname"], 5, "is not a directory"),
    ("somebody's files", lambda w: ["mount", w.own(), w.foreign()], 5, "is not empty"),
    ("not mounted", lambda w: ["umount", w.empty()], 4, "no volume is mounted here"),
    # ports
    (
        "port in use",
        lambda w: ["serve", w.own(), "--listen", w.anna.address],
        5,
        "choose another port",
    ),
    (
        "metrics port in use",
        lambda w: ["serve", w.own(), "--metrics", w.anna.address.rpartition(":")[2]],
        5,
        "is in use",
    ),
    # full disks
    ("init on a full disk", lambda w: ["init", w.full()], 1, "space"),
    ("join on a full disk", lambda w: ["join", w.full(), w.fresh], 1, "space"),
    # words
    ("no command", lambda w: ["frob"], 2, "no such command 'frob'"),
    ("no argument", lambda w: ["status"], 2, "missing argument 'VOLUME'"),
    ("extra argument", lambda w: ["status", w.own(), "x"], 2, "unexpected extra argument"),
    ("unknown flag", lambda w: ["status", w.own(), "--jsno"], 2, "no such option '--jsno'"),
    ("unknown option", lambda w: ["mount", w.own(), w.empty(), "-o", "frob"], 2, "'frob'"),
    ("a flag for an option", lambda w: ["mount", w.own(), w.empty(), "-o", "-x"], 2, "option '-x'"),
    ("a flag to serve", lambda w: ["serve", w.own(), "-o", "-x"], 2, "unknown option '-x'"),
    ("repair in use", lambda w: ["fsck", w.annas(), "--repair"], 5, "unmount the volume first"),
    ("misspelt option", lambda w: ["serve", w.own(), "-o", "perr=x"], 2, "did you mean 'peer'"),
    ("wrong value", lambda w: ["serve", w.own(), "--peer", "x"], 2, "expected HOST:PORT"),
    ("wrong size", lambda w: ["serve", w.own(), "--cache", "much"], 2, "expected a size"),
    ("wrong role", lambda w: ["invite", w.own(), "--role", "king"], 2, "'admin'"),
    ("wrong duration", lambda w: ["invite", w.own(), "--expires", "soon"], 2, "15m"),
    ("a ticket of no time", lambda w: ["invite", w.annas(), "--expires", "0s"], 2, "1s to 3650d"),
    ("a ticket for ever", lambda w: ["invite", w.annas(), "--expires=3651d"], 2, "1s to 3650d"),
    ("a long number", lambda w: ["invite", w.annas(), "--expires", "9" * 5000 + "d"], 2, "15m"),
    ("since ever", lambda w: [*REVERT, w.annas(), "--since", "0001-01-01"], 2, "2026-01-31T12:00"),
    ("no time to wait", lambda w: ["sync", w.annas(), "--timeout", "nan"], 2, "must be a number"),
    ("copies below zero", lambda w: ["sync", w.own(), "--copies=-1"], 2, "0<=x<=1000"),
    # rights, names, time
    ("not an admin", lambda w: ["invite", w.own()], 5, "needs the role admin"),
    ("unknown member", lambda w: ["remove-member", w.own(), "zoe"], 4, "no member is called"),
    ("nameless member", lambda w: ["remove-member", w.own(), ""], 4, "no member is called"),
    ("short id", lambda w: ["remove-member", w.own(), w.ben_id[:3]], 4, "members lists them"),
    ("role of nobody", lambda w: ["set-role", w.own(), "zoe", "reader"], 4, "no member is called"),
    ("unknown role", lambda w: ["set-role", w.own(), "ben", "king"], 2, "'admin'"),
    (
        "an author of bytes",
        lambda w: ["revert", w.own(), "--author", BYTES, "--since", "1h"],
        2,
        "the author is not valid UTF-8",
    ),
    ("no role", lambda w: ["set-role", w.own(), "ben"], 2, "missing argument 'ROLE'"),
    ("role without right", lambda w: ["set-role", w.own(), "ben", "admin"], 5, "the role admin"),
    ("removal without right", lambda w: ["remove-member", w.own(), "anna"], 5, "the role admin"),
    ("keys without right", lambda w: ["rotate-keys", w.own()], 5, "needs the role admin"),
    ("members of nothing", lambda w: ["members", w.missing()], 4, "there is no volume at"),
    ("last admin leaves", lambda w: ["remove-member", w.annas(), "anna"], 5, "last admin"),
    ("last admin reads", lambda w: ["set-role", w.annas(), "anna", "reader"], 5, "last admin"),
    ("a store may read", lambda w: ["set-role", w.annas(), "ben", "store"], 5, "invite it anew"),
    ("removed twice", lambda w: ["remove-member", w.annas(), "gone"], 5, "was removed already"),
    ("removed, then used", lambda w: ["set-role", w.annas(), "gone", "reader"], 5, "was removed"),
    ("namesakes", lambda w: ["remove-member", w.annas(), "twin"], 2, "give the start of the id"),
    ("a quorum of none", lambda w: ["init", w.new(), "--quorum", "0"], 2, "1<=x<=16"),
    ("a quorum of words", lambda w: ["init", w.new(), "--quorum", "x"], 2, "valid whole number"),
    ("copies of words", lambda w: ["sync", w.own(), "--copies", "x"], 2, "valid whole number"),
    ("time of words", lambda w: ["sync", w.own(), "--timeout=x"], 2, "valid number of seconds"),
    ("too few copies", lambda w: ["sync", str(w.anna.state), "--copies=9", "--timeout=0.2"], 3, ""),
]


@pytest.mark.parametrize(
    ("make", "code", "words"), [row[1:] for row in ROWS], ids=[r[0] for r in ROWS]
)
def test_bad_input_is_told_in_one_line(world: World, make: Make, code: int, words: str):
    arguments = make(world)
    before = everything_below(world.base)
    done = world.ben.run(*arguments, stdin="")
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (code, "", 1), done.stderr
    assert lines[0].startswith("piperfs: ")
    assert words in lines[0]
    assert everything_below(world.base) == before


def test_a_mount_point_takes_one_volume(world: World):
    done = world.ben.mount()
    try:
        other = world.ben.run("mount", str(world.anna.state), str(done.mountpoint))
        assert other.returncode == 5
        own = world.ben.run("init", world.new())
        second = world.ben.run("mount", world.new(), str(done.mountpoint))
        assert (own.returncode, second.returncode) == (0, 5)
        assert "mounted already" in second.stderr
        assert len(second.stderr.splitlines()) == 1
    finally:
        world.ben.umount()
        shutil.rmtree(world.new())


def test_the_same_volume_at_the_same_place_is_success(world: World):
    world.ben.mount()
    try:
        again = world.ben.run("mount", world.own(), str(world.ben.mountpoint))
        assert (again.returncode, again.stdout) == (0, "")
        assert "already mounted" in again.stderr
    finally:
        world.ben.umount()


def test_afterwards_nothing_was_harmed(world: World):
    assert world.anna.piperfs("fsck", str(world.anna.state)) == "No findings.\n"
    assert world.ben.piperfs("fsck", str(world.ben.state)) == "No findings.\n"


def everything_below(base: Path) -> dict[str, bytes | None]:
    """Names and hashes of contents; what daemons and locks write all the time is left out."""
    busy = ("lock", "lock.mdb", "data.mdb", "daemon.log", "reserve")
    found: dict[str, bytes | None] = {}
    for path in base.rglob("*"):
        if path.name not in busy and not path.is_socket():
            found[str(path)] = blake3(path.read_bytes()).digest() if path.is_file() else None
    return found
