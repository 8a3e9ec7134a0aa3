"""Installs PiperFS for a whole system below /usr/local, and removes it again.

The program lives in a virtual environment of its own, so it shares no library with the system.
mount(8) looks for helpers in /sbin and nowhere else, hence the links outside /usr/local.
"""

import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import updatedb
from environment import ROOT, fail, install_packages, make_venv, say

SYSTEM_PYTHON = "/usr/bin/python3"
HOME = Path("/usr/local/lib/piperfs")
LINKS = {
    Path("/usr/local/bin/piperfs"): HOME / "venv/bin/piperfs",
    Path("/sbin/mount.piperfs"): HOME / "venv/bin/mount.piperfs",
    Path("/sbin/umount.piperfs"): HOME / "venv/bin/umount.piperfs",
    Path("/sbin/umount.fuse.piperfs"): HOME / "venv/bin/umount.piperfs",
}
UNITS = Path("/usr/local/lib/systemd/system")
SERVICE = "piperfs@.service"
SYSUSERS = Path("/usr/local/lib/sysusers.d/piperfs.conf")
DOCUMENTS = Path("/usr/local/share/doc/piperfs")
MANUALS = Path("/usr/local/share/man")
COMPLETIONS = {
    "bash": Path("/usr/local/share/bash-completion/completions/piperfs"),
    "zsh": Path("/usr/local/share/zsh/site-functions/_piperfs"),
    "fish": Path("/usr/local/share/fish/vendor_completions.d/piperfs.fish"),
}
KEPT = {Path("/usr/local", name) for name in ("share", "lib", "bin", "share/man")}
UPDATEDB = Path("/etc/updatedb.conf")


def install() -> None:
    """Install, or bring up to date."""
    _require_root()
    os.umask(0o022)
    HOME.mkdir(parents=True, exist_ok=True)
    make_venv(HOME / "venv", _python(), str(ROOT))
    for link, target in LINKS.items():
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    for path, content in _files():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    _edit(UPDATEDB, updatedb.with_names)
    if shutil.which("systemd-sysusers"):
        subprocess.run(["systemd-sysusers", SYSUSERS], check=True)
    _reload()
    say("Installed: piperfs, mount -t piperfs, piperfs@.service, man piperfs")


def remove() -> None:
    """Remove what `install` put there; volumes and mounts stay."""
    _require_root()
    for link, target in LINKS.items():
        if link.is_symlink() and link.readlink() == target:
            link.unlink()
    paths = [UNITS / SERVICE, SYSUSERS, *COMPLETIONS.values(), *(path for path, _ in _pages())]
    for path in paths:
        path.unlink(missing_ok=True)
    for directory in (HOME, DOCUMENTS):
        shutil.rmtree(directory, ignore_errors=True)
    for directory in dict.fromkeys((DOCUMENTS.parent, *(path.parent for path in paths))):
        _remove_if_empty(directory)
    _edit(UPDATEDB, updatedb.without_names)
    _reload()
    say("Removed; the volumes in /var/lib/piperfs are untouched, and so is the user piperfs")


def _python() -> str:
    """The system's own Python if it is new enough: services may not look into home directories."""
    question = [SYSTEM_PYTHON, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if Path(SYSTEM_PYTHON).exists() and subprocess.run(question, check=False).returncode == 0:
        install_packages("python3-dev", "python3-venv")
        return SYSTEM_PYTHON
    if Path(os.path.realpath(sys.executable)).is_relative_to(Path.home()):
        say(f"Note: {sys.executable} is in a home directory, where piperfs@.service cannot run it")
    return sys.executable


def _files() -> Iterator[tuple[Path, bytes]]:
    """Everything beside the program itself: where it goes, and what it holds."""
    yield UNITS / SERVICE, (ROOT / "packaging/systemd" / SERVICE).read_bytes()
    yield SYSUSERS, (ROOT / "packaging/sysusers" / SYSUSERS.name).read_bytes()
    for path in sorted((ROOT / "packaging/systemd").glob("home-shared.*")):
        yield DOCUMENTS / "examples" / path.name, path.read_bytes()
    for path in sorted((ROOT / "packaging/doc").glob("*.md")):
        yield DOCUMENTS / path.name, path.read_bytes()
    for path, page in _pages():
        yield path, gzip.compress(page.read_bytes(), mtime=0)
    for shell, path in COMPLETIONS.items():
        yield path, _completion(shell)


def _pages() -> list[tuple[Path, Path]]:
    """Manual pages: where each goes, and where it lies here."""
    pages = sorted((ROOT / "packaging/man").glob("*.[18]"))
    return [(MANUALS / f"man{page.suffix[1:]}" / f"{page.name}.gz", page) for page in pages]


def _completion(shell: str) -> bytes:
    """The script that the command line itself makes for a shell."""
    environment = {**os.environ, "_PIPERFS_COMPLETE": f"{shell}_source"}
    program = HOME / "venv/bin/piperfs"
    return subprocess.run([program], env=environment, capture_output=True, check=True).stdout


def _remove_if_empty(directory: Path) -> None:
    """Remove a directory and its parents, unless the base system has them."""
    while directory.is_dir() and directory not in KEPT and not any(directory.iterdir()):
        directory.rmdir()
        directory = directory.parent


def _edit(path: Path, change: Callable[[str], str]) -> None:
    """Change a file of configuration in one step, if it exists and the change is one."""
    if not path.exists():
        return
    before = path.read_text()
    after = change(before)
    if after != before:
        draft = path.with_name(f"{path.name}.piperfs-new")
        draft.write_text(after)
        shutil.copystat(path, draft)
        draft.replace(path)


def _require_root() -> None:
    if os.geteuid() != 0:
        fail("run this as root: sudo tools/up --system, or tools/down --system")


def _reload() -> None:
    if Path("/run/systemd/system").exists():
        subprocess.run(["systemctl", "daemon-reload"], check=False)
