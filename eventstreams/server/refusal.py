"""Last answers, and so that they are heard: to connections beyond the most there may be, who are
told when to come back, and to those whose request is at fault.

A socket that is closed with bytes unread resets the connection, and the peer may lose the answer
with it. So only our side is closed at first, and what the request still sends is read and discarded
for a while. Time, bytes and the number of such connections are bounded; beyond the bytes the
connection stays open, unread, until its time is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from http import HTTPStatus

import msgspec

from eventstreams.errors import GatewayFull, ServiceProblem
from eventstreams.web import event_source
from eventstreams.web.answers import spread_ms

Headers = Sequence[tuple[bytes, bytes]]

LINGERING_MAX = 128
"""Such connections that are still open; beyond it the one that ended longest ago is dropped."""
_HEAR_S = 0.5
"""How long one that is refused may take to say who it is; after that it is told as everyone is."""
_LINGER_S = 2.0
_LINGER_BYTES_MAX = 256 * 1024
"""As much as the head of a request may have."""
_SOONEST_S = 5
_FULL = GatewayFull("As many connections are open as there may be", _SOONEST_S)


class Refusals:
    """Answers in the place of the application."""

    def __init__(
        self, headers: Headers, *, event_source: bool = True, count: Callable[[str], object]
    ) -> None:
        """`headers` are those of every answer. `event_source`: whether a browser's EventSource gets
        an answer after which it reconnects. `count` is called with the name of each error."""
        self._headers = headers
        self.count = count
        self._event_source = event_source
        self._lingering: dict[_Lingering, None] = {}  # oldest first

    def refuse(self, transport: asyncio.Transport, headers: Headers) -> None:
        """Takes the connection over, and answers when it is known who asks. `headers` are those
        that change with time."""
        self.count(type(_FULL).__name__)
        self._keep(transport, lambda head: self._full(head, [*headers, *self._headers]))

    def bad(self, error: ServiceProblem, headers: Headers, *, to_head: bool) -> bytes:
        """The answer to what is not a proper request. `to_head`: without its body, as for HEAD."""
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
        """Takes over a connection that has been sent its last bytes."""
        self._keep(transport, None)

    def drop_all(self) -> None:
        for lingering in list(self._lingering):
            lingering.drop()

    @property
    def lingering(self) -> int:
        """How many connections that have had their last answer, or are to get it, are open."""
        return len(self._lingering)

    def _keep(self, transport: asyncio.Transport, answer: Callable[[bytes], bytes] | None) -> None:
        if len(self._lingering) >= LINGERING_MAX:
            next(iter(self._lingering)).drop()
        lingering = _Lingering(transport, self._lingering, answer)
        transport.set_protocol(lingering)
        self._lingering[lingering] = None

    def _full(self, head: bytes, headers: Headers) -> bytes:
        if self._event_source and event_source.is_event_source(_scope(head)):
            lines = [*headers, *event_source.HEADERS]
            return _whole(b"200 OK", lines, event_source.passing(_FULL))
        body = b'{"status":503,"type":"unavailable","title":"Service Unavailable"}\n'
        own = [
            (b"content-type", b"application/json; charset=utf-8"),
            (b"retry-after", b"%d" % (spread_ms(_SOONEST_S) // 1000)),
        ]
        return _whole(b"503 Service Unavailable", [*headers, *own], body)


class _Lingering(asyncio.Protocol):
    """A connection that has had its answer, or gets it when its head has come: open until its peer
    closes it, but not for long."""

    def __init__(
        self,
        transport: asyncio.Transport,
        among: dict[_Lingering, None],
        answer: Callable[[bytes], bytes] | None,
    ) -> None:
        """`answer`: by the head of the request, as far as it came; None where it has been sent."""
        self._transport = transport
        self._among = among
        self._answer = answer
        self._head = b""
        self._bytes = 0
        self._timer = asyncio.get_running_loop().call_later(_HEAR_S, self._tell)
        if answer is None:
            self._tell()

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > _LINGER_BYTES_MAX:
            if self._answer is not None or not self._transport.can_write_eof():
                self.drop()
            else:  # a reset would take the answer from a peer that has not read it yet
                self._transport.pause_reading()
        elif self._answer is not None:
            self._head += data
            if b"\r\n\r\n" in self._head:
                self._tell()

    def eof_received(self) -> None:
        if self._answer is not None:
            self._tell()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._forget()

    def drop(self) -> None:
        self._say()
        self._forget()
        self._transport.abort()

    def _tell(self) -> None:
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_LINGER_S, self.drop)
        self._say()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:  # TLS says its own end, and reads and forgets what comes until its peer's
            self._transport.close()

    def _say(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            self._transport.write(answer(self._head))
            self._head = b""

    def _forget(self) -> None:
        self._timer.cancel()
        self._among.pop(self, None)


def _scope(head: bytes) -> dict[str, object]:
    """What of a request says who asks, without a judgement of all the rest."""
    first, *lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")
    pairs = (line.partition(b":") for line in lines)
    headers = [(name.lower(), value.strip()) for name, _, value in pairs]
    return {"method": first.partition(b" ")[0].decode("latin-1"), "headers": headers}


def _whole(status: bytes, headers: Headers, body: bytes, *, to_head: bool = False) -> bytes:
    """An answer after which the connection ends."""
    lines = [*headers, (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    head = b"".join(b"%b: %b\r\n" % line for line in lines)
    return b"HTTP/1.1 %b\r\n%b\r\n%b" % (status, head, b"" if to_head else body)
