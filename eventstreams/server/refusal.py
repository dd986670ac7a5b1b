"""Last answers, and so that they are heard: to connections beyond the most there may be, who are
told when to come back, and to those whose request is at fault.

A socket that is closed with bytes unread resets the connection, and the peer may lose the answer
with it. So only our side is closed at first; what the request still sends is read and forgotten,
for a while. That is bounded in time, bytes and number.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

Headers = Sequence[tuple[bytes, bytes]]

LINGERING_MAX = 128
"""Such connections that are still open; beyond it the one that ended longest ago is dropped."""
_LINGER_S = 2.0
_LINGER_BYTES_MAX = 256 * 1024
"""As much as the head of a request may have."""
_RETRY_AFTER_S = (2, 20)
"""They must not all come back at once."""


class Refusals:
    """Answers 503 in the place of the application, before a request has been read."""

    def __init__(self, headers: Headers) -> None:
        """`headers` are those of every answer."""
        self._headers = headers
        self._lingering: dict[_Lingering, None] = {}  # oldest first

    def refuse(self, transport: asyncio.Transport, headers: Headers) -> None:
        """Answers and takes the connection over. `headers` are those that change with time."""
        retry_after_s = random.randint(*_RETRY_AFTER_S)  # noqa: S311 - spreads clients, no secret
        self.refuse_by(transport, full(retry_after_s, [*headers, *self._headers]))

    def refuse_by(self, transport: asyncio.Transport, answer: bytes) -> None:
        """The same in another protocol."""
        transport.write(answer)
        self.linger(transport)

    def bad(self, status: bytes, headers: Headers) -> bytes:
        """The answer to what is no proper request. `status` with its phrase."""
        lines = [*headers, *self._headers, (b"content-length", b"0"), (b"connection", b"close")]
        return b"HTTP/1.1 %b\r\n%b\r\n" % (status, b"".join(b"%b: %b\r\n" % line for line in lines))

    def linger(self, transport: asyncio.Transport) -> None:
        """Takes over a connection that has been sent its last bytes."""
        if len(self._lingering) >= LINGERING_MAX:
            next(iter(self._lingering)).drop()
        lingering = _Lingering(transport, self._lingering)
        transport.set_protocol(lingering)
        self._lingering[lingering] = None
        if transport.can_write_eof():
            transport.write_eof()
        else:  # TLS says its own end, and reads and forgets what comes until its peer's
            transport.close()

    def drop_all(self) -> None:
        for lingering in list(self._lingering):
            lingering.drop()

    @property
    def lingering(self) -> int:
        """How many connections that have had their last answer are still open."""
        return len(self._lingering)


class _Lingering(asyncio.Protocol):
    """A connection that has had its answer: open until its peer closes it, but not for long."""

    def __init__(self, transport: asyncio.Transport, among: dict[_Lingering, None]) -> None:
        self._transport = transport
        self._among = among
        self._bytes = 0
        self._timer = asyncio.get_running_loop().call_later(_LINGER_S, self.drop)

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > _LINGER_BYTES_MAX:
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._forget()

    def drop(self) -> None:
        self._forget()
        self._transport.abort()

    def _forget(self) -> None:
        self._timer.cancel()
        self._among.pop(self, None)


def full(retry_after_s: int, headers: Headers) -> bytes:
    """The whole answer of a process that has as many connections as it may."""
    body = b'{"status":503,"type":"unavailable","title":"Service Unavailable"}\n'
    lines = [
        *headers,
        (b"content-type", b"application/json; charset=utf-8"),
        (b"retry-after", b"%d" % retry_after_s),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    head = b"".join(b"%b: %b\r\n" % line for line in lines)
    return b"HTTP/1.1 503 Service Unavailable\r\n%b\r\n%b" % (head, body)
