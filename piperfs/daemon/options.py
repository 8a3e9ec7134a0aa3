"""The options of `mount` and `serve`, as one typed value parsed from one text.

`-o` on the command line, the fourth field of fstab and the flags of `serve` all arrive here, so
a word means the same wherever it is written. mount(8) and systemd pass generic words as well:
those that the kernel honours are passed on, those that only mount(8) itself reads are dropped.
"""

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from piperfs.core.errors import ExitCode, UserError
from piperfs.core.limits import KIB, MIB
from piperfs.fs.owners import NO_MAP, IdMap

Driver = Literal["kernel", "pyfuse3"]
DRIVERS: Final[tuple[Driver, ...]] = ("kernel", "pyfuse3")
GIB: Final = 1024 * MIB
ID_MAX: Final = (1 << 32) - 2
UNITS: Final = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1024 * GIB}


@dataclass(frozen=True, slots=True)
class Address:
    """A place to listen at or to dial."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that can be chosen when a volume is mounted or served."""

    listen: Address = Address("", 0)  # all interfaces, a port that the kernel picks
    peers: tuple[Address, ...] = ()
    discovery: bool = True
    read_only: bool = False
    allow_other: bool = False
    cache_bytes: int | None = None  # None: keep every chunk
    metrics_port: int | None = None  # None: no HTTP
    driver: Driver | None = None  # None: the best that works here
    deadline_s: float = 30.0  # how long a read may wait for an absent chunk
    kernel: tuple[str, ...] = ("nosuid", "nodev")  # passed to mount(2)
    idmap: IdMap = NO_MAP  # numbers for owners that peers name
    run_as: str | None = None  # the user that the daemon runs as, of a mount made by root
    by_service: bool = False  # the daemon runs as piperfs@NAME.service


Setter = Callable[[Options, str], Options]

KERNEL_WORDS: Final = frozenset({
    "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "strictatime", "sync",
    "dirsync", "nosymfollow",
})  # fmt: skip
IGNORED_WORDS: Final = frozenset({
    "defaults", "auto", "noauto", "nofail", "_netdev", "nouser", "loud", "silent", "lazytime",
    "nolazytime", "default_permissions",
})  # fmt: skip
IGNORED_PREFIXES: Final = ("x-", "X-", "comment=", "context=", "fscontext=", "subtype=", "fsname=")
# Who may mount says what he may bring in, as in mount(8), unless a later word undoes it.
IMPLIED: Final[dict[str, tuple[str, ...]]] = {
    "user": ("noexec", "nosuid", "nodev"), "users": ("noexec", "nosuid", "nodev"),
    "owner": ("nosuid", "nodev"), "group": ("nosuid", "nodev"),
}  # fmt: skip
UNDONE: Final[dict[str, tuple[str, ...]]] = {
    "exec": ("noexec",), "suid": ("nosuid",), "dev": ("nodev",), "async": ("sync",),
    "symfollow": ("nosymfollow",), "atime": ("noatime",), "diratime": ("nodiratime",),
    "norelatime": ("relatime",), "nostrictatime": ("strictatime",),
    "noatime": ("relatime", "strictatime"), "relatime": ("noatime", "strictatime"),
    "strictatime": ("noatime", "relatime"),
}  # fmt: skip
GENERIC_WORDS: Final = KERNEL_WORDS | IMPLIED.keys() | UNDONE.keys()


def parse_options(text: str, *, sloppy: bool = False) -> Options:
    """Read a comma-separated list of options; later words win over earlier ones.

    Args:
        text: as after `-o`.
        sloppy: drop unknown words, as `mount -s` asks for.

    Raises:
        UserError: a word is unknown or its value makes no sense; the error names it.
    """
    options = Options()
    for word in filter(None, text.split(",")):
        if not (sloppy and _is_unknown(word)):
            options = _apply(options, word)
    return options


def _is_unknown(word: str) -> bool:
    name = word.partition("=")[0]
    known = name in VALUED or word in FLAGS or word in GENERIC_WORDS | IGNORED_WORDS
    return not known and not word.startswith(IGNORED_PREFIXES)


def _apply(options: Options, word: str) -> Options:
    name, equals, value = word.partition("=")
    if equals and name in VALUED:
        try:
            return VALUED[name](options, value)
        except ValueError as error:
            raise UserError(f"option '{word}': {error}", ExitCode.USAGE) from error
    if name in VALUED:
        raise UserError(f"option '{name}' needs a value: {name}=…", ExitCode.USAGE)
    if word in FLAGS:
        return FLAGS[word](options)
    if word in GENERIC_WORDS:
        return _with_generic(options, word)
    if _is_unknown(word):
        raise UserError(_unknown(name), ExitCode.USAGE)
    return options


