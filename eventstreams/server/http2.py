"""One connection of HTTP/2 as uvicorn and zttp run it, with what they lack.

zttp ends a connection with all its streams at the 4096th request, and at the 256th that the client
takes back (CVE-2023-44487). Those are ordinary numbers for a page that opens and closes streams and
for a proxy that carries many clients on one connection. So before that the connection is retired:
its client is told to open another, and what is under way here ends in its own time.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Generator
from typing import Any, cast
from urllib.parse import unquote

import zttp
from uvicorn.protocols.http.zttp_h2_impl import ZttpH2Protocol

from eventstreams.server.common import HEAD_S, Common
from eventstreams.server.http2_stream import Http2Stream

REQUESTS_MAX = 3500
"""Of a connection; beyond it, as many again as may run at a time have room below zttp's limit."""
RESETS_MAX = 100
"""Requests that a client may take back on one connection; as above."""
_UNREAD_BYTES_MAX = 64 * 1024
"""Answers to PING and SETTINGS kept for a client that does not read them."""


class Http2(ZttpH2Protocol):
    common: Common
    timed_out = False
    """Whether the kernel gave the connection up, because its peer took or answered nothing."""
    requests = 0
    resets = 0
    unread_bytes = 0
    told_to_go = False
    behind: dict[Http2Stream, None]
    """Those with something to send that wait for room, in the order of their turns."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.behind: dict[Http2Stream, None] = {}
        if len(self.connections) >= self.common.connections_max:
            self._refuse(cast("asyncio.Transport", transport))
            return
        super().connection_made(cast("asyncio.Transport", transport))
        self.common.find_dead_peer(transport)
        self._await_request(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self.timed_out = isinstance(exc, OSError) and exc.errno == errno.ETIMEDOUT
        super().connection_lost(exc)
        self._lose_all()
        self.common.gone(last=not self.connections)

    def data_received(self, data: bytes) -> None:
        try:
            self.conn.receive_data(data)
            self.handle_events()
        except zttp.RemoteProtocolError as error:
            self.logger.warning("Invalid HTTP/2 frame received: %s", error)
            self._lose_all()
            self.flush()
            self._close()
            return
        self.flush()
        self.wake()

    def events(self) -> Generator[zttp.Event]:
        """Those that uvicorn's part knows what to do with."""
        for event in super().events():
            if isinstance(event, zttp.Data):
                cycle = self.cycles.get(event.stream_id)
                if cycle is not None and cycle.scope["method"] in ("GET", "HEAD"):
                    continue  # nobody reads it, and what is unread would stop the connection
            elif isinstance(event, zttp.RstStream):
                self.resets += event.error_code != zttp.H2ErrorCode.REFUSED_STREAM
                if self.resets >= RESETS_MAX:
                    self.shutdown()
            yield event

    def flush(self) -> None:
        data = self.conn.data_to_send()
        if not data or self.transport.is_closing():
            return
        self.transport.write(data)
        if self.flow.write_paused:
            self.unread_bytes += len(data)
            if self.unread_bytes > _UNREAD_BYTES_MAX:
                self.transport.abort()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unread_bytes = 0
        self.wake()

    # Requests.

    def handle_request(self, event: zttp.Request) -> None:
        stream = self.conn.stream(event.stream_id)
        if self.told_to_go:
            stream.reset(zttp.H2ErrorCode.REFUSED_STREAM)
            return
        if not event.path.isascii():
            stream.reset(zttp.H2ErrorCode.PROTOCOL_ERROR)
            return
        self._unset_keepalive_if_required()
        scope = self._scope(event)
        cycle = Http2Stream(self, stream, scope)
        scope["extensions"] = {"eventstreams.connection": cycle}
        if event.end_stream:
            cycle.more_body = False
            cycle.message_event.set()
        self.cycles[event.stream_id] = cycle
        head_bytes = len(event.target) + sum(len(k) + len(v) for k, v in scope["headers"])
        too_large = head_bytes > self.common.head_bytes_max
        if too_large:
            self.common.refusals.count("HeadTooLarge")
        app = _too_large if too_large else cast("Any", self.app)  # pyright: ignore[reportUnknownMemberType]
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self.requests += 1
        if self.requests >= REQUESTS_MAX:
            self.shutdown()

    def _scope(self, event: zttp.Request) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "2",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": event.method.decode("ascii"),
            "root_path": self.root_path,
            "path": self.root_path + unquote(event.path.decode("ascii")),
            "raw_path": self.root_path.encode("ascii") + event.path,
            "query_string": event.query,
            "headers": _headers(event),
            "state": self.app_state.copy(),
        }

    def handle_rst_stream(self, event: zttp.RstStream) -> None:
        cycle = self.cycles.get(event.stream_id)
        super().handle_rst_stream(event)
        if cycle is not None:
            cast("Http2Stream", cycle).lose()

    def wake(self) -> None:
        """Those that have something to send go on; who had a turn goes behind the others."""
        for stream in list(self.behind):
            if (stream.rest or stream.needs_room) and self.conn.send_window <= 0:
                continue
            self.behind.pop(stream, None)
            if not stream.go_on():
                self.behind[stream] = None

    # Its end.

    def on_stream_closed(self) -> None:
        if self.transport.is_closing():
            return
        self.resume_reading_if_idle()
        self.wake()
        if self.cycles:
            return
        if self.shutdown_requested:
            self._close_connection()
        else:
            self._await_request(self.timeout_keep_alive)

    def shutdown(self) -> None:
        """Takes no more requests, and closes when those under way have ended."""
        self.shutdown_requested = True
        self._tell_to_go()
        if not self.cycles:
            self._close_connection()

    def _tell_to_go(self) -> None:
        """Once: the last request that is answered here must not change afterwards."""
        if not self.told_to_go and not self.transport.is_closing():
            self.told_to_go = True
            self.conn.close()
            self.flush()

    def _close_connection(self) -> None:
        self._tell_to_go()
        self._close()

    def _close(self) -> None:
        """A client that does not read will not read what is left, either."""
        if self.flow.write_paused:
            self.transport.abort()
        else:
            self.transport.close()

    def _await_request(self, seconds: float) -> None:
        """Frames that ask for nothing do not keep a connection open."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self._close_connection)

    def _lose_all(self) -> None:
        for cycle in self.cycles.values():
            if not cycle.response_complete:
                cast("Http2Stream", cycle).lose()

    def _refuse(self, transport: asyncio.Transport) -> None:
        """No request has been looked at, so each may be sent again elsewhere."""
        self.conn.initiate_connection()
        self.conn.close(zttp.H2ErrorCode.ENHANCE_YOUR_CALM, 0)
        self.common.refusals.refuse_by(transport, self.conn.data_to_send())


def _headers(event: zttp.Request) -> list[tuple[bytes, bytes]]:
    """Cookies, which HTTP/2 may send one by one, as the one header that applications expect (RFC
    9113, 8.2.3)."""
    headers = list(event.headers)
    cookies = [value for name, value in headers if name == b"cookie"]
    if len(cookies) > 1:
        headers = [pair for pair in headers if pair[0] != b"cookie"]
        headers.append((b"cookie", b"; ".join(cookies)))
    return headers


async def _too_large(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
    await send({"type": "http.response.start", "status": 431, "headers": []})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
