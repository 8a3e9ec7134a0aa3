"""A screen that nobody looks at, with a desktop program on it, driven by keys."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.programs import run
from tests.support.volumes import eventually


class Screen:
    """One virtual display and the environment of the programs on it."""

    def __init__(self, display: str, home: Path) -> None:
        self.environment = {
            "DISPLAY": display, "HOME": os.fspath(home), "LC_ALL": "C.UTF-8",
            "XDG_CACHE_HOME": f"{home}/cache", "XDG_CONFIG_HOME": f"{home}/config",
            "XDG_RUNTIME_DIR": f"{home}/run", "GTK_MODULES": "",
        }  # fmt: skip
        self.window = ""

    @contextlib.contextmanager
    def program(self, *command: object, window: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Start a program on a session bus of its own; it has the keys once its window is there."""
        words = ["dbus-run-session", "--", *map(str, command)]
        process = subprocess.Popen(
            words, env={**os.environ, **self.environment}, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self.find_window("--class", window)
            self.tool("windowsize", "--sync", self.window, 1000, 700)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def tool(self, *words: object) -> str:
        return run("xdotool", *words, **self.environment)

    def find_window(self, *criterion: str) -> None:
        """Wait for a window and give it the keys, as a window manager would."""
        found = self.tool("search", "--sync", "--onlyvisible", *criterion)
        self.window = found.split()[-1]
        self.tool("windowfocus", "--sync", self.window)

    def open_window(self, keys: tuple[str, ...], here: str, name: str) -> None:
        """Press keys in a window until another opens: one that was just closing may take them."""

        def attempt() -> None:
            self.find_window("--name", here)
            self.key(*keys)
            search = ("xdotool", "search", "--sync", "--onlyvisible", "--name", name)
            run("timeout", 3, *search, **self.environment)

        eventually(attempt, within_s=60)
        self.find_window("--name", name)

    def key(self, *names: str) -> None:
        self.tool("key", "--delay", 50, *names)

    def type(self, text: str) -> None:
        self.tool("type", "--delay", 20, text)

    def colours(self, target: Path) -> int:
        """Take a picture of the screen; returns how many colours it has."""
        run("import", "-window", "root", target, **self.environment)
        return int(run("convert", target, "-format", "%k", "info:"))


@contextlib.contextmanager
def screen(home: Path) -> Iterator[Screen]:
    for part in ("cache", "config", "run"):
        (home / part).mkdir(parents=True, mode=0o700)
    reader, writer = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1000x700x24", "-nolisten", "tcp"],
        pass_fds=(writer,), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writer)
    try:
        with os.fdopen(reader) as numbers:
            yield Screen(f":{numbers.readline().strip()}", home)
    finally:
        server.terminate()
        server.wait()