def _unknown(name: str) -> str:
    known = [*VALUED, *FLAGS, *GENERIC_WORDS, *IGNORED_WORDS]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    hint = f"did you mean '{near[0]}'?" if near else "piperfs(1) lists them"
    return f"unknown option '{name}'; {hint}"


def _with_generic(options: Options, word: str) -> Options:
    """What the kernel is told after one more word of mount(8): it undoes words before it."""
    undone = UNDONE.get(word, ())
    kept = [each for each in options.kernel if each not in undone]
    added = IMPLIED.get(word, (word,) if word in KERNEL_WORDS else ())
    return replace(options, kernel=tuple(dict.fromkeys((*kept, *added))))


FLAGS: Final[dict[str, Callable[[Options], Options]]] = {
    "ro": lambda options: replace(options, read_only=True),
    "rw": lambda options: replace(options, read_only=False),
    "allow_other": lambda options: replace(options, allow_other=True),
    "service": lambda options: replace(options, by_service=True),
}


def parse_address(text: str, *, port_min: int = 1) -> Address:
    """Read HOST:PORT, with a numeric IPv6 host in brackets.

    Raises:
        ValueError: it is not one; the message says what is expected.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isascii() or not port.isdigit():
        raise ValueError("expected HOST:PORT")
    if not port_min <= int(port) <= 65535:
        raise ValueError(f"a port lies in {port_min}..65535")
    return Address(host, int(port))


def parse_size(text: str) -> int:
    """Read a number of bytes, with K, M, G or T for powers of 1024.

    Raises:
        ValueError: it is not one.
    """
    number = text.rstrip("KMGTkmgt")
    unit = text[len(number) :].upper()
    if not number.isascii() or not number.isdigit() or unit not in UNITS:
        raise ValueError("expected a size such as 500M or 20G")
    return int(number) * UNITS[unit]


def _set_listen(options: Options, value: str) -> Options:
    return replace(options, listen=parse_address(value, port_min=0))


def _add_peer(options: Options, value: str) -> Options:
    address = parse_address(value)
    if not address.host:
        raise ValueError("expected HOST:PORT")
    return replace(options, peers=(*options.peers, address))


def _set_discovery(options: Options, value: str) -> Options:
    if value not in ("on", "off"):
        raise ValueError("expected on or off")
    return replace(options, discovery=value == "on")


def _set_cache(options: Options, value: str) -> Options:
    return replace(options, cache_bytes=parse_size(value))


def _set_metrics(options: Options, value: str) -> Options:
    return replace(options, metrics_port=parse_address(f":{value}").port)


def _set_driver(options: Options, value: str) -> Options:
    for driver in DRIVERS:
        if driver == value:
            return replace(options, driver=driver)
    raise ValueError(f"expected one of {', '.join(DRIVERS)}")


def _set_deadline(options: Options, value: str) -> Options:
    try:
        seconds = float(value.removesuffix("s"))
    except ValueError as error:
        raise ValueError("expected seconds") from error
    if not 0.1 <= seconds <= 3600:
        raise ValueError("expected 0.1 to 3600 seconds")
    return replace(options, deadline_s=seconds)


def _set_idmap(options: Options, value: str) -> Options:
    try:
        text = Path(value).read_text() if value.startswith("/") else value.replace(":", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read it: {error}") from error
    return replace(options, idmap=parse_idmap(text))


def parse_idmap(text: str) -> IdMap:
    """Read lines of `NAME=UID` for users and `@NAME=GID` for groups; `# ` begins a comment.

    An owner without a name is stored as `#NUMBER`, so `#1000=1001` is an entry.

    Raises:
        ValueError: a line is neither, or gives a number twice.
    """
    users: dict[str, int] = {}
    groups: dict[str, int] = {}
    for line in text.splitlines():
        entry = line.partition("# ")[0].strip()
        if not entry:
            continue
        name, equals, number = (part.strip() for part in entry.rpartition("="))
        table = groups if name.startswith("@") else users
        name = name.removeprefix("@")
        if not equals or not name or not number.isascii() or not number.isdigit():
            raise ValueError(f"'{entry}': expected NAME=UID or @NAME=GID")
        if int(number) > ID_MAX or int(number) in table.values() or name in table:
            raise ValueError(f"'{entry}': too large, or given twice")
        table[name] = int(number)
    return IdMap(users, groups)


def _set_run_as(options: Options, value: str) -> Options:
    return replace(options, run_as=value or None)


VALUED: Final[dict[str, Setter]] = {
    "listen": _set_listen,
    "peer": _add_peer,
    "discovery": _set_discovery,
    "cache": _set_cache,
    "metrics": _set_metrics,
    "driver": _set_driver,
    "deadline": _set_deadline,
    "idmap": _set_idmap,
    "runas": _set_run_as,
}


def option_names() -> Iterator[str]:
    """The options that are PiperFS's own, for the manual to document."""
    yield from VALUED
    yield from FLAGS
    yield from ("suid", "dev")  # generic, but off by default
