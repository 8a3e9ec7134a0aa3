"""Desktop programs: file managers and their trash, thumbnails and monitors, and an office suite."""

import colorsys
import contextlib
import os
import signal
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from tests.support.programs import kernel_only, run, shell
from tests.support.screen import screen
from tests.support.volumes import eventually

pytestmark = pytest.mark.mount
PICTURES = 1000
DEBIAN_PYTHON = "/usr/bin/python3"  # the one that LibreOffice's bridge is built for


@pytest.fixture
def trash(volume):
    """Where GLib puts what is deleted on this volume."""
    path = volume.mountpoint / f".Trash-{os.getuid()}"
    yield path
    if path.exists():
        run("rm", "-r", path)


def test_gio_copies_moves_renames_and_saves(folder, tmp_path):
    (folder / "a.txt").write_text("hello\n")
    run("gio", "copy", "-p", folder / "a.txt", folder / "b.txt")
    run("gio", "move", folder / "b.txt", tmp_path / "c.txt")
    run("gio", "move", tmp_path / "c.txt", folder / "d.txt")
    run("gio", "rename", folder / "d.txt", "e \u00fc.txt")
    shell(f"echo changed | gio save '{folder}/e \u00fc.txt'")
    assert (folder / "e \u00fc.txt").read_text() == "changed\n"
    run("gio", "set", folder / "a.txt", "xattr::note", "kept")
    assert os.getxattr(folder / "a.txt", "user.note") == b"kept"
    facts = run("gio", "info", folder / "a.txt")
    for fact in ("fuse.piperfs", "access::can-trash: TRUE", "standard::content-type: text/plain"):
        assert fact in facts
    assert "filesystem::free" in run("gio", "info", "-f", folder)


def test_gio_trash_lies_at_the_root_of_the_mount(folder, trash):
    (folder / "gone").mkdir()
    (folder / "gone/file").write_text("still there")
    run("gio", "trash", folder / "gone")
    assert not (folder / "gone").exists()
    assert (trash / "files/gone/file").read_text() == "still there"
    note = (trash / "info/gone.trashinfo").read_text()
    assert f"Path={folder.name.replace('[', '%5B').replace(']', '%5D')}/gone" in note
    (trash / "files/gone").rename(folder / "gone")
    assert (folder / "gone/file").read_text() == "still there"


def test_gio_monitor_tells_what_happens(folder):
    (folder / "old").touch()
    with subprocess.Popen(
        ["stdbuf", "-oL", "gio", "monitor", "-d", folder], stdout=subprocess.PIPE, text=True
    ) as monitor:
        eventually(lambda: watches(monitor.pid) > 0)
        (folder / "new").write_text("x")
        (folder / "new").rename(folder / "newer")
        (folder / "newer").unlink()
        told = []
        while "deleted" not in told:
            line = monitor.stdout.readline().strip()
            told += [line.partition(f"{folder}/")[2].split()[1]] if line else []
        monitor.kill()
    seen = list(dict.fromkeys(word for word in told if word != "changed"))  # hints may come twice
    assert seen == ["created", "changes", "renamed", "deleted"]


def watches(pid: int) -> int:
    """How many inotify watches a process has."""
    notes = Path(f"/proc/{pid}/fdinfo").glob("*")
    return sum(note.read_text().count("inotify wd:") for note in notes)


