"""What a stream is written to: ASGI, and what only the server knows of the connection."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, MutableMapping
from typing import Any, NamedTuple, Protocol

from eventstreams.fanout.compression import Piece
from eventstreams.model.position import Position

Message = MutableMapping[str, Any]
Send = Callable[[Message], Coroutine[Any, Any, None]]
Receive = Callable[[], Coroutine[Any, Any, Message]]


class InFlight(NamedTuple):
    """A send of `piece`, which leads to `position`; it goes on when `waiting_for` is done."""

    sending: Coroutine[Any, Any, None]
    waiting_for: Any
    position: Position
    piece: Piece


class Allowance(Protocol):
    """How much of what is past may be sent to one client, or looked at for it, yet."""

    async def wait_s(self) -> float:
        """0.0 where the next bytes may go; else for how long not, at least."""
        ...

    def used(self, size: int) -> None:
        """Record that so many bytes were sent, or looked at and not sent."""
        ...


class Connection(Protocol):
    """What only the server knows of the client's connection."""

    @property
    def timed_out(self) -> bool:
        """Whether it was given up because the client took nothing for too long."""
        ...

    def framed(self, body: bytes) -> bytes:
        """A part of a response's body as HTTP/1.1 sends it; the same for every connection."""
        ...

    def write_framed(self, data: bytes) -> bool:
        """Write what `framed` returned and return True, if there is room; False: use ASGI's send,
        and wait."""
        ...

    def unsent(self) -> int:
        """Bytes written that the client's host has not taken yet: less while it takes any."""
        ...

    def abort(self) -> None:
        """Ends the response in the middle and drops what is unsent of it, at once."""
        ...
