"""One request on a volume that nobody has open: open it, answer, commit, close."""

import socket
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from piperfs.control import server
from piperfs.control.messages import Request
from piperfs.control.server import Progress, Verb
from piperfs.core.errors import UserError
from piperfs.daemon import joining, locking
from piperfs.daemon.clock import Clock
from piperfs.daemon.node import Node, create, open_node
from piperfs.daemon.report import samples
from piperfs.daemon.verbs import NAMES, Verbs, number, text
from piperfs.obs.metrics import Metrics

ALL_NAMES: Final = (*NAMES, *locking.NAMES, "init", "join")


async def refuse(control: socket.socket, error: UserError) -> None:
    """Answer one request, whatever it asks, by what keeps us from the volume."""

    async def fail(_request: Request, _progress: Progress) -> Any:
        raise error

    await server.answer(_stream(control), dict.fromkeys(ALL_NAMES, fail))


def _stream(control: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(control))


async def answer_one(state: Path, control: socket.socket, clock: Clock) -> None:
    """Answer one request that comes over a socket that the caller made."""
    opened: list[Node] = []

    async def init(request: Request, _progress: Progress) -> Any:
        label, member = text(request, "label"), text(request, "member")
        quorum = int(number(request, "quorum", 1))
        node = create(state, label, member, clock, quorum=quorum)
        opened.append(node)
        return describe(node)

    async def join(request: Request, progress: Progress) -> Any:
        guest = joining.Guest(state, text(request, "member"), clock, progress)
        if code := text(request, "code"):
            node, words = await joining.pair(guest, code, text(request, "peer"))
        else:
            node, words = await joining.join(guest, text(request, "ticket"))
        opened.append(node)
        return describe(node) | {"role": node.role, "check_words": words}

    def on_keys(name: str) -> Verb:
        async def run(request: Request, _progress: Progress) -> Any:
            return await clock.in_thread(partial(locking.change, state, clock, name, request))

        return run

    def on_volume(name: str) -> Verb:
        async def run(request: Request, progress: Progress) -> Any:
            node = open_node(state, clock, salvage=name == "fsck")
            opened.append(node)
            metrics = Metrics()
            metrics.add(lambda: samples(node))
            return await Verbs(node, metrics).table()[name](request, progress)

        return run

    verbs = {name: on_volume(name) for name in NAMES} | {"init": init, "join": join}
    verbs |= {name: on_keys(name) for name in locking.NAMES}
    try:
        await server.answer(_stream(control), verbs)
    finally:
        for node in opened:
            node.close()


def describe(node: Node) -> dict[str, str]:
    """What a person wants to hear of a new volume."""
    return {
        "volume": node.store.volume.hex(),
        "label": node.label,
        "replica": node.store.replica.hex(),
        "key_protection": node.key_protection,
    }
