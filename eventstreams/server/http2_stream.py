"""One request of an HTTP/2 connection with its response, and what it lends to the stream on it.

uvicorn hands bodies to zttp, which keeps what the client's flow-control windows do not admit: all
of a stream, for a client that gives no credit. Here one body goes out as far as the windows reach,
its rest is not copied but kept where it is, and the next one waits: as on a connection of its own.
What a reader gets wrong most easily: a `send` that is given up while it waits has sent nothing of
its body, else a stream that ends or goes on then would go on in the middle of a frame.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import zttp
from uvicorn._types import ASGI3Application, ASGISendEvent
from uvicorn.protocols.http.zttp_h2_impl import RequestResponseCycle

from eventstreams.server import sockets
from eventstreams.server.protocol import chunked

if TYPE_CHECKING:
    from eventstreams.server.http2 import Http2


_NOTHING = memoryview(b"")


class Http2Stream(RequestResponseCycle):
    rest = _NOTHING
    """Of the last body: what has still to go."""
    waiter: asyncio.Future[None] | None = None
    """Of a `send` that waits: until the rest has gone, and there is room if it needs any."""
    needs_room = False
    stalled = False
    """Whether it was given up because the client took nothing for too long."""

    def __init__(self, connection: Http2, stream: zttp.Stream, scope: dict[str, Any]) -> None:
        super().__init__(
            scope=scope,  # type: ignore[arg-type]
            conn=connection.conn,
            stream=stream,
            transport=connection.transport,
            flow=connection.flow,
            logger=connection.logger,
            access_logger=connection.access_logger,
            access_log=connection.access_log,
            default_headers=connection.server_state.default_headers,
            message_event=asyncio.Event(),
            on_response=connection.on_response_complete,
            resume_reading=connection.resume_reading_if_idle,
        )
        self.connection = connection

    async def run_asgi(self, app: ASGI3Application) -> None:
        if not self.disconnected:  # a request may be taken back before its turn comes
            await super().run_asgi(app)

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] != "http.response.body" or self.bodyless or not self.response_started:
            while self.flow.write_paused and not self.disconnected:
                await self._wait(needs_room=False)
            await super().send(message)
            return
        if body := memoryview(message.get("body", b"")):
            while (self.rest or self.room == 0) and not self.disconnected:
                await self._wait(needs_room=True)
            self._take(body)
        if not message.get("more_body", False):
            while (self.rest or self.flow.write_paused) and not self.disconnected:
                await self._wait(needs_room=False)
            await super().send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _wait(self, *, needs_room: bool) -> None:
        """Until the rest has gone, and there is room if it is needed; or the client."""
        if self.stream.send_window is None:
            self.lose()
            return
        self.needs_room = needs_room
        waiter = self.waiter = self.connection.loop.create_future()
        self.connection.behind[self] = None
        self._look_later(waiter)
        try:
            await waiter
        finally:
            self.waiter, self.needs_room = None, False
            waiter.cancel()

    def _look_later(self, waiter: asyncio.Future[None]) -> None:
        """Gives up in time, as TCP does for a connection: not every answer is a stream that sees to
        it, and a stream does not yet when it begins. A timer, for whose task waits is not known."""
        stall_timeout_s = self.connection.common.stall_timeout_s
        timer = self.connection.loop.call_later(stall_timeout_s, self._look, waiter, self.unsent())
        waiter.add_done_callback(lambda _: timer.cancel())

    def _look(self, waiter: asyncio.Future[None], unsent: int) -> None:
        if self.unsent() < unsent:
            self._look_later(waiter)  # slow, but moving
        else:
            self.stalled = True
            self.abort()

    def _take(self, body: memoryview) -> None:
        """Sends as much of it as may go now, and the rest in its time."""
        if self.disconnected:
            return
        if self.expected_content_length is not None:
            self.expected_content_length -= len(body)
        self.rest = body
        if not self._push():
            self.connection.behind[self] = None

    def _push(self) -> bool:
        """Sends what may go of the rest; whether it has all gone."""
        if room := self.room:
            self.stream.send_data(self.rest[:room])
            self.transport.write(self.conn.data_to_send())
            self.rest = self.rest[room:] or _NOTHING
        return not self.rest

    @property
    def room(self) -> int:
        """How many bytes of a body may go now."""
        window = self.stream.send_window
        if window is None or self.flow.write_paused:
            return 0
        return max(0, min(window, self.conn.send_window))

    def go_on(self) -> bool:
        """There may be room: sends what it can. Whether all has gone that was behind."""
        if not self.disconnected:
            if self.rest and not self._push():
                return False
            if self.flow.write_paused or (self.needs_room and self.room == 0):
                return False
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
        return True

    def lose(self) -> None:
        """The client has taken the request back, or is gone."""
        self.disconnected = True
        self.rest = _NOTHING
        self.message_event.set()
        self.connection.behind.pop(self, None)
        self.go_on()

    # What the stream of events on it may use.

    @property
    def timed_out(self) -> bool:
        return self.stalled or self.connection.timed_out

    def framed(self, body: bytes) -> bytes:
        return chunked(body)  # for others: HTTP/2's frames name their stream

    def write_framed(self, data: bytes, body: bytes) -> bool:  # noqa: ARG002
        if self.disconnected or self.rest or len(body) > self.room or self.transport.is_closing():
            return False
        self.stream.send_data(body)
        self.transport.write(self.conn.data_to_send())
        return True

    def unsent(self) -> int:
        """While the connection has room, only what this stream's windows hold back: others of the
        connection may move."""
        if not self.flow.write_paused:
            return len(self.rest)
        sock = self.transport.get_extra_info("socket")
        return len(self.rest) + self.transport.get_write_buffer_size() + sockets.unsent(sock)

    def abort(self) -> None:
        """Resets this stream; the others of the connection go on."""
        if not self.disconnected and not self.response_complete:
            self.abort_stream()
        self.lose()

    def set_reason(self, reason: bytes) -> None:
        """HTTP/2 has no reason phrase."""
