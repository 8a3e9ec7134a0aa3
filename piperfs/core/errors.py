"""Who is at fault: the caller of a system call, the user of a command, a peer, or the disk.

One closed list of kinds for system calls; the FUSE adapters alone turn a kind into an errno.
A `UserError` reaches a person: its text says what happened, to what, and what to do next.
"""

import enum


class PiperError(Exception):
    """Parent of all errors that PiperFS raises on purpose."""


class ErrorKind(enum.Enum):
    """Why a system call fails. The names follow the errno each adapter maps them to."""

    NOT_PERMITTED = "operation not permitted"
    NOT_FOUND = "no such file or directory"
    IO = "input/output error"
    BAD_HANDLE = "bad file descriptor"
    ACCESS = "permission denied"
    BUSY = "resource busy"
    EXISTS = "file exists"
    CROSS_DEVICE = "cross-device link"
    NOT_A_DIRECTORY = "not a directory"
    IS_A_DIRECTORY = "is a directory"
    INVALID = "invalid argument"
    TOO_BIG = "file too large"
    NO_SPACE = "no space left on device"
    READ_ONLY = "read-only file system"
    TOO_MANY_LINKS = "too many links"
    NAME_TOO_LONG = "file name too long"
    NOT_EMPTY = "directory not empty"
    LOOP = "too many levels of symbolic links"
    NO_ATTRIBUTE = "no such attribute"
    RANGE = "result too large for the buffer"
    NOT_SUPPORTED = "operation not supported"
    NO_DATA_BEYOND = "no data at or after this offset"
    QUOTA = "quota exceeded"
    STALE = "stale file handle"
    UNREACHABLE = "no peer that holds the data answers"
    TIMED_OUT = "the data did not arrive in time"
    INTERRUPTED = "interrupted"


class FsError(PiperError):
    """A system call fails; `kind` says why."""

    def __init__(self, kind: ErrorKind, detail: str = "") -> None:
        super().__init__(f"{kind.value}{': ' if detail else ''}{detail}")
        self.kind = kind


class StoreError(PiperError):
    """The local store is damaged, full or failing; `kind` is what the caller is told."""

    def __init__(self, message: str, kind: ErrorKind = ErrorKind.IO) -> None:
        super().__init__(message)
        self.kind = kind


class PeerError(PiperError):
    """A peer sent something that no correct peer sends; the message names the rule it broke."""


class NoKeyError(PeerError):
    """The key of an epoch has not come yet; nobody broke a rule."""


class DisconnectedError(PeerError):
    """A connection ended; nobody broke a rule."""


class ExitCode(enum.IntEnum):
    """Exit codes of the command line; stable, since scripts rely on them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    TIMED_OUT = 3
    NOT_FOUND = 4
    REFUSED = 5
    CRASHED = 6


class UserError(PiperError):
    """A command cannot do what was asked; the text is written for the person who asked."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code
