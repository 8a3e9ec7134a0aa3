"""One way to ask anything of a volume, whether its daemon runs or not.

A running daemon answers over its socket. Without one, a daemon is started for this one request;
it holds the volume's lock meanwhile, so the two can never both be at work.
"""

from pathlib import Path
from typing import Any

from piperfs.cli import output, spawn
from piperfs.control import client, places
from piperfs.control.messages import Arguments


def ask(
    volume: str, do: str, arguments: Arguments | None = None, news: client.Show | None = None
) -> Any:
    """Ask for a verb and return its answer; `news` takes its progress, else a terminal shows it.

    Raises:
        UserError: what went wrong, for a person.
    """
    state = places.find_volume(volume)
    with output.progress(wanted=news is None) as bar:
        show = news or bar
        connection = places.connect(state)
        if connection is not None:
            return client.call(connection, do, arguments or {}, show)
        return ask_offline(state, do, arguments or {}, show)


def ask_offline(
    state: Path, do: str, arguments: Arguments, show: client.Show = client.ignore_progress
) -> Any:
    """Ask a daemon that is started for this request alone."""
    connection, child = spawn.start_offline(state)
    try:
        return client.call(connection, do, arguments, show)
    finally:
        connection.close()
        spawn.await_end(child)  # it releases the lock of the volume at its very end
