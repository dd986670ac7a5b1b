"""One HTTP/1.1 connection, based on uvicorn's, which streams can also write to directly.

A stream finds the connection in the request's scope["extensions"]. This class adds what uvicorn
lacks: limits on connections, on the bytes and time of a request's head, and on requests sent ahead,
and the detection of dead peers. No byte of one request is ever read as part of another: if that is
in doubt, the connection ends.

Received bytes are parsed in pieces that take a few milliseconds at most. The first piece of a
read is parsed at once unless other work waits. The rest waits for turns of the client, and the
connection is not read meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import time
from typing import Any, NoReturn, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from eventstreams.deadlines import LOOK_S, Deadline
from eventstreams.errors import BadRequest, HeadTooLarge, ServiceProblem, UnwantedBody, UriTooLong
from eventstreams.server import sockets
from eventstreams.server.connections import Connections, close_at_once
from eventstreams.server.framing import body_parser, chunked, framing_of, refuse_ambiguous
from eventstreams.server.held import SMALL_BYTES
from eventstreams.server.transports import Ending, Flow, LastAnswer, Reason
from eventstreams.web.address import site_of

_AHEAD_MAX = 16
"""How many requests may wait for the responses to earlier ones on the same connection."""
_URL_BYTES_MAX = 65_535
"""The parser of URLs counts bytes in 16 bits, so it cannot read longer ones."""
_HEADERS_MAX = 256
"""The maximum number of headers and trailers of a request. Each slows every search for a header."""
_PIECE_BYTES = 8 * 1024
"""How much is parsed between checks of the clock: at worst 1,500 calls, for one-byte chunks."""
_AT_ONCE_BYTES = 1024
"""Reads of at most this size are parsed without waiting. Most requests are smaller."""
_HEAD_COPIES = 3
"""How often a head is in memory: its target is kept whole, in parts and decoded."""
_AHEAD_BYTES = 4096
"""The memory that a request sent ahead takes, besides its head and body."""
_CHUNKS_MAX = 1000
_CHUNK_BYTES_MIN = 64
"""The minimum average size of a body's pieces once there are more than `_CHUNKS_MAX`."""
_UNREAD_BODY_BYTES_MAX = 256 * 1024
"""The largest body of a request that is not a POST. Such bodies are discarded."""


