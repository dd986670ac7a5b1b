"""Sends final responses so that clients receive them, and closes the connections afterwards.

They go to connections beyond the limit, with the time to retry after, and to connections with an
invalid request. Closing a socket with unread bytes resets the connection, and the peer may lose the
response. Therefore only our side is closed at first, and further bytes are read and discarded for a
while. Time, bytes and the number of such connections are limited. Beyond the limit on bytes, the
connection stays open, unread, until its time is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from http import HTTPStatus

import msgspec

from eventstreams.errors import GatewayFull, ServiceProblem
from eventstreams.web.answers import (
    EVENT_SOURCE_HEADERS,
    event_source_body,
    is_event_source,
    spread_ms,
)

Headers = Sequence[tuple[bytes, bytes]]

LINGERING_MAX = 128
"""How many such connections may be open. Beyond it, the oldest one is dropped."""
REFUSED_HEAD_S = 0.5
"""How long a refused client may take to send its head; after that it gets the common response."""
LINGER_S = 2.0
_LINGER_BYTES_MAX = 256 * 1024
"""How much is read and discarded: as much as the head of a request may have."""
_SOONEST_S = 5
_FULL = GatewayFull("The gateway has reached its limit of connections", _SOONEST_S)


class Rejection:
    """Answers requests that never reach the application."""

    def __init__(
        self,
        headers: Headers,
        *,
        event_source: bool = True,
        count: Callable[[str], object],
        head_s: float = REFUSED_HEAD_S,
        linger_s: float = LINGER_S,
        lingering_max: int = LINGERING_MAX,
    ) -> None:
        """`headers` are sent with every response.

        With `event_source`, a browser's EventSource gets a response after which it reconnects.
        `count` is called with the name of each error. A client beyond the limit has `head_s` for
        its head. At most `lingering_max` answered connections stay open, each for at most
        `linger_s`.
        """
        self._headers = headers
        self.count = count
        self._event_source = event_source
        self._head_s = head_s
        self._linger_s = linger_s
        self.lingering_max = lingering_max
        self._lingering: dict[_Lingering, None] = {}  # oldest first

    def refuse(self, transport: asyncio.Transport, headers: Headers) -> None:
        """Take over a connection beyond the limit, and answer once its head has arrived.

        `headers` are those that change with time.
        """
        self.count(type(_FULL).__name__)
        self._keep(transport, lambda head: self._full(head, [*headers, *self._headers]))

    def bad(self, error: ServiceProblem, headers: Headers, *, to_head: bool) -> bytes:
        """Return the response to an invalid request; `to_head` leaves out its body, as for HEAD."""
        document = {
            "status": error.status,
            "type": error.type,
            "title": error.title,
            "detail": error.detail,
        }
        lines = [*headers, *self._headers, (b"content-type", b"application/json; charset=utf-8")]
        status = f"{error.status} {HTTPStatus(error.status).phrase}".encode()
        return _whole(status, lines, msgspec.json.encode(document) + b"\n", to_head=to_head)

    def linger(self, transport: asyncio.Transport) -> None:
        """Take over a connection after its last response, and close it later."""
        self._keep(transport, None)

    def is_lingering(self, transport: asyncio.Transport) -> bool:
        """Return whether a connection that was taken over is still open."""
        return any(lingering.transport is transport for lingering in self._lingering)

    def drop_all(self) -> None:
        """Close all connections that were taken over, at once."""
        for lingering in list(self._lingering):
            lingering.drop()

    @property
    def lingering(self) -> int:
        """How many connections that were taken over are open."""
        return len(self._lingering)

    def _keep(self, transport: asyncio.Transport, answer: Callable[[bytes], bytes] | None) -> None:
        if len(self._lingering) >= self.lingering_max:
            next(iter(self._lingering)).drop()
        lingering = _Lingering(
            transport, self._lingering, answer, head_s=self._head_s, linger_s=self._linger_s
        )
        transport.set_protocol(lingering)
        self._lingering[lingering] = None

    def _full(self, head: bytes, headers: Headers) -> bytes:
        if self._event_source and is_event_source(_scope(head)):
            lines = [*headers, *EVENT_SOURCE_HEADERS]
            return _whole(b"200 OK", lines, event_source_body(_FULL))
        body = b'{"status":503,"type":"unavailable","title":"Service Unavailable"}\n'
        own = [
            (b"content-type", b"application/json; charset=utf-8"),
            (b"retry-after", b"%d" % (spread_ms(_SOONEST_S) // 1000)),
        ]
        return _whole(b"503 Service Unavailable", [*headers, *own], body)


class _Lingering(asyncio.Protocol):
    """A connection that was answered, or is once its head has arrived.

    It stays open until its peer closes it, for `linger_s` at most.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        among: dict[_Lingering, None],
        answer: Callable[[bytes], bytes] | None,
        *,
        head_s: float,
        linger_s: float,
    ) -> None:
        """`answer` returns the response for the received part of a head; None if it was sent."""
        self.transport = transport
        self._among = among
        self._answer = answer
        self._linger_s = linger_s
        self._head = b""
        self._bytes = 0
        self._timer = asyncio.get_running_loop().call_later(head_s, self._answer_now)
        if answer is None:
            self._answer_now()

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > _LINGER_BYTES_MAX:
            if self._answer is not None or not self.transport.can_write_eof():
                self.drop()
            else:  # a reset could lose the response before the peer has read it
                self.transport.pause_reading()
        elif self._answer is not None:
            self._head += data
            if b"\r\n\r\n" in self._head:
                self._answer_now()

    def eof_received(self) -> None:
        if self._answer is not None:
            self._answer_now()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._forget()

    def drop(self) -> None:
        self._write_answer()
        self._forget()
        self.transport.abort()

    def _answer_now(self) -> None:
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._linger_s, self.drop)
        self._write_answer()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:  # TLS announces its end, and discards bytes until its peer has ended too
            self.transport.close()

    def _write_answer(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            self.transport.write(answer(self._head))
            self._head = b""

    def _forget(self) -> None:
        self._timer.cancel()
        self._among.pop(self, None)


def _scope(head: bytes) -> dict[str, object]:
    """Return the method and headers of a head as a partial ASGI scope, without validation."""
    first, *lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")
    pairs = (line.partition(b":") for line in lines)
    headers = [(name.lower(), value.strip()) for name, _, value in pairs]
    return {"method": first.partition(b" ")[0].decode("latin-1"), "headers": headers}


def _whole(status: bytes, headers: Headers, body: bytes, *, to_head: bool = False) -> bytes:
    """Return a complete response after which the connection ends."""
    lines = [*headers, (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    head = b"".join(b"%b: %b\r\n" % line for line in lines)
    return b"HTTP/1.1 %b\r\n%b\r\n%b" % (status, head, b"" if to_head else body)