def picture(number: int) -> bytes:
    """A small image in a colour of its own."""
    rgb = bytes(int(255 * part) for part in colorsys.hsv_to_rgb(number / PICTURES, 0.7, 0.9))
    raw = (b"\0" + rgb * 160) * 120
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", 160, 120, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(raw)),
    )
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (*parts, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.slow
@kernel_only
def test_a_file_manager_with_a_thousand_pictures(folder, trash, tmp_path):
    pictures, other = folder / "pictures", folder / "other"
    pictures.mkdir()
    other.mkdir()
    for n in range(PICTURES):
        (pictures / f"picture {n:04}.png").write_bytes(picture(n))
    with (
        screen(tmp_path / "home") as display,
        display.program("pcmanfm", "--no-desktop", pictures, window="pcmanfm"),
    ):
        main, shot = display.window, tmp_path / "screen.png"
        eventually(lambda: display.colours(shot) > 1000, within_s=60)  # thumbnails
        display.key("ctrl+a", "ctrl+c", "ctrl+l")
        display.type(os.fspath(other))
        display.key("Return")
        eventually(lambda: display.tool("getwindowname", main) == "other\n")
        display.key("ctrl+v")
        eventually(lambda: len(os.listdir(other)) == PICTURES, within_s=120)
        eventually(lambda: (other / "picture 0999.png").read_bytes() == picture(999))
        display.open_window(("Home", "F2"), "^other$", "^Rename File$")
        display.key("ctrl+a")
        display.type("renamed.png")
        display.key("Return")
        eventually((other / "renamed.png").exists)
        assert (other / "renamed.png").read_bytes() == picture(0)
        display.open_window(("Home", "Delete"), "^other$", "^Confirm$")
        display.key("Return")
        eventually((trash / "files/picture 0001.png").exists)
        eventually(lambda: not (other / "picture 0001.png").exists())


OFFICE = """
import os, sys, time, uno
from com.sun.star.beans import PropertyValue
pipe, document = sys.argv[1:]
local = uno.getComponentContext()
resolver = local.ServiceManager.createInstance("com.sun.star.bridge.UnoUrlResolver")
while True:
    try:
        context = resolver.resolve(f"uno:pipe,name={pipe};urp;StarOffice.ComponentContext")
        break
    except Exception:
        time.sleep(0.1)
desktop = context.ServiceManager.createInstance("com.sun.star.frame.Desktop")
hidden = PropertyValue("Hidden", 0, True, 0)
lock = os.path.join(os.path.dirname(document), f".~lock.{os.path.basename(document)}#")
for n in range(3):
    paper = desktop.loadComponentFromURL("file://" + document, "_blank", 0, (hidden,))
    assert not paper.isReadonly()
    assert os.path.exists(lock)
    paper.Text.setString(paper.Text.getString() + f" edit {n}")
    paper.store()
    assert os.path.exists(lock)
    paper.close(True)
    assert not os.path.exists(lock)
open(lock, "w").write(",someone,elsewhere,24.11.2026 12:00,file:///nowhere;")
paper = desktop.loadComponentFromURL("file://" + document, "_blank", 0, (hidden,))
print("opened", paper.isReadonly() if paper else None)
desktop.terminate()
"""


@pytest.mark.slow
@kernel_only
def test_libreoffice_edits_locks_and_converts(folder, tmp_path):
    """Documents and the profile, too, lie on the mount."""
    office = (
        "soffice",
        "--headless",
        "--norestore",
        f"-env:UserInstallation=file://{folder}/profile",
    )
    letter = folder / "letter.txt"
    letter.write_text("written by hand")
    run(*office, "--convert-to", "odt", "--outdir", folder, letter, HOME=str(tmp_path))
    pipe = f"piperfs{os.getpid()}"
    server = subprocess.Popen([*office, f"--accept=pipe,name={pipe};urp"], start_new_session=True)
    try:
        script = tmp_path / "edit.py"
        script.write_text(OFFICE)
        told = run(DEBIAN_PYTHON, script, pipe, folder / "letter.odt")
        assert told == "opened True\n"
        server.wait(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    (folder / ".~lock.letter.odt#").unlink()
    run(*office, "--convert-to", "txt:Text", "--outdir", folder / "out", folder / "letter.odt")
    text = (folder / "out/letter.txt").read_text(encoding="utf-8-sig")
    assert text.strip() == "written by hand edit 0 edit 1 edit 2"
