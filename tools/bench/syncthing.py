"""Two Syncthing instances on the loopback interface that keep two folders in step.

The watcher's delay is the least that version 1.19 accepts, one second; everything that would talk
to other machines is off.
"""

import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

QUIET = {
    "globalAnnounceEnabled": "false", "localAnnounceEnabled": "false", "relaysEnabled": "false",
    "natEnabled": "false", "startBrowser": "false", "urAccepted": "-1",
    "autoUpgradeIntervalH": "0", "crashReportingEnabled": "false", "reconnectionIntervalS": "2",
    "stunKeepaliveStartS": "0",
}  # fmt: skip
PORT = 22170
READY_S = 30


@contextmanager
def two_folders(base: Path) -> Iterator[tuple[Path, Path, tuple[int, int]]]:
    """Two folders in step, and the ids of the processes that keep them so."""
    homes = [base / "home0", base / "home1"]
    folders = (base / "folder0", base / "folder1")
    for home, folder in zip(homes, folders, strict=True):
        folder.mkdir(parents=True)
        _run("generate", f"--home={home}", "--no-default-folder", "--skip-port-probing")
    devices = [_run("--device-id", f"--home={home}").strip() for home in homes]
    for number, home in enumerate(homes):
        _configure(home / "config.xml", folders[number], devices, number)
    with ExitStack() as stack:
        running = [stack.enter_context(_serve(home)) for home in homes]
        (folders[0] / "hello").write_bytes(b"in step")
        deadline = time.monotonic() + READY_S
        while not (folders[1] / "hello").exists():
            assert time.monotonic() < deadline, "the two Syncthings did not connect"
        yield *folders, (running[0].pid, running[1].pid)


def _run(*arguments: str) -> str:
    command = ["syncthing", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def _serve(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = ["syncthing", "serve", f"--home={home}", "--no-browser", "--no-restart"]
    with (home / "output").open("wb") as output:
        process = subprocess.Popen([*command, "--no-upgrade"], stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _configure(file: Path, folder: Path, devices: list[str], number: int) -> None:
    tree = ET.parse(file)
    root = tree.getroot()
    for old in [e for e in root if e.tag in ("folder", "device")]:
        root.remove(old)
    shared = ET.SubElement(
        root, "folder", id="bench", path=str(folder), type="sendreceive", rescanIntervalS="3600",
        fsWatcherEnabled="true", fsWatcherDelayS="1",
    )  # fmt: skip
    for index, device in enumerate(devices):
        ET.SubElement(shared, "device", id=device)
        entry = ET.SubElement(root, "device", id=device, name=f"side{index}")
        ET.SubElement(entry, "address").text = f"tcp://127.0.0.1:{PORT + index}"
    options = root.find("options")
    gui = root.find("gui/address")
    assert options is not None
    assert gui is not None
    gui.text = f"127.0.0.1:{PORT + 10 + number}"
    for name, value in {"listenAddress": f"tcp://127.0.0.1:{PORT + number}", **QUIET}.items():
        for old in options.findall(name):
            options.remove(old)
        ET.SubElement(options, name).text = value
    tree.write(file)
