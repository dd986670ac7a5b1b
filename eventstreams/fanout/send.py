"""Writes to clients: through ASGI's send and receive, and through the server's connection.

This is the only module that steps ASGI's coroutines by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, MutableMapping
from enum import Enum
from typing import Any, NamedTuple, Protocol

Message = MutableMapping[str, Any]
Send = Callable[[Message], Coroutine[Any, Any, None]]
Receive = Callable[[], Coroutine[Any, Any, Message]]


class Allowance(Protocol):
    """Limits how many bytes of past events may be sent to, or examined for, one client."""

    async def wait_s(self) -> float:
        """Return the minimum wait before the next bytes in seconds; 0.0 if they may go now."""
        ...

    def used(self, size: int) -> None:
        """Record that `size` bytes were sent, or examined and not sent."""
        ...


class Connection(Protocol):
    """What the server exposes of a client's connection beyond ASGI."""

    @property
    def timed_out(self) -> bool:
        """Whether the server closed it because the client accepted no bytes for too long."""
        ...

    def begin_stream(self) -> None:
        """Record that the response is a stream, so that no other connection takes its place."""
        ...

    def framed(self, body: bytes) -> bytes:
        """Return a part of a body in HTTP/1.1 framing, which is the same for all connections."""
        ...

    def write_framed(self, data: bytes) -> bool:
        """Write bytes from `framed` and return True if there is room.

        Otherwise write nothing and return False; the caller then sends and waits through ASGI.
        """
        ...

    def unsent(self) -> int:
        """Return how many written bytes the client's host has not acknowledged yet."""
        ...

    def abort(self) -> None:
        """Close the connection at once, without the rest of the response."""
        ...


class EndReason(Enum):
    """Why a stream ended."""

    DISCONNECTED = "disconnected"
    STALLED = "stalled"
    DRAINED = "drained"
    LOG_ERROR = "log_error"
    GAP = "gap"
    FILTER_ERROR = "filter_error"
    EXPIRED = "expired"
    """The client's authorization is no longer valid."""
    REVOKED = "revoked"
    """The stream now requires an authorization that the client did not present."""
    CLOSED = "closed"
    """An operator closed the stream."""
    FINISHED = "finished"
    """The stream reached its stop condition."""


class End(NamedTuple):
    """Why a stream ended, and the error that caused it, if any."""

    reason: EndReason
    error: Exception | None = None


class PendingSend(NamedTuple):
    """An ASGI send that has suspended; it continues when `waiting_for` is done."""

    sending: Coroutine[Any, Any, None]
    waiting_for: Any
    """What the coroutine yielded: a future, or None if it only yielded to the event loop."""


def try_send(send: Send, body: bytes) -> PendingSend | None:
    """Send a part of a response's body without waiting.

    Return None if the server accepted it at once, otherwise the send that must be finished. Raises
    whatever the server raises when the client has disconnected. While the socket has room,
    uvicorn's send completes at its first step, so no task switch is needed.
    """
    sending = send({"type": "http.response.body", "body": body, "more_body": True})
    try:
        waiting_for = sending.send(None)
    except StopIteration:
        return None
    return PendingSend(sending, waiting_for)


async def finish_send(
    pending: PendingSend, connection: Connection | None, stall_timeout_s: float
) -> End | None:
    """Continue a suspended send for as long as the client accepts bytes.

    Return None once all is sent, or why the stream ends: the client accepted nothing for
    `stall_timeout_s`, or the server raised. The caller closes the coroutine.
    """
    sending, waiting_for = pending
    while True:
        unsent = connection.unsent() if connection else 0
        if waiting_for is None:  # a bare yield: the server only gave the loop a turn
            await asyncio.sleep(0)
            done = {waiting_for}
        else:
            done, _ = await asyncio.wait({waiting_for}, timeout=stall_timeout_s)
        if not done:
            if connection and connection.unsent() < unsent:
                continue  # slow, but moving
            return End(EndReason.STALLED)
        try:
            waiting_for = sending.send(None)
        except StopIteration:
            return None
        except Exception as error:
            return End(EndReason.DISCONNECTED, error)


def has_disconnected(receive: Receive) -> bool:
    """Return, without waiting, whether the client has disconnected."""
    receiving = receive()
    try:
        receiving.send(None)
    except StopIteration as received:
        return bool(received.value["type"] == "http.disconnect")
    receiving.close()
    return False
