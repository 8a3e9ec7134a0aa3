"""Reaching other computers: listening, dialling, and the addresses this one is reached at.

The replicator sees streams and channel bindings only, so a simulated network can stand in for
this one.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import ifaddr
import trio

from piperfs.core.errors import ExitCode, PeerError, UserError
from piperfs.replication.doorman import Doorman
from piperfs.replication.tls import Certificate

CONNECT_TIMEOUT_S: Final = 5
UNSENT_BYTES_MAX: Final = 128 * 1024  # in the kernel; more would stand before a reader's chunk


@dataclass(frozen=True, slots=True)
class Link:
    """A private stream to somebody; both ends see the same binding.

    Whoever takes it calls `known` once the other end has proved who it is.
    """

    stream: trio.abc.Stream
    binding: bytes
    address: str
    known: Callable[[], None] = lambda: None


Accept = Callable[[Link], Awaitable[None]]


class Network(Protocol):
    """What the replicator needs of a network."""

    async def listen(
        self, accept: Accept, *, task_status: trio.TaskStatus[list[str]] = ...
    ) -> None:
        """Hand every incoming link to `accept`; starts with the addresses it listens at."""

    async def dial(self, address: str) -> Link:
        """Raises PeerError if nobody answers there."""

    def reachable(self) -> list[str]:
        """Addresses at which others may reach this computer."""


def split_address(address: str) -> tuple[str, int]:
    """HOST:PORT as a pair; whatever a peer says. Raises ValueError."""
    host, _, text = address.rpartition(":")
    port = int(text)
    if not 0 < port < 65536 or not host.isprintable() or not host:
        raise ValueError(f"{address!r} is no address")
    return host.removeprefix("[").removesuffix("]"), port


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class TlsNetwork:
    """TCP with TLS."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._certificate = Certificate()
        self.doorman = Doorman(trio.current_time)
        self._listening: list[str] = []

    @property
    def turned_away(self) -> int:
        """Strangers for whom there was no place, or who did not speak TLS."""
        return self.doorman.turned_away

    async def listen(
        self, accept: Accept, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            listeners = await trio.open_tcp_listeners(self._port, host=self._host or None)
        except OSError as error:
            where = join_address(self._host, self._port)
            raise UserError(
                f"cannot listen at {where}: {error.strerror or error}; choose another port",
                ExitCode.REFUSED,
            ) from error
        self._port = listeners[0].socket.getsockname()[1]
        for other in listeners[1:]:  # one port for IPv4 and IPv6 alike
            if other.socket.getsockname()[1] != self._port:
                await other.aclose()
        same = [each for each in listeners if each.socket.fileno() >= 0]
        self._listening = [join_address(each.socket.getsockname()[0], self._port) for each in same]

        async def serve(stream: trio.SocketStream) -> None:
            await self._accept(stream, accept)

        await trio.serve_listeners(serve, same, task_status=_Mapped(task_status, self._listening))

    async def _accept(self, stream: trio.SocketStream, accept: Accept) -> None:
        try:
            host, port = stream.socket.getpeername()[:2]
        except OSError:
            await stream.aclose()
            return
        leave = self.doorman.admit(host)
        if leave is None:
            await trio.aclose_forcefully(stream)
            return

        def known() -> None:
            leave()
            self.doorman.refund(host)

        _bound_unsent(stream)
        try:
            secured = await self._certificate.secure_server(stream)
            address = join_address(host, port)
            await accept(Link(secured.stream, secured.binding, address, known))
        except (PeerError, trio.TooSlowError):
            self.doorman.turned_away += 1
            await trio.aclose_forcefully(stream)
        finally:
            leave()

    async def dial(self, address: str) -> Link:
        try:
            host, port = split_address(address)
            with trio.fail_after(CONNECT_TIMEOUT_S):
                stream = await trio.open_tcp_stream(host, port)
        except (OSError, ValueError, trio.TooSlowError) as error:
            raise PeerError(f"nobody answers at {address}") from error
        _bound_unsent(stream)
        secured = None
        try:
            secured = await self._certificate.secure_client(stream)
        except trio.TooSlowError as error:
            raise PeerError(f"{address} does not finish its handshake") from error
        finally:
            if secured is None:
                stream.socket.close()
        return Link(secured.stream, secured.binding, address)

    def reachable(self) -> list[str]:
        if self._host and self._host not in ("0.0.0.0", "::"):
            return [join_address(self._host, self._port)]
        found: list[str] = []
        loopback: list[str] = []
        for adapter in ifaddr.get_adapters():
            for ip in adapter.ips:
                text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
                if text.startswith(("fe80", "169.254")):
                    continue
                is_local = text.startswith("127.") or text == "::1"
                (loopback if is_local else found).append(join_address(text, self._port))
        return [*found, *loopback][:8]


def _bound_unsent(stream: trio.SocketStream) -> None:
    """Keep what is queued in our own hands, where urgent messages overtake the rest."""
    if hasattr(trio.socket, "TCP_NOTSENT_LOWAT"):
        option = trio.socket.TCP_NOTSENT_LOWAT
        stream.setsockopt(trio.socket.IPPROTO_TCP, option, UNSENT_BYTES_MAX)


class _Mapped:
    """Starts with our own value when trio starts with its own."""

    def __init__(self, status: trio.TaskStatus[list[str]], value: list[str]) -> None:
        self._status = status
        self._value = value

    def started(self, _value: object = None) -> None:
        self._status.started(self._value)


@asynccontextmanager
async def closing(link: Link) -> AsyncIterator[Link]:
    """Close a link at the end, without waiting for the other end to agree."""
    try:
        yield link
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(link.stream)
