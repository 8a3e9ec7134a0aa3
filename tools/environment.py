"""Sets up what a checkout needs to run: Debian packages and a virtual environment in .venv.

Every tool begins here, so a bare checkout needs no instructions. When nothing is missing it
costs a hash of three small files. It uses nothing but the standard library, since it runs before
anything else is installed, and it trusts no active virtual environment, only its own.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin/python"
STAMP = VENV / "piperfs.stamp"
CONSTRAINTS = ROOT / "packaging/constraints.txt"

# What the product needs to be built and to run, and what the tests call beside it.
PRODUCT_PACKAGES = (
    "fuse3", "gcc", "libc6-dev", "libfuse3-dev", "pkg-config", "python3-dev", "python3-venv",
)  # fmt: skip
TEST_PACKAGES = (
    "acl", "attr", "git", "groff-base", "iproute2", "man-db", "procps", "rsync", "sqlite3",
    "strace", "systemd",
)  # fmt: skip

# The programs that tests/apps runs on a mount; only `tools/check` needs them.
APPLICATION_PACKAGES = (
    "cpio", "dbus", "e2fsprogs", "emacs-nox", "fio", "imagemagick", "inotify-tools",
    "libglib2.0-bin", "libreoffice-writer-nogui", "make", "nano", "pcmanfm", "plocate",
    "postgresql", "python3-uno", "stress-ng", "util-linux", "vim", "xdotool", "xfsprogs",
    "xvfb",
)  # fmt: skip


def ensure() -> Path:
    """Set up whatever is missing.

    Returns:
        The Python interpreter of the environment.
    """
    fingerprint = _fingerprint()
    if not _is_current(fingerprint):
        _require_python()
        install_packages(*PRODUCT_PACKAGES, *TEST_PACKAGES)
        make_venv(VENV, sys.executable, "--editable", f"{ROOT}[dev]")
        STAMP.write_text(fingerprint)
    return PYTHON


def ensure_applications() -> None:
    """Install the programs that the tests of applications run."""
    install_packages(*APPLICATION_PACKAGES)


def _is_current(fingerprint: str) -> bool:
    try:
        return STAMP.read_text() == fingerprint and PYTHON.exists()
    except OSError:
        return False


def _fingerprint() -> str:
    """Changes with the dependencies, with this file, with the machine and with the place."""
    state = hashlib.sha256(str(ROOT).encode())
    for path in (ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__), Path("/etc/machine-id")):
        state.update(path.read_bytes() if path.exists() else b"-")
    return state.hexdigest()


def fail(text: str) -> NoReturn:
    """End with one line that says what to do."""
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr)
    sys.exit(1)


def say(text: str) -> None:
    """Tell what is going on, on standard error: standard output belongs to the command."""
    print(text, file=sys.stderr, flush=True)


def _require_python() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - whatever python3 is here runs this file
        fail(f"PiperFS needs Python 3.11 or later; this is {sys.version.split()[0]}")


def install_packages(*names: str) -> None:
    """Install those Debian packages that are not there yet."""
    missing = [name for name in names if not _is_installed(name)]
    if not missing:
        return
    say(f"Installing Debian packages: {' '.join(missing)}")
    if shutil.which("apt-get") is None:
        fail(f"please install these packages, or what they hold: {' '.join(missing)}")
    install = ["install", "-q", "-y", "--no-install-recommends", *missing]
    for command in (["update", "-q"], install):
        wait = ["-o", "DPkg::Lock::Timeout=600"]  # somebody else may be installing
        _run(as_root(["apt-get", *wait, *command]), DEBIAN_FRONTEND="noninteractive")


def _is_installed(name: str) -> bool:
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status}", name]
    try:
        done = subprocess.run(query, capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.stdout == b"installed"


def as_root(command: list[str]) -> list[str]:
    """The command, through sudo where that is needed and there."""
    if os.geteuid() == 0:
        return command
    if shutil.which("sudo") is None:
        fail(f"run this as root first: {' '.join(command)}")
    return ["sudo", "--", *command]


def make_venv(directory: Path, python: str, *requirements: str) -> None:
    """Make or refresh a virtual environment that holds PiperFS."""
    say(f"Setting up {directory}")
    if not (directory / "bin/pip").exists():
        _run([python, "-m", "venv", "--clear", "--symlinks", str(directory)])
    pip = [str(directory / "bin/python"), "-m", "pip", "install", "--quiet"]
    _run([*pip, "--disable-pip-version-check", "--constraint", str(CONSTRAINTS), *requirements])


def _run(command: list[str], **extra: str) -> None:
    """Run a step of the set-up; its output is shown only if it fails."""
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONHOME")}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        command,
        env=environment | extra,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        say(done.stdout[-4000:])
        fail(f"this failed with code {done.returncode}: {' '.join(command)}")
