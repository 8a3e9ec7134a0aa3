"""The main flow as somebody who is not root: no privilege but that of fusermount3.

Most tests run as root, who may mount, read and write everything; this one shows that nothing that
a person does every day needs it.
"""

import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.volumes import Replica, eventually, replicas, use_readable_python

NOBODY = pwd.getpwnam("nobody")
pytestmark = pytest.mark.mount


DEVICE = """set -e
mknod "$1" c 10 229
chmod 666 "$1"
mount --bind "$1" /dev/fuse
echo
exec cat
"""


class OrdinaryReplica(Replica):
    """A replica whose every command, daemon and file is an ordinary user's."""

    space = 0  # a process whose mounts it sees

    def __init__(self, base: Path, name: str) -> None:
        super().__init__(base, name)
        use_readable_python(self)
        self.environment |= {"HOME": str(self.base), "USER": NOBODY.pw_name}
        for path in (self.base, *self.base.iterdir()):
            os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)

    def run(self, *arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        return self.do(*self.program, *arguments, stdin=stdin)

    def do(self, *command: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run any command as the user."""
        become = ("setpriv", f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}")
        return subprocess.run(
            ["nsenter", "-t", str(self.space), "-m", *become, "--clear-groups", *command],
            env=self.environment, input=stdin, text=True, capture_output=True, timeout=60,
            check=False, cwd="/",
        )  # fmt: skip

    def shell(self, script: str) -> str:
        done = self.do("sh", "-ec", script)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def is_mounted(self) -> bool:
        return str(self.mountpoint) in Path(f"/proc/{self.space}/mountinfo").read_text()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the user can reach, where /dev/fuse is as udev makes it: for everybody."""
    path = Path(tempfile.mkdtemp(prefix="piperfs-user-"))
    path.chmod(0o755)
    command = ["unshare", "-m", "sh", "-c", DEVICE, "sh", path / "fuse"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as holder:  # type: ignore[call-overload]
        assert holder.stdout.readline() == b"\n"
        OrdinaryReplica.space = holder.pid
        yield path
    shutil.rmtree(path)


def test_an_ordinary_user_makes_mounts_shares_and_unmounts_a_volume(place: Path) -> None:
    with replicas(place / "r", "anna", "ben", kind=OrdinaryReplica) as (anna, ben):
        assert isinstance(anna, OrdinaryReplica)
        assert isinstance(ben, OrdinaryReplica)
        anna.init().mount()
        ben.join(anna).mount(f"peer={anna.address}")
        anna.shell(
            f"cd {anna.mountpoint}; mkdir d; echo text > d/f; chmod 640 d/f; ln -s f d/l; sync d/f"
        )
        eventually(lambda: ben.do("cat", f"{ben.mountpoint}/d/l").stdout == "text\n")
        ben.shell(f"cd {ben.mountpoint}; echo more >> d/f; mv d e; setfattr -n user.k -v v e/f")
        eventually(lambda: anna.do("cat", f"{anna.mountpoint}/e/f").stdout == "text\nmore\n")
        assert json.loads(ben.piperfs("sync", str(ben.state), "--copies", "1", "--json"))
        eventually(lambda: anna.digest() == ben.digest())
        for replica in (anna, ben):
            facts = replica.status()
            lines = Path(f"/proc/{facts['pid']}/status").read_text().splitlines()
            assert f"Uid:\t{NOBODY.pw_uid}\t{NOBODY.pw_uid}" in "\n".join(lines)
            assert facts["in_sync"]
        options = anna.shell(f"findmnt -n -o OPTIONS {anna.mountpoint}").strip().split(",")
        assert {"nosuid", "nodev", f"user_id={NOBODY.pw_uid}", "default_permissions"} <= set(
            options
        )
        assert "allow_other" not in options
        anna.kill()  # what a dead daemon leaves is mounted over
        anna.mount()
        assert anna.shell(f"cat {anna.mountpoint}/e/f") == "text\nmore\n"
        for replica in (anna, ben):
            replica.umount()
            assert not replica.is_mounted()
            assert "No findings" in replica.piperfs("fsck", str(replica.state))
            owners = {path.lstat().st_uid for path in replica.state.rglob("*")}
            assert owners == {NOBODY.pw_uid}