class HttpConnection(HttpToolsProtocol):
    """One connection. It implements `eventstreams.fanout.send.Connection` for its streams."""

    common: Connections
    timed_out = False
    """Whether the kernel closed the connection because its peer did not respond."""
    running: RequestResponseCycle | None = None
    """The request being handled; `cycle` is the newest, which may have been sent ahead."""
    awaits_head = True
    unread_bytes = 0
    """Bytes of a head, of trailers or of chunk framing since the last byte of a body."""
    begun = 0
    """How many requests have begun."""
    body_bytes = chunks = headers_seen = 0
    """Counts for the newest request."""
    fault: ServiceProblem | None = None
    """The reason for which a callback stopped the parser, if one did."""
    input_ignored = False
    """Whether further bytes are ignored. Earlier requests are still answered."""
    takes_chunks = True
    """Whether the newest request is HTTP/1.1, so that its response may be chunked."""
    _head_timer: Deadline | None = None
    _may_go_on = True
    _unparsed = b""
    _heads_bytes = 0
    """The size of the heads of unanswered requests."""
    _unwritten_bytes = 0
    """The unwritten part of the newest complete response, if it is large."""
    _site = ""
    """The address or network that parsing is charged to."""
    _is_proxy = False
    """Whether the peer is a trusted proxy."""
    _has_stream = False
    _is_lost = False
    _task: asyncio.Task[None] | None = None
    """The task of `running`."""
    _parsing: asyncio.Task[None] | None = None
    """The task that parses what was read, while that waits for turns."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        if self.common.closed:
            close_at_once(transport)
            return
        peer: tuple[str, int] | None = transport.get_extra_info("peername")
        if peer:
            self._site = site_of(peer[0])
            self._is_proxy = self.common.proxies.trusts(peer[0])
        full = len(self.connections) >= self.common.connections_max
        if full and not self.common.make_room(self._site):
            self.common.refusals.refuse(transport, self.server_state.default_headers)
            return
        super().connection_made(transport)
        self.flow = Flow(transport)
        self.common.waiting[self] = None
        self.common.find_dead_peer(transport)
        self._head_timer = self._head_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self.timed_out = isinstance(exc, OSError) and exc.errno == errno.ETIMEDOUT
        super().connection_lost(exc)
        self.common.waiting.pop(self, None)
        self.common.busy.remove(self, self._site)
        self.common.held.release(self)
        self._unparsed = b""
        if self._parsing is not None and self._parsing is not asyncio.current_task():
            self._parsing.cancel()
        self._parsing = None
        self.pipeline.clear()  # these requests refer to the connection, so they would stay
        self._stop_timers()
        self._is_lost = True
        if self.running is not None and not self.running.response_complete:
            self.running.disconnected = True
            self.running.message_event.set()
            self._cancel_unanswered(self.running)
        else:
            self._forget_request()
        self.common.gone(last=not self.connections)

    def _cancel_unanswered(self, request: RequestResponseCycle) -> None:
        """Cancel a request whose client is gone before its response has begun, unless it may change
        something. Requests that wait for a turn would otherwise hold their memory for a long time.
        """
        is_safe = request.scope["method"] in ("GET", "HEAD")
        if self._task is not None and is_safe and not request.response_started:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._unparsed:  # reading is paused, but TLS may deliver more
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
            self._parsing = task = self.loop.create_task(self._parse_later())
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    async def _parse_later(self) -> None:
        """Parse the bytes that were read, piece by piece in turns of the client."""
        while self._unparsed:
            async with self.common.turns.turn(self._site):
                self._unparsed = self._parse(self._unparsed, time.perf_counter())
                self._count_held()
        self._parsing = None
        if not self.transport.is_closing():
            cast("Flow", self.flow).release()

    def _parse(self, data: bytes, began: float) -> bytes:
        """Parse until about half of `piece_s` after `began`; return the unparsed rest."""
        view = memoryview(data)
        for at in range(0, len(data), _PIECE_BYTES):
            if self.input_ignored or self.transport.is_closing():
                break
            if at and time.perf_counter() - began > self.common.piece_s / 2:
                return data[at:]
            self._parse_piece(view[at : at + _PIECE_BYTES])
            if self.pipeline:
                self._count_held()
        return b""

    def _parse_piece(self, data: memoryview) -> None:
        self.unread_bytes += len(data)
        if self.awaits_head and self.unread_bytes > self.common.head_bytes_max:
            self._refuse(self._head_too_large())
        if self.input_ignored or self.transport.is_closing():
            return
        idle, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        begun = self.begun
        self._feed(data)
        if idle is not None:
            if self.begun > begun or self.input_ignored:
                idle.cancel()
            else:  # line ends before a request do not begin one
                self.timeout_keep_alive_task = idle
        if (
            not (self.awaits_head or self.input_ignored)
            and self.unread_bytes > self.common.head_bytes_max
        ):
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
        """Complete the request, and ignore later bytes, which may be in another protocol."""
        super().on_message_complete()
        self.input_ignored = True

    def _head_too_large(self) -> HeadTooLarge:
        return HeadTooLarge(
            f"The head of the request exceeds limits.head_bytes_max: {self.common.head_bytes_max} "
            "bytes"
        )

    def _stop(self, fault: ServiceProblem) -> NoReturn:
        """Stop the parser from one of its callbacks. Raises ValueError."""
        self.fault = fault
        raise ValueError(fault.detail)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _AHEAD_MAX:
            self._make_last(self.cycle)
            self.input_ignored = True
            raise ValueError("too many requests sent ahead")
        super().on_message_begin()
        self.begun += 1
        if self._head_timer is None:
            self._head_timer = self._head_deadline()
        self.awaits_head, self.unread_bytes = True, 0
        self.body_bytes = self.chunks = self.headers_seen = 0
        scope = cast("dict[str, Any]", self.scope)
        scope["extensions"] = {"eventstreams.connection": self}

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > _URL_BYTES_MAX:
            self._stop(
                UriTooLong(
                    f"The URL has more than {_URL_BYTES_MAX} bytes; send a long position in "
                    "the header Last-Event-ID instead"
                )
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers_seen += 1
        if self.headers_seen > _HEADERS_MAX:
            self._stop(
                HeadTooLarge(f"A request may have at most {_HEADERS_MAX} headers and trailers")
            )
        if self.awaits_head:  # trailers after a body are not headers of the request
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
        if not (self._is_proxy or self._has_stream):
            self.common.busy.add(self, self._site)
        # If a response completes before its request has arrived completely, the connection ends.
        if self.pipeline:  # a disconnect is noticed only while the connection is read
            self.flow.resume_reading()
        self._may_go_on = self.cycle.keep_alive and not self.common.leaving
        self._make_last(self.cycle)

    def _make_last(self, cycle: RequestResponseCycle) -> None:
        """End the connection after the response to this request, unless that is undone later."""
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
            return  # the body, if there is one, has not been read yet
        super().on_message_complete()
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._may_go_on
            outlet: Any = self.transport
            if not self._may_go_on:
                outlet = LastAnswer(outlet, takes_chunks=self.takes_chunks)
            self.cycle.transport = outlet

    def on_response_complete(self) -> None:
        if self.parser is None:  # the connection was handed over after this response
            return
        unwritten = self.transport.get_write_buffer_size()
        if unwritten > SMALL_BYTES:
            self.transport.set_write_buffer_limits(
                0
            )  # then `resume_writing` is called when all is written
            self._unwritten_bytes = unwritten
            self._count_held()
        if not (self._unwritten_bytes and self.pipeline):
            self._go_on()

    def _go_on(self) -> None:
        """Begin the next request, or wait for one."""
        if not self.pipeline:
            self._heads_bytes = 0
        idle = not (self.pipeline or self.cycle.more_body or self.awaits_head)
        super().on_response_complete()
        if idle:
            self._forget_request()
        self._count_held()
        self._has_stream = False
        if self.timeout_keep_alive_task is not None:
            self.common.waiting[self] = None
            self.common.busy.remove(self, self._site)

    def _forget_request(self) -> None:
        """Release the last request, because the connection may be idle for a long time, or was
        lost: the request refers to it, so that only the garbage collector would free the two."""
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
        if self.awaits_head:
            size += _HEAD_COPIES * self.unread_bytes
        # A proxy may send the bodies of many clients at once.
        if self.awaits_head or self.pipeline or not self._is_proxy:
            size += len(self._unparsed)
        for cycle, _ in self.pipeline:  # the intake does not count their bodies until it reads them
            size += _AHEAD_BYTES + len(cycle.body)
        self.common.held.count(self, self._site, 0 if self.transport.is_closing() else size)

    def shutdown(self) -> None:
        self._may_go_on = False
        super().shutdown()

    def make_way(self) -> None:
        transport = self.transport
        self.connection_lost(ConnectionAbortedError("another connection needs its place"))
        close_at_once(transport)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        if not self.input_ignored:
            self._refuse(self.fault or BadRequest("This is not an HTTP/1.1 request"))

    def _refuse(self, error: ServiceProblem) -> None:
        """End the connection with an error response.

        No response is sent if the client would take it for the response to an earlier request.
        """
        running, self.input_ignored = self.running, True
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
        """Hand over the connection after its last response, to be closed once the client has it."""
        if self.transport.is_closing():
            return
        self.connection_lost(ConnectionAbortedError("its last response was sent"))
        self.common.refusals.linger(self.transport)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.running = cycle
        handling = cycle.run_asgi(functools.partial(self._handle, app))
        self._task = task = self.loop.create_task(handling)
        task.add_done_callback(self._end_task)
        self.tasks.add(task)

    async def _handle(self, app: ASGI3Application, scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._is_lost:
                raise

    def _end_task(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self._task = None
        if self._is_lost:
            self._forget_request()

    def _head_deadline(self) -> Deadline:
        return Deadline(self.loop.time() + self.common.head_s, self._give_up_waiting)

    def _give_up_waiting(self) -> None:
        """Close the connection, because the head of its request did not arrive in time."""
        self._head_timer = None
        if self.unread_bytes:  # otherwise it was opened in advance, as browsers do
            self.common.refusals.count("HeadTimeout")
        self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """Close the idle connection, once a request that may wait in its socket has been read."""
        close = super().timeout_keep_alive_handler
        self.timeout_keep_alive_task = self.loop.call_later(LOOK_S, close)

    def _stop_timers(self) -> None:
        self._unset_keepalive_if_required()
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def framed(self, body: bytes) -> bytes:
        """Return a part of a body as a chunk of HTTP/1.1's chunked encoding."""
        return chunked(body)

    def write_framed(self, data: bytes) -> bool:
        """Write a framed part of a body, if there is room, without ASGI's coroutine and copy."""
        if self.flow.write_paused or self.transport.is_closing() or not self.takes_chunks:
            return False
        self.transport.write(data)
        return True

    def unsent(self) -> int:
        """Return the bytes written that the client's host has not acknowledged yet."""
        sock = self.transport.get_extra_info("socket")
        return self.transport.get_write_buffer_size() + sockets.unsent(sock)

    def begin_stream(self) -> None:
        """Record that the response that has begun is a stream."""
        self._has_stream = True
        self.common.busy.remove(self, self._site)

    def abort(self) -> None:
        """Close the connection at once, and drop what is unsent."""
        self.transport.abort()

    def set_reason(self, reason: bytes) -> None:
        """Set the reason phrase of the next response."""
        assert self.running is not None
        outlet = Reason(self.running.transport, reason)
        self.running.transport = cast("asyncio.Transport", outlet)
