"""What `tools/demo` does, step by step: each says what it does, does it, and checks it.

A step that does not come out as announced ends the demonstration with an error, so a
demonstration that runs to its end is also a test.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from environment import ROOT, fail

PATIENCE_S = 60
BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")


class Cable:
    """The only connection between the two computers: a proxy that can be cut."""

    def __init__(self) -> None:
        self.target: tuple[str, int] | None = None  # None: it is cut
        self._far: tuple[str, int] | None = None
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        self._far, self.target = self.target, None
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.target = self._far

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            try:
                far = socket.create_connection(self.target or ("", 0))
            except OSError:
                near.close()
                continue
            self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open -= {source, sink}


class Computer:
    """One of the two: a home of its own, a volume, a mount."""

    def __init__(self, python: Path, base: Path, name: str) -> None:
        self.name = name
        self.folder = base / name
        self._python = python
        self._environment = {
            **os.environ,
            "XDG_DATA_HOME": str(base / f".{name}/data"),
            "XDG_RUNTIME_DIR": str(base / f".{name}/run"),
        }
        self.folder.mkdir()
        (base / f".{name}/run").mkdir(parents=True, mode=0o700)

    def piperfs(self, *arguments: str, stdin: str = "", show: bool = True) -> str:
        """Run a command; `show` prints it as a person would have typed it."""
        if show:
            words = (str(word).replace(str(self.folder), f"~/{self.name}") for word in arguments)
            print(f"    {self.name}$ piperfs {' '.join(words)}")
        done = subprocess.run(
            [str(self._python), "-P", "-m", "piperfs", *arguments],
            cwd=ROOT, env=self._environment, input=stdin, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            fail(f"{self.name}: piperfs {arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def write(self, name: str, text: str) -> None:
        print(f"    {self.name}$ echo '{text}' > {name}")
        (self.folder / name).write_text(f"{text}\n")

    def listing(self) -> dict[str, str]:
        """Names and texts; a file that the other deletes meanwhile is no longer one of them."""
        found = {}
        for path in sorted(self.folder.iterdir()):
            with contextlib.suppress(FileNotFoundError):
                found[path.name] = path.read_text().strip()
        return found

    def show(self) -> None:
        for name, text in self.listing().items():
            print(f"    {self.name + ':':6}{name:44}{text}")

    def connected(self) -> bool:
        peers = json.loads(self.piperfs("peers", "demo", "--json", show=False))
        return any(peer["state"] == "connected" for peer in peers)

    def stop(self) -> None:
        if os.path.ismount(self.folder):
            self.piperfs("umount", str(self.folder), show=False)


def run(python: Path) -> int:
    """Run the demonstration; returns the exit code."""
    begin = time.monotonic()
    base = Path(tempfile.mkdtemp(prefix="piperfs-demo-"))
    anna, ben, cable = Computer(python, base, "anna"), Computer(python, base, "ben"), Cable()
    try:
        _meet(anna, ben, cable)
        _share(anna, ben)
        _part(anna, ben, cable)
        _meet_again(anna, ben, cable)
        _settle(anna, ben)
    finally:
        for computer in (anna, ben):
            computer.stop()
        shutil.rmtree(base, ignore_errors=True)
    print(f"\n{BOLD}Done in {time.monotonic() - begin:.0f} s; nothing is left behind.{PLAIN}")
    return 0


def _say(text: str) -> None:
    print(f"\n{BOLD}{text}{PLAIN}", flush=True)


def _until(what: str, holds: Callable[[], bool]) -> float:
    """Wait until something holds; returns how long it took in milliseconds."""
    begin = time.monotonic()
    while not holds():
        if time.monotonic() - begin > PATIENCE_S:
            fail(f"{what}: not within {PATIENCE_S} s")
        time.sleep(0.005)
    return (time.monotonic() - begin) * 1000


def _meet(anna: Computer, ben: Computer, cable: Cable) -> None:
    _say("1. Anna makes a volume and mounts it.")
    anna.piperfs("init", "demo", "--member", "anna")
    options = "listen=127.0.0.1:0,discovery=off"
    anna.piperfs("mount", "demo", str(anna.folder), "-o", options)
    status = json.loads(anna.piperfs("status", "demo", "--json", show=False))
    host, _, port = status["listening"][0].rpartition(":")
    cable.target = (host, int(port))
    _say("2. She sends Ben a ticket, which works once. He joins and mounts.")
    ticket = anna.piperfs("invite", "demo")
    ben.piperfs("join", "demo", "-", "--member", "ben", stdin=ticket)
    ben.piperfs("mount", "demo", str(ben.folder), "-o", f"{options},peer={cable.address}")
    _until("the two meet", lambda: anna.connected() and ben.connected())


def _share(anna: Computer, ben: Computer) -> None:
    _say("3. What one writes, the other has.")
    anna.write("plan.txt", "meet at noon")
    took = _until("the file arrives", lambda: "plan.txt" in ben.listing())
    _until("its text arrives", lambda: ben.listing()["plan.txt"] == "meet at noon")
    print(f"    ben has it {took:.0f} ms later")
    ben.write("list.txt", "bread, cheese")
    _until("the other file arrives", lambda: anna.listing().get("list.txt") == "bread, cheese")
    anna.show()


def _part(anna: Computer, ben: Computer, cable: Cable) -> None:
    _say("4. The cable is cut. Both go on reading and writing, even in the same file.")
    cable.cut()
    anna.write("plan.txt", "meet at one")
    ben.write("plan.txt", "meet at two")
    anna.write("anna.txt", "written on the train")
    print("    ben$ mv list.txt shopping.txt")
    (ben.folder / "list.txt").rename(ben.folder / "shopping.txt")
    anna.show()
    ben.show()


def _meet_again(anna: Computer, ben: Computer, cable: Cable) -> None:
    _say("5. The cable is mended. Nobody's work is lost, and both see the same.")
    cable.mend()
    took = _until("both agree", lambda: _agree(anna, ben))
    anna.show()
    print(f"    ben: the same, {took / 1000:.1f} s after the cable")
    for computer in (anna, ben):
        print(f"    {computer.piperfs('digest', 'demo')}")
    print(f"    {anna.piperfs('conflicts', 'demo')}".replace("\n", "\n    "))


def _agree(anna: Computer, ben: Computer) -> bool:
    """Both hold both texts, and their states are equal."""
    texts = set(anna.listing().values())
    return {"meet at one", "meet at two"} <= texts and (
        anna.listing() == ben.listing()
        and anna.piperfs("digest", "demo", show=False) == ben.piperfs("digest", "demo", show=False)
    )


def _settle(anna: Computer, ben: Computer) -> None:
    _say("6. Ben settles it as he would with any files: he keeps one and deletes the other.")
    (copy,) = (name for name in ben.listing() if ".conflict-" in name)
    ben.write("plan.txt", "meet at half past one")
    print(f"    ben$ rm {copy}")
    (ben.folder / copy).unlink()
    wanted = {"anna.txt", "plan.txt", "shopping.txt"}
    _until(
        "the conflict is gone",
        lambda: (
            set(anna.listing()) == wanted and anna.listing()["plan.txt"] == "meet at half past one"
        ),
    )
    anna.show()
    print(f"    {anna.piperfs('conflicts', 'demo')}")
