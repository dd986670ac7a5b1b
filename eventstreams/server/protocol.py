"""One connection of HTTP/1.1 as uvicorn runs it, and what it lends to the stream on it.

The stream finds it in the request's scope["extensions"]. What uvicorn lacks is added here: a limit
on connections, on the head of a request in bytes and time, on requests sent ahead, and dead peers
that are found. No byte of one request is ever read as another: where that is in doubt, the
connection ends.

What a client sends is parsed in pieces that take a few milliseconds at most. The first piece of a
read is parsed at once unless others wait; the rest waits for turns of the client, and meanwhile the
connection is not read.
"""

from __future__ import annotations

import asyncio
import errno
import time
from typing import Any, NoReturn, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from eventstreams.errors import ServiceProblem
from eventstreams.server import sockets
from eventstreams.server.common import HEAD_S, Common, close_unasked
from eventstreams.server.errors import BadRequest, HeadTooLarge, UnwantedBody, UriTooLong
from eventstreams.server.framing import body_parser, chunked, framing_of, refuse_ambiguous
from eventstreams.server.held import SMALL_BYTES
from eventstreams.server.transports import Ending, Flow, LastAnswer, Reason
from eventstreams.turns import PIECE_S
from eventstreams.web.address import site_of

_AHEAD_MAX = 16
"""Requests that may wait for the answers to those before them; they come in one piece."""
_URL_BYTES_MAX = 65_535
"""The parser of URLs counts bytes in 16 bits."""
_HEADERS_MAX = 256
"""Of one request, trailers included. Each costs a call, and a look whenever a header is sought."""
_PIECE_BYTES = 8 * 1024
"""Parsed without a look at the clock. The worst is about 1,500 calls, from chunks of one byte."""
_AT_ONCE_BYTES = 1024
"""A read of no more than this is parsed without waiting: most requests are smaller."""
_HEAD_COPIES = 3
"""How often what a head says is kept: its target is there whole, in parts and decoded."""
_CHUNKS_MAX = 1000
_CHUNK_BYTES_MIN = 64
"""Beyond `_CHUNKS_MAX` pieces of a body, their average may not be smaller than this."""
_UNREAD_BODY_BYTES_MAX = 256 * 1024
"""Of a request whose body nobody reads: every one but POST."""


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
    body_bytes = chunks = headers_seen = 0
    """Of the newest request, so far."""
    fault: ServiceProblem | None = None
    """Why the parser was stopped."""
    deaf = False
    """Whether what still comes is not read any more; what was asked before is answered yet."""
    takes_chunks = True
    """Whether the newest request is of HTTP/1.1, whose answers may be chunked."""
    _head_timer: asyncio.TimerHandle | None = None
    _may_go_on = True
    _unparsed = b""
    _heads_bytes = 0
    """Of the large heads of requests that have not been answered."""
    _unwritten_bytes = 0
    """Of the newest complete answer, if it is large and its client does not read it."""
    _site = ""
    """The address or network that parsing is charged to."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        if self.common.closed:
            close_unasked(transport)
            return
        full = len(self.connections) >= self.common.connections_max
        if full and not self.common.make_room():
            self.common.refusals.refuse(transport, self.server_state.default_headers)
            return
        super().connection_made(transport)
        self.flow = Flow(transport)
        if self.client is not None:
            self._site = site_of(self.client[0])
        self.common.waiting[self] = None
        self.common.find_dead_peer(transport)
        self._head_timer = self.loop.call_later(HEAD_S, self._give_up_waiting)

    def connection_lost(self, exc: Exception | None) -> None:
        self.timed_out = isinstance(exc, OSError) and exc.errno == errno.ETIMEDOUT
        super().connection_lost(exc)
        self.common.waiting.pop(self, None)
        self.common.held.release(self)
        self._unparsed = b""
        self._stop_timers()
        if self.running is not None and not self.running.response_complete:
            self.running.disconnected = True
            self.running.message_event.set()
        self.common.gone(last=not self.connections)

    def data_received(self, data: bytes) -> None:
        if self._unparsed:  # reading is paused, but TLS may have had more
            self._unparsed += data
            return
        turns = self.common.turns
        if len(data) <= _AT_ONCE_BYTES or not turns.busy:
            began = time.perf_counter()
            data = self._parse(data, began)
            turns.charge(self._site, time.perf_counter() - began)
        if data:
            self._unparsed = data
            self._count_held()
            cast("Flow", self.flow).hold()
            task = self.loop.create_task(self._parse_later())
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    async def _parse_later(self) -> None:
        """Parse what the connection has read, piece by piece."""
        while self._unparsed:
            async with self.common.turns.turn(self._site):
                self._unparsed = self._parse(self._unparsed, time.perf_counter())
                self._count_held()
        if not self.transport.is_closing():
            cast("Flow", self.flow).release()

    def _parse(self, data: bytes, began: float) -> bytes:
        """Parse for about half of PIECE_S from `began`; return what is left."""
        view = memoryview(data)
        for at in range(0, len(data), _PIECE_BYTES):
            if self.deaf or self.transport.is_closing():
                break
            if at and time.perf_counter() - began > PIECE_S / 2:
                return data[at:]
            self._parse_piece(view[at : at + _PIECE_BYTES])
        return b""

    def _parse_piece(self, data: memoryview) -> None:
        self.unread_bytes += len(data)
        if self.awaits_head and self.unread_bytes > self.common.head_bytes_max:
            self._refuse(self._head_too_large())
        if self.deaf or self.transport.is_closing():
            return
        idle, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        begun = self.begun
        self._feed(data)
        if idle is not None:
            if self.begun > begun or self.deaf:
                idle.cancel()
            else:  # line ends before a request are none yet
                self.timeout_keep_alive_task = idle
        if not (self.awaits_head or self.deaf) and self.unread_bytes > self.common.head_bytes_max:
            self._refuse(self._head_too_large())
        if self.unread_bytes > SMALL_BYTES and not self.transport.is_closing():
            self._count_held()

    def _feed(self, data: memoryview) -> None:
        assert self.parser is not None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            rest, framing = data[error.args[0] :], framing_of(self.headers)
            if framing is None:
                self._upgrade_ignored()
                return
            parser = body_parser(framing, on_body=self.on_body, on_complete=self._upgrade_ignored)
            self.parser = cast("Any", parser)
            self._feed(rest)
        except httptools.HttpParserError:
            self.send_400_response("")

    def _upgrade_ignored(self) -> None:
        """The whole request has come; what comes next, the client may mean for another protocol."""
        super().on_message_complete()
        self.deaf = True

    def _head_too_large(self) -> HeadTooLarge:
        return HeadTooLarge(
            f"The head of the request exceeds limits.head_bytes_max: {self.common.head_bytes_max} "
            "bytes"
        )

    def _stop(self, fault: ServiceProblem) -> NoReturn:
        """Stop the parser from within one of its callbacks."""
        self.fault = fault
        raise ValueError(fault.detail)

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
        self.body_bytes = self.chunks = self.headers_seen = 0
        scope = cast("dict[str, Any]", self.scope)
        scope["extensions"] = {"eventstreams.connection": self}

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > _URL_BYTES_MAX:
            self._stop(
                UriTooLong(
                    f"The URL has more than {_URL_BYTES_MAX} bytes; a long position may be sent in "
                    "the header Last-Event-ID instead"
                )
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers_seen += 1
        if self.headers_seen > _HEADERS_MAX:
            self._stop(HeadTooLarge(f"A request may have {_HEADERS_MAX} headers and trailers"))
        if self.awaits_head:  # what comes behind a body is no header of the request
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self.awaits_head = False
        self._heads_bytes += self.unread_bytes
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        assert self.parser is not None
        try:
            version = self.parser.get_http_version()
            refuse_ambiguous(version, self.headers)
        except ValueError as error:
            self._stop(BadRequest(str(error)))
        self.takes_chunks = version != "1.0"
        super().on_headers_complete()
        self.common.waiting.pop(self, None)
        # A connection whose request has not come whole when it is answered, ends with the answer.
        if self.pipeline:  # the end of a client is seen only while it is read from
            self.flow.resume_reading()
        self._may_go_on = self.cycle.keep_alive and not self.common.leaving
        self._make_last(self.cycle)

    def _make_last(self, cycle: RequestResponseCycle) -> None:
        """The connection ends with the answer to this one, unless it turns out otherwise."""
        cycle.keep_alive = False
        outlet = LastAnswer(Ending(self), takes_chunks=self.takes_chunks)
        cycle.transport = cast("asyncio.Transport", outlet)

    def on_body(self, body: bytes) -> None:
        self.unread_bytes = 0
        self.chunks += 1
        self.body_bytes += len(body)
        if self.chunks > _CHUNKS_MAX and self.body_bytes < self.chunks * _CHUNK_BYTES_MIN:
            self._stop(
                UnwantedBody(
                    f"The body came in more than {_CHUNKS_MAX} pieces of fewer than "
                    f"{_CHUNK_BYTES_MIN} bytes on average; send larger chunks"
                )
            )
        if self.cycle.scope["method"] == "POST":
            super().on_body(body)
        elif self.body_bytes > _UNREAD_BODY_BYTES_MAX:
            self._stop(UnwantedBody("Only POST requests may have a body"))

    def on_message_complete(self) -> None:
        assert self.parser is not None
        if self.parser.should_upgrade():
            return  # the body, if there is one, is still to come
        super().on_message_complete()
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._may_go_on
            outlet: Any = self.transport
            if not self._may_go_on:
                outlet = LastAnswer(outlet, takes_chunks=self.takes_chunks)
            self.cycle.transport = outlet

    def on_response_complete(self) -> None:
        if self.parser is None:  # the connection was given away with this answer
            return
        unwritten = self.transport.get_write_buffer_size()
        if unwritten > SMALL_BYTES:
            self.transport.set_write_buffer_limits(0)  # `resume_writing` tells of the end then
            self._unwritten_bytes = unwritten
            self._count_held()
        if not (self._unwritten_bytes and self.pipeline):
            self._go_on()

    def _go_on(self) -> None:
        """Begin with the next request, or wait for it."""
        if not self.pipeline:
            self._heads_bytes = 0
        idle = not (self.pipeline or self.cycle.more_body or self.awaits_head)
        super().on_response_complete()
        if idle:
            self._forget_request()
        self._count_held()
        if self.timeout_keep_alive_task is not None:
            self.common.waiting[self] = None

    def _forget_request(self) -> None:
        """Let go of a head that has been answered; the connection may be idle for long."""
        self.cycle = self.scope = self.running = None  # type: ignore[assignment]
        self.url, self.headers = b"", []

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unwritten_bytes:
            self._unwritten_bytes = 0
            self.transport.set_write_buffer_limits(HIGH_WATER_LIMIT)
            if self.pipeline and self.running is not None and self.running.response_complete:
                self._go_on()
            self._count_held()

    def _count_held(self) -> None:
        size = _HEAD_COPIES * self._heads_bytes + self._unwritten_bytes
        if self.awaits_head:  # bodies that wait to be parsed are limited by the intake
            size += _HEAD_COPIES * self.unread_bytes + len(self._unparsed)
        self.common.held.count(self, self._site, 0 if self.transport.is_closing() else size)

    def shutdown(self) -> None:
        self._may_go_on = False
        super().shutdown()

    def give_way(self) -> None:
        transport = self.transport
        self.connection_lost(ConnectionAbortedError("its place is needed"))
        close_unasked(transport)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        if not self.deaf:
            self._refuse(self.fault or BadRequest("This is not a request of HTTP/1.1"))

    def _refuse(self, error: ServiceProblem) -> None:
        """Ends a connection on which nothing can be told any more; says so, unless that would be
        taken for the answer to a request before."""
        running, self.deaf = self.running, True
        self.common.refusals.count(type(error).__name__)
        if running is not None and not running.response_complete:
            its_own = running is self.cycle and running.more_body and not running.response_started
            if not its_own:
                self.transport.close()
                return
        headers = self.server_state.default_headers
        answer = self.common.refusals.bad(error, headers, to_head=self._asks_for_head())
        self.transport.write(answer)
        self.linger()

    def _asks_for_head(self) -> bool:
        """Return whether the request is a HEAD, whose answer has no body."""
        assert self.parser is not None
        return self.parser.get_method() == b"HEAD"

    def linger(self) -> None:
        """Gives the connection away that has been sent its last bytes."""
        if self.transport.is_closing():
            return
        self.connection_lost(ConnectionAbortedError("it has had its last answer"))
        self.common.refusals.linger(self.transport)

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
        if self.flow.write_paused or self.transport.is_closing() or not self.takes_chunks:
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
        outlet = Reason(self.running.transport, reason)
        self.running.transport = cast("asyncio.Transport", outlet)
