"""One connection of HTTP/1.1 as uvicorn runs it, and what it lends to the stream on it.

The stream finds it in the request's scope["extensions"]. What uvicorn lacks is added here: a limit
on connections, on the head of a request in bytes and time, on requests sent ahead, and dead peers
that are found. No byte of one request is ever read as another: where that is in doubt, the
connection ends.
"""

from __future__ import annotations

import asyncio
import errno
from typing import Any, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from eventstreams.server import sockets
from eventstreams.server.common import HEAD_S, Common

_AHEAD_MAX = 16
"""Requests that may wait for the answers to those before them; they come in one piece."""
_BAD = b"400 Bad Request"
_TOO_LARGE = b"431 Request Header Fields Too Large"


class Protocol(HttpToolsProtocol):
    """One connection, and what it lends to the stream on it."""

    common: Common
    timed_out = False
    """Whether the kernel gave the connection up, because its peer took or answered nothing."""
    running: RequestResponseCycle | None = None
    """The request being answered; `cycle` is the newest, which may have been sent ahead."""
    awaits_head = True
    unread_bytes = 0
    """Since the last byte of a body: of a head, trailers, or what frames a body's chunks."""
    begun = 0
    """Requests so far."""
    deaf = False
    """Whether what still comes is not read any more; what was asked before is answered yet."""
    _head_timer: asyncio.TimerHandle | None = None
    _may_go_on = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self.connections) >= self.common.connections_max:
            headers = self.server_state.default_headers
            self.common.refusals.refuse(cast("asyncio.Transport", transport), headers)
            return
        super().connection_made(cast("asyncio.Transport", transport))
        self.common.find_dead_peer(transport)
        self._head_timer = self.loop.call_later(HEAD_S, self._give_up_waiting)

    def connection_lost(self, exc: Exception | None) -> None:
        self.timed_out = isinstance(exc, OSError) and exc.errno == errno.ETIMEDOUT
        super().connection_lost(exc)
        self._stop_timers()
        if self.running is not None and not self.running.response_complete:
            self.running.disconnected = True
            self.running.message_event.set()
        self.common.gone(last=not self.connections)

    def data_received(self, data: bytes) -> None:
        self.unread_bytes += len(data)
        if self.awaits_head and self.unread_bytes > self.common.head_bytes_max:
            self._refuse(_TOO_LARGE)
        if self.deaf or self.transport.is_closing():
            return
        idle, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        begun = self.begun
        super().data_received(data)
        if idle is not None:
            if self.begun > begun or self.deaf:
                idle.cancel()
            else:  # line ends before a request are none yet
                self.timeout_keep_alive_task = idle
        if not (self.awaits_head or self.deaf) and self.unread_bytes > self.common.head_bytes_max:
            self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _AHEAD_MAX:
            self._make_last(self.cycle)
            self.deaf = True
            raise ValueError("too many requests sent ahead")
        super().on_message_begin()
        self.begun += 1
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self._give_up_waiting)
        self.awaits_head, self.unread_bytes = True, 0
        scope = cast("dict[str, Any]", self.scope)
        scope["extensions"] = {"eventstreams.connection": self}

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.awaits_head:  # what comes behind a body is no header of the request
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self.awaits_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        assert self.parser is not None
        refuse_ambiguous(self.parser.get_http_version(), self.headers)
        super().on_headers_complete()
        # A connection whose request has not come whole when it is answered, ends with the answer.
        if self.pipeline:  # the end of a client is seen only while it is read from
            self.flow.resume_reading()
        self._may_go_on = self.cycle.keep_alive
        self._make_last(self.cycle)

    def _make_last(self, cycle: RequestResponseCycle) -> None:
        """The connection ends with the answer to this one, unless it turns out otherwise."""
        cycle.keep_alive = False
        cycle.transport = cast("asyncio.Transport", _Ending(self))

    def on_body(self, body: bytes) -> None:
        self.unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        assert self.parser is not None
        if self.parser.should_upgrade():  # what comes next, the client may mean for something else
            self.deaf = True
        elif not self.cycle.response_started:
            self.cycle.keep_alive = self._may_go_on
            self.cycle.transport = self.transport

    def on_response_complete(self) -> None:
        if self.parser is not None:  # else the connection was given away with this answer
            super().on_response_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        if not self.deaf:
            self._refuse(_BAD)

    def _refuse(self, status: bytes) -> None:
        """Ends a connection on which nothing can be told any more; says so, unless that would be
        taken for the answer to a request before."""
        running, self.deaf = self.running, True
        self.common.refusals.count("HeadTooLarge" if status is _TOO_LARGE else "BadRequest")
        if running is not None and not running.response_complete:
            its_own = running is self.cycle and running.more_body and not running.response_started
            if not its_own:
                self.transport.close()
                return
        headers = self.server_state.default_headers
        self.transport.write(self.common.refusals.bad(status, headers))
        self.linger()

    def linger(self) -> None:
        """Gives the connection away that has been sent its last bytes."""
        if self.transport.is_closing():
            return
        self.connection_lost(ConnectionAbortedError("it has had its last answer"))
        self.common.refusals.linger(self.transport)

    def _unsupported_upgrade_warning(self) -> None:
        """It is for the client to know, and no news for a log."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.running = cycle
        super()._start_asgi_task(cycle, app)

    def _give_up_waiting(self) -> None:
        """Closes a connection whose request has not come whole in all this time."""
        self._head_timer = None
        if self.unread_bytes:  # else it was opened in case it is needed, as browsers do
            self.common.refusals.count("HeadTimeout")
        self.transport.close()

    def _stop_timers(self) -> None:
        self._unset_keepalive_if_required()
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def framed(self, body: bytes) -> bytes:
        """A chunk of HTTP/1.1's chunked encoding, which every stream has."""
        return chunked(body)

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
        outlet = _Reason(self.running.transport, reason)
        self.running.transport = cast("asyncio.Transport", outlet)


class _Ending:
    """A transport that is not closed behind an answer while its peer still sends, for that would
    take the answer from it."""

    def __init__(self, connection: Protocol) -> None:
        self._connection = connection

    def close(self) -> None:
        self._connection.linger()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection.transport, name)


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


def refuse_ambiguous(version: str, headers: list[tuple[bytes, bytes]]) -> None:
    """Raises ValueError where a proxy in front might have understood something else (RFC 9112, 3.2
    and 6.1). The parser has refused lengths that contradict each other."""
    if version not in ("1.0", "1.1"):
        raise ValueError("no version that is spoken here")
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise ValueError("one host is needed")
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    if codings and (codings != [b"chunked"] or version == "1.0"):
        raise ValueError("a transfer coding that is not known here")


def chunked(body: bytes) -> bytes:
    """The body as one chunk of HTTP/1.1's chunked encoding."""
    return b"%x\r\n%b\r\n" % (len(body), body)
