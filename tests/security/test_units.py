"""The shipped unit is as closed as a daemon can be that talks to the network."""

import ctypes
import subprocess
import sys
from pathlib import Path

UNIT = Path(__file__).parents[2] / "packaging/systemd/piperfs@.service"
EXPOSURE_MAX = 15  # tenths, of 100
PR_SET_MDWE = 65


def test_the_daemons_unit_is_hardened() -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}"]
    done = subprocess.run([*command, str(UNIT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:]


def test_the_program_needs_no_memory_that_is_written_and_run() -> None:
    """What MemoryDenyWriteExecute= forbids: sealing, signing, TLS and the store go on without."""
    script = (
        "import ctypes, os, tempfile; from pathlib import Path\n"
        f"assert ctypes.CDLL(None).prctl({PR_SET_MDWE}, 1, 0, 0, 0) == 0\n"
        "from piperfs.daemon.clock import SYSTEM_CLOCK; from piperfs.daemon.node import create\n"
        "from piperfs.replication.tls import Certificate\n"
        "import piperfs.daemon.run\n"
        "Certificate()\n"
        "with tempfile.TemporaryDirectory() as place:\n"
        "    node = create(Path(place) / 'v', 'v', 'm', SYSTEM_CLOCK)\n"
        "    assert node.keyring.open_chunk(node.keyring.seal_chunk(b'x')[1]) == b'x'\n"
        "    node.close()\n"
    )
    if ctypes.CDLL(None).prctl(PR_SET_MDWE + 1, 0, 0, 0, 0) < 0:
        script = script.replace(f"prctl({PR_SET_MDWE}, 1", "prctl(3, 0")  # before Linux 6.3
    root = str(UNIT.parents[2])
    subprocess.run([sys.executable, "-c", script], check=True, cwd=root)
