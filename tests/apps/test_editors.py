"""Saving with real editors: each has its own way, and none may lose a mode, a link or a byte."""

import contextlib
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import run
from tests.support.volumes import eventually

pytestmark = pytest.mark.mount
TERMINAL = {**os.environ, "TERM": "xterm", "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}


class Editor:
    """An editor in a terminal of its own."""

    def __init__(self, *command: object) -> None:
        self._terminal, theirs = pty.openpty()
        words = [os.fspath(word) if isinstance(word, Path) else str(word) for word in command]
        self.process = subprocess.Popen(
            words, stdin=theirs, stdout=theirs, stderr=theirs, env=TERMINAL, start_new_session=True
        )
        os.close(theirs)
        self._painted = bytearray()
        self._reader = threading.Thread(target=self._watch)
        self._reader.start()

    def _watch(self) -> None:
        with contextlib.suppress(OSError):
            while painted := os.read(self._terminal, 65536):
                self._painted += painted

    def wait_for(self, text: bytes) -> None:
        """Return when the text has appeared on the screen."""
        eventually(lambda: text in self._painted)

    def type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def wait(self) -> int:
        return self.process.wait(timeout=60)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._terminal)


@contextlib.contextmanager
def editor(*command: object) -> Iterator[Editor]:
    running = Editor(*command)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def document(folder) -> Path:
    path = folder / "a document.txt"
    path.write_text("first\nsecond\n")
    path.chmod(0o640)
    os.setxattr(path, "user.note", b"kept")
    return path


def test_vim(document):
    os.link(document, document.with_name("other name"))
    swap = document.with_name(f".{document.name}.swp")
    with editor("vim", "-N", "-u", "NONE", document) as running:
        eventually(swap.exists)
        running.type(b"Gothird line\x1b:w\r")
        eventually(lambda: document.read_text() == "first\nsecond\nthird line\n")
        running.type(b":q\r")
        assert running.wait() == 0
    assert not swap.exists()
    assert document.stat().st_mode & 0o777 == 0o640
    assert os.getxattr(document, "user.note") == b"kept"
    assert document.with_name("other name").read_text().endswith("third line\n")


def test_vim_with_backups_by_rename(document):
    keys = ("-c", "set backup backupskip= backupcopy=no", "-c", "%s/first/changed/", "-c", "wq")
    with editor("vim", "-N", "-u", "NONE", *keys, document) as running:
        assert running.wait() == 0
    assert document.read_text() == "changed\nsecond\n"
    assert document.with_name(f"{document.name}~").read_text() == "first\nsecond\n"
    assert document.stat().st_mode & 0o777 == 0o640


def test_vim_recovers_what_a_crash_left(document):
    swap = document.with_name(f".{document.name}.swp")
    with editor("vim", "-N", "-u", "NONE", document) as running:
        eventually(swap.exists)
        running.type(b"ggiunsaved \x1b:preserve\r")
        eventually(lambda: b"unsaved" in swap.read_bytes())
        running.process.send_signal(signal.SIGKILL)
        running.wait()
    assert document.read_text() == "first\nsecond\n"
    with editor("vim", "-N", "-u", "NONE", "-r", "-c", "w!", "-c", "q", document) as running:
        running.type(b"\r\r")
        assert running.wait() == 0
    assert document.read_text() == "unsaved first\nsecond\n"


def test_nano(document):
    with editor("nano", "--ignorercfiles", "--backup", document) as running:
        running.wait_for(b"second")
        running.type(b"typed \x0f\r\x18")  # text, write out, its name, exit
        assert running.wait() == 0
    assert document.read_text() == "typed first\nsecond\n"
    assert document.with_name(f"{document.name}~").read_text() == "first\nsecond\n"
    assert document.stat().st_mode & 0o777 == 0o640


def test_emacs(document):
    """A lock that is a dangling symlink, an auto-save file, a backup by rename, a precious save."""
    lock = document.with_name(f".#{document.name}")
    program = f"""
      (progn
        (setq create-lockfiles t make-backup-files t backup-enable-predicate 'identity)
        (find-file "{document}")
        (insert "typed ")
        (lock-buffer)
        (auto-save-mode 1)
        (unless (file-symlink-p "{lock}") (error "no lock"))
        (do-auto-save)
        (unless (file-exists-p (make-auto-save-file-name)) (error "no auto-save"))
        (save-buffer)
        (setq file-precious-flag t)
        (insert "again ")
        (save-buffer)
        (kill-buffer))"""
    run("emacs", "-Q", "--batch", "--eval", program)
    assert document.read_text() == "typed again first\nsecond\n"
    assert document.with_name(f"{document.name}~").read_text() == "first\nsecond\n"
    assert document.stat().st_mode & 0o777 == 0o640
    assert not os.path.lexists(lock)
    assert sorted(os.listdir(document.parent)) == [document.name, f"{document.name}~"]


def test_sed_and_install_replace_by_rename(document):
    os.link(document, document.with_name("other name"))
    before = document.stat().st_ino
    run("sed", "-i.bak", "s/first/changed/", document)
    assert document.read_text() == "changed\nsecond\n"
    assert document.with_name(f"{document.name}.bak").stat().st_ino == before
    assert document.with_name("other name").read_text() == "first\nsecond\n"
    run("install", "-m", "0755", "-b", document, document.with_name("installed"))
    assert document.with_name("installed").stat().st_mode & 0o777 == 0o755
