"""Messages that must come in an order, as in a greeting, one by one.

Nobody has proved anything yet, so whatever else comes ends the connection, with a fault that is
counted.
"""

from typing import Any, Final, TypeVar

from piperfs.core.errors import DisconnectedError, PeerError
from piperfs.protocol.handshake import Fault, HandshakeError
from piperfs.protocol.messages import Message, Refused
from piperfs.replication.channel import Channel

REASON_CHARS_MAX: Final = 200

M = TypeVar("M", bound=Message)
N = TypeVar("N", bound=Message)


class Inbox:
    """Messages of a channel, one by one."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._messages: list[Message] = []

    @property
    def rest(self) -> tuple[Message, ...]:
        """What was received and not asked for yet."""
        return tuple(self._messages)

    async def next(self, kind: type[M]) -> M:
        """The next message, which must be of this kind. Raises PeerError."""
        message = await self._next()
        if not isinstance(message, kind):
            raise _unexpected(message, kind)
        return message

    async def either(self, kind: type[M], other: type[N]) -> M | N:
        """The next message, which must be of one of these kinds. Raises PeerError."""
        message = await self._next()
        if not isinstance(message, kind | other):
            raise _unexpected(message, kind)
        return message

    async def _next(self) -> Message:
        if not self._messages:
            self._messages = await self._receive()
        message = self._messages.pop(0)
        if isinstance(message, Refused):
            raise HandshakeError(Fault.DECLINED, message.reason[:REASON_CHARS_MAX])
        return message

    async def _receive(self) -> list[Message]:
        try:
            return await self._channel.receive()
        except DisconnectedError:
            raise
        except PeerError as error:
            raise HandshakeError(Fault.MALFORMED, str(error)) from error


def _unexpected(message: Message, kind: type[Any]) -> HandshakeError:
    said = f"it sends {type(message).__name__} instead of {kind.__name__}"
    return HandshakeError(Fault.MALFORMED, said)
