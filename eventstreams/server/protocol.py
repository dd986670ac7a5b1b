"""One connection as uvicorn runs it, and what it lends to the stream on it.

The stream finds it in the request's scope["extensions"]. What uvicorn lacks is added here: a limit
on connections, on the head of a request in bytes and time, and dead peers that are found.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from typing import Any, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from eventstreams.server import sockets
from eventstreams.server.refusal import Refusals
from eventstreams.settings import Settings
from eventstreams.web.answers import common_headers

_HEAD_S = 10.0
"""How long the head of a request may take to come."""
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class Protocol(HttpToolsProtocol):
    """One connection, and what it lends to the stream on it."""

    connections_max = sys.maxsize
    refusals: Refusals
    """Of the server, for connections beyond `connections_max`."""
    head_bytes_max = sys.maxsize
    """Of a request, beyond what came in one piece."""
    user_timeout_ms = 0
    timed_out = False
    """Whether the kernel gave the connection up, because its peer took or answered nothing."""
    idle: asyncio.Event | None = None
    """Set, if it is there, when the last connection is gone."""
    running: RequestResponseCycle | None = None
    """The request being answered; `cycle` is the newest, which may have been sent ahead."""
    awaits_head = True
    head_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self.connections) >= self.connections_max:
            headers = self.server_state.default_headers
            self.refusals.refuse(cast("asyncio.Transport", transport), headers)
            return
        super().connection_made(cast("asyncio.Transport", transport))
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sockets.find_dead_peers(sock, self.user_timeout_ms)
        self.loop.call_later(_HEAD_S, self._give_up_waiting)

    def connection_lost(self, exc: Exception | None) -> None:
        self.timed_out = isinstance(exc, OSError) and exc.errno == errno.ETIMEDOUT
        super().connection_lost(exc)
        if self.running is not None and not self.running.response_complete:
            self.running.disconnected = True
            self.running.message_event.set()
        if self.idle is not None and not self.connections:
            self.idle.set()

    def data_received(self, data: bytes) -> None:
        if self.awaits_head:
            self.head_bytes += len(data)
            if self.head_bytes > self.head_bytes_max:
                self.transport.write(_TOO_LARGE)
                self.transport.close()
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self.awaits_head = False
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.running = cycle
        super()._start_asgi_task(cycle, app)

    def _give_up_waiting(self) -> None:
        """Closes a connection whose request has not come whole in all this time."""
        if self.awaits_head and not self.transport.is_closing():
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self.running is not None:
            self.loop.call_later(_HEAD_S, self._give_up_waiting)
        self.awaits_head, self.head_bytes = True, 0
        scope = cast("dict[str, Any]", self.scope)
        scope["extensions"] = {"eventstreams.connection": self}

    def framed(self, body: bytes) -> bytes:
        """A chunk of HTTP/1.1's chunked encoding, which every stream has."""
        return b"%x\r\n%b\r\n" % (len(body), body)

    def write_framed(self, data: bytes) -> bool:
        """What ASGI's send comes to in the middle of a stream, without a coroutine and a copy."""
        if self.flow.write_paused or self.transport.is_closing():
            return False
        self.transport.write(data)
        return True

    def unsent(self) -> int:
        """Bytes written that the client's host has not acknowledged yet."""
        sock = self.transport.get_extra_info("socket")
        return self.transport.get_write_buffer_size() + sockets.unsent(sock)

    def abort(self) -> None:
        """Drops the connection and what is unsent, at once."""
        self.transport.abort()

    def set_reason(self, reason: bytes) -> None:
        """The reason phrase of the response that comes next."""
        assert self.running is not None
        self.running.transport = cast("asyncio.Transport", _Reason(self.transport, reason))


class _Reason:
    """A transport that exchanges the reason phrase in the first bytes of a response."""

    def __init__(self, transport: asyncio.Transport, reason: bytes) -> None:
        self._transport = transport
        self._reason: bytes | None = reason

    def write(self, data: bytes) -> None:
        if self._reason is not None:
            status, rest = data.split(b"\r\n", 1)
            data = b"%b %b\r\n%b" % (status[: len(b"HTTP/1.1 200")], self._reason, rest)
            self._reason = None
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def protocol_class(settings: Settings, connections_max: int) -> type[Protocol]:
    """The protocol of one server: uvicorn makes one for each connection, without arguments."""
    shared = {
        "connections_max": connections_max,
        "refusals": Refusals(common_headers(settings.http)),
        "head_bytes_max": settings.limits.head_bytes_max,
        "user_timeout_ms": int(settings.fanout.stall_timeout_s * 1000),
    }
    return type("Protocol", (Protocol,), shared)
