"""Real programs on a mounted volume: how long they take, and whether loads find faults.

`compare` runs common jobs alternately on the volume and on the disk that holds its store, so that
a busy machine slows both. `load` runs generators that check what they read, each for as long as
asked. Both print one line per job; the exit code is 1 if anything failed.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PIPERFS: Final = (sys.executable, "-P", "-m", "piperfs")
GIT: Final = (
    "git -c user.name=a -c user.email=a@b -c gc.autoDetach=false -c init.defaultBranch=main"
)
SQLITE: Final = "; ".join(f"insert into t values(randomblob({n * 20}))" for n in range(200))

# Each runs in an empty directory after those before it; $SOURCE is a tree of source files.
JOBS: Final = {
    "cp -a in": 'cp -a "$SOURCE" tree',
    "cp -a within": "cp -a tree second",
    "tar c": "tar -cf archive.tar tree",
    "tar x": "mkdir out && tar -C out -xf archive.tar",
    "rsync, no change": 'rsync -a "$SOURCE/" tree',
    "ls -lR": "ls -lR tree >/dev/null",
    "grep -r": "grep -r nothing-of-this-kind tree || true",
    "git add": f"cd tree && {GIT} init -q && {GIT} add -A",
    "git commit": f"cd tree && {GIT} commit -qm x",
    "git status": f"cd tree && {GIT} status --porcelain >/dev/null",
    "git clone": f"{GIT} clone -q tree clone",
    "compileall": f"{sys.executable} -m compileall -q second",
    "sqlite3, 200 commits": f"sqlite3 a.db 'create table t(x); {SQLITE}'",
    "sqlite3 wal": f"sqlite3 b.db 'pragma journal_mode=wal; create table t(x); {SQLITE}'",
    "dd 64 MiB": "dd if=/dev/urandom of=big bs=1M count=64 conv=fsync status=none",
    "cp 64 MiB": "cp big copy",
    "cat 64 MiB": "cat copy >/dev/null",
    "rm -r": "rm -r out second clone",
}
ENGINES: Final = (
    "--ioengine=psync --rw=randrw", "--ioengine=mmap --rw=randwrite",
    "--ioengine=libaio --rw=randwrite --direct=1 --iodepth=16",
    "--ioengine=pvsync --rw=randwrite --fsync=32", "--ioengine=sync --rw=write --bs=1m",
    "--ioengine=psync --rw=randwrite --bsrange=512-256k --bs_unaligned",
)  # fmt: skip
STRESSORS: Final = (
    "access", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "dirmany", "fallocate",
    "fcntl", "filename", "flock", "fpunch", "fsize", "fstat", "getdent", "handle", "hdd", "io",
    "iomix", "lease", "link", "lockf", "lockofd", "mknod", "mmap", "msync", "open", "rename",
    "sendfile", "splice", "symlink", "sync-file", "touch", "utime", "xattr",
)  # fmt: skip


class Volume:
    """A volume of its own on the disk of the scratch directory."""

    def __init__(self, scratch: Path, driver: str) -> None:
        self.state, self.mountpoint = scratch / "state", scratch / "mnt"
        self.mountpoint.mkdir()
        self._piperfs("init", self.state, "--name", "apps")
        options = f"listen=127.0.0.1:0,discovery=off,driver={driver}"
        self._piperfs("mount", self.state, self.mountpoint, "-o", options)
        log = (self.state / "daemon.log").read_text()
        assert "daemon.ready" in log, log

    def _piperfs(self, *words: object) -> str:
        command = [*PIPERFS, *map(str, words)]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    def cpu_s(self) -> float:
        """CPU seconds of the daemon so far."""
        marker = f"piperfs.daemon\0mount\0{self.state}\0".encode()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if marker in path.read_bytes():
                    fields = (path.parent / "stat").read_text().rpartition(")")[2].split()
                    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            except OSError:
                continue  # ended meanwhile
        return 0.0

    def close(self) -> bool:
        """Unmount; whether the store is sound."""
        self._piperfs("umount", self.mountpoint)
        findings = self._piperfs("fsck", self.state)
        print(f"fsck: {findings.strip()}")
        return findings == "No findings.\n"


def run(script: str, directory: Path, source: Path | None = None) -> tuple[float, str]:
    """Run a script; returns seconds, and its output if it failed."""
    environment = {**os.environ, "SOURCE": str(source or ""), "GIT_CONFIG_GLOBAL": "/dev/null"}
    begin = time.monotonic()
    done = subprocess.run(
        ["bash", "-euc", script], cwd=directory, env=environment, check=False, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return time.monotonic() - begin, done.stdout if done.returncode else ""


def compare(volume: Volume, scratch: Path, _seconds: int) -> bool:
    """Time every job on both sides; whether all of them ended well."""
    disk, here = scratch / "disk", volume.mountpoint / "work"
    source = make_source(scratch)
    disk.mkdir()
    here.mkdir()
    print(f"{'job':22} {'disk s':>8} {'volume s':>9} {'ratio':>6} {'daemon CPU s':>13}")
    well = True
    for name, script in JOBS.items():
        on_disk, _ = run(script, disk, source)
        before = volume.cpu_s()
        on_volume, output = run(script, here, source)
        used = volume.cpu_s() - before
        ratio = on_volume / max(on_disk, 0.001)
        print(f"{name:22} {on_disk:8.2f} {on_volume:9.2f} {ratio:6.1f} {used:13.2f}", flush=True)
        if output:
            print(f"  failed: {output[-500:]}")
            well = False
    return well


def make_source(scratch: Path) -> Path:
    """The standard library without tests and without compiled files: some 2,000 files at most."""
    source = scratch / "source"
    ignored = shutil.ignore_patterns("site-packages", "test", "tests", "__pycache__", "*.a")
    shutil.copytree(sysconfig.get_path("stdlib"), source, symlinks=True, ignore=ignored)
    return source


def load(volume: Volume, _scratch: Path, seconds: int) -> bool:
    """Run everything that checks itself; whether nothing was found."""
    here = volume.mountpoint
    fio = (
        f"fio --name=check --directory={here} --aux-path={here} --size=64m --numjobs=3 --bs=4k"
        f" --verify=crc32c --verify_fatal=1 --loops=100 --runtime={seconds} --output=/dev/null"
    )
    stress = f"stress-ng --temp-path {here} --timeout {seconds} --verify"
    jobs = {f"fio {engine}": f"{fio} {engine}" for engine in ENGINES}
    jobs |= {
        f"stress-ng {name}": f"{stress} --{name} 2 2>&1 | (! grep fail:)" for name in STRESSORS
    }
    jobs["dbench"] = f"dbench -D {here} -t {seconds} 4"
    jobs["bonnie++"] = f"bonnie++ -d {here} -s 64:64k -r 32 -n 4 -u root -q -f"
    well = True
    for name, script in jobs.items():
        took, output = run(script, here)
        print(f"{name:60} {took:7.1f} s {'FAILED' if output else 'ok'}", flush=True)
        if output:
            print(output[-1000:])
            well = False
    return well


MODES: Final[dict[str, Callable[[Volume, Path, int], bool]]] = {"compare": compare, "load": load}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/apps", description=__doc__)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--seconds", type=int, default=20, help="of each load [20]")
    parser.add_argument("--driver", default="kernel", choices=("kernel", "pyfuse3"))
    parser.add_argument("--directory", type=Path, help="where to work [the temporary directory]")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unmounts on the way out
    scratch = Path(tempfile.mkdtemp(prefix="piperfs-apps-", dir=options.directory))
    try:
        volume = Volume(scratch, options.driver)
        try:
            well = MODES[options.mode](volume, scratch, options.seconds)
        finally:
            sound = volume.close()
        return 0 if well and sound else 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
