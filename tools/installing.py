"""Installs PiperFS for a whole system below /usr/local, and removes it again.

The program lives in a virtual environment of its own, so it shares no library with the system.
mount(8) looks for helpers in /sbin and nowhere else, hence the one link outside /usr/local.
"""

import gzip
import shutil
import subprocess
from pathlib import Path

from environment import ROOT, as_root, fail, make_venv, say

HOME = Path("/usr/local/lib/piperfs")
LINKS = {
    Path("/usr/local/bin/piperfs"): HOME / "venv/bin/piperfs",
    Path("/sbin/mount.piperfs"): HOME / "venv/bin/mount.piperfs",
}
UNITS = Path("/usr/local/lib/systemd/system")
MANUALS = Path("/usr/local/share/man")


def install() -> None:
    """Install, or bring up to date."""
    _require_root()
    HOME.mkdir(parents=True, exist_ok=True)
    make_venv(HOME / "venv", str(ROOT))
    for link, target in LINKS.items():
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    UNITS.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "packaging/systemd/piperfs@.service", UNITS)
    for page in sorted((ROOT / "packaging/man").glob("*.[18]")):
        directory = MANUALS / f"man{page.suffix[1:]}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{page.name}.gz").write_bytes(gzip.compress(page.read_bytes(), mtime=0))
    _reload()
    say("Installed: piperfs, mount -t piperfs, piperfs@.service, man piperfs")


def remove() -> None:
    """Remove what `install` put there; volumes and mounts stay."""
    _require_root()
    for link, target in LINKS.items():
        if link.is_symlink() and link.readlink() == target:
            link.unlink()
    shutil.rmtree(HOME, ignore_errors=True)
    (UNITS / "piperfs@.service").unlink(missing_ok=True)
    for page in sorted((ROOT / "packaging/man").glob("*.[18]")):
        (MANUALS / f"man{page.suffix[1:]}" / f"{page.name}.gz").unlink(missing_ok=True)
    _reload()
    say("Removed; the volumes in /var/lib/piperfs are untouched")


def _require_root() -> None:
    if as_root(["true"]) != ["true"]:
        fail("run this as root: sudo tools/up --system")


def _reload() -> None:
    if Path("/run/systemd/system").exists():
        subprocess.run(["systemctl", "daemon-reload"], check=False)
