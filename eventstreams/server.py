"""uvicorn, told what it can't know: streams never end by themselves.

It ends them before it waits for open responses, refuses connections beyond a limit, finds dead
peers, and lends the streams the connection underneath (scope["extensions"]).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import random
import resource
import signal
import socket
import sys
import termios
from collections.abc import Generator
from typing import Any, cast

import msgspec
import uvicorn
import uvloop
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from eventstreams import gateway
from eventstreams.errors import ConfigError, LogError
from eventstreams.fanout.hub import Hub
from eventstreams.model.stream import Catalogue
from eventstreams.settings import FanoutSettings, LimitSettings, Settings
from eventstreams.web.app import App
from eventstreams.workers import Workers, listener

_log = logging.getLogger(__name__)

_KEEPALIVE_IDLE_S, _KEEPALIVE_EVERY_S, _KEEPALIVE_PROBES = 60, 15, 4
_SPARE_FILES = 100
"""Open files left for the log, listeners and the like."""
_ACCEPTS_A_TURN = 16
SWITCH_S = 0.001
_HEAD_S = 10.0
"""How long the head of a request may take to come."""
_HEAD_BYTES_MAX = 256 * 1024
"""Beyond what came in one piece; ids of many partitions are long."""
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class Protocol(HttpToolsProtocol):
    """One connection, and what it lends to the stream on it."""

    connections_max = sys.maxsize
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
        super().connection_made(cast("asyncio.Transport", transport))
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            find_dead_peers(sock, self.user_timeout_ms)
        self.loop.call_later(_HEAD_S, self._give_up_waiting)
        if len(self.connections) > self.connections_max:
            self.transport.write(_full(random.randint(2, 20)))  # noqa: S311
            self.transport.close()

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
            if self.head_bytes > _HEAD_BYTES_MAX:
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
        return self.transport.get_write_buffer_size() + _kernel_unsent(
            self.transport.get_extra_info("socket")
        )

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


class Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, *, hub: Hub, drain_s: float) -> None:
        super().__init__(config)
        self._hub = hub
        self._drain_s = drain_s
        self._hurry = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """The first signal drains, the second ends at once. The process exits with 0 then."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self._on_signal)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self.should_exit:
            self.force_exit = True
            self._hurry.set()
        self.should_exit = True

    def end_with(self, parent: int) -> None:
        """Drains when this file ends, because the process that held its other side is gone."""
        loop = asyncio.get_running_loop()

        def parent_gone() -> None:
            loop.remove_reader(parent)
            self.should_exit = True

        loop.add_reader(parent, parent_gone)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """The event loop accepts one connection a turn from each listening socket, and while it
        writes to thousands its turns are long: so it gets each socket several times over."""
        listening = sockets or []
        again = [sock.dup() for sock in listening for _ in range(_ACCEPTS_A_TURN - 1)]
        await super().startup(None if sockets is None else [*listening, *again])
        for sock in listening or [sock for server in self.servers for sock in server.sockets]:
            _log.info("listening", extra={"url": _url(sock)})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Not ready first, then no new connections, then every stream ended in its time."""
        self._hub.stop_admitting()
        _log.info("draining", extra={"streams": len(self._hub.subscriptions)})
        for server in self.servers:
            server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await self._first(self._hub.drain(self._drain_s * 0.8))
                await self._first(self._until_idle())
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)

    async def _first(self, work: Any) -> None:
        """Does the work, unless there is a hurry."""
        working, hurry = asyncio.ensure_future(work), asyncio.ensure_future(self._hurry.wait())
        try:
            await asyncio.wait({working, hurry}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            working.cancel()
            hurry.cancel()

    async def _until_idle(self) -> None:
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if self.server_state.connections:
            protocol = cast("type[Protocol]", self.config.http_protocol_class)
            protocol.idle = asyncio.Event()
            await protocol.idle.wait()


def find_dead_peers(sock: socket.socket, user_timeout_ms: int) -> None:
    """Lets the kernel end half-open connections: idle ones by probes, writing ones by a timeout."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": _KEEPALIVE_IDLE_S,
        "TCP_KEEPINTVL": _KEEPALIVE_EVERY_S,
        "TCP_KEEPCNT": _KEEPALIVE_PROBES,
        "TCP_USER_TIMEOUT": user_timeout_ms,
    }
    for name, value in options.items():
        if value and hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def raise_file_limit(limits: LimitSettings) -> int:
    """Raises the open-file limit to the hard one; returns how many connections that allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return limits.connections_max
    allowed = max(1, hard - _SPARE_FILES)
    if allowed < limits.connections_max:
        _log.warning(
            "limits.connections_max lowered to what the open-file limit allows",
            extra={"connections_max": allowed, "open_files": hard},
        )
    return min(allowed, limits.connections_max)


def protocol_class(connections_max: int, fanout: FanoutSettings) -> type[Protocol]:
    timeout_ms = int(fanout.stall_timeout_s * 1000)
    return type(
        "Protocol",
        (Protocol,),
        {"connections_max": connections_max, "user_timeout_ms": timeout_ms},
    )


def serve(settings: Settings, catalogue: Catalogue, workers: int = 1) -> int:
    """Runs a gateway until it is told to stop; returns the exit status of the process.

    Raises ConfigError where the log can't be shared by so many workers.
    """
    if workers > 1 and settings.log.backend != "kafka":
        raise ConfigError(
            [
                f"--workers {workers}: the {settings.log.backend} log is embedded in one process; "
                "more than one worker needs log.backend: kafka"
            ]
        )
    protocol = protocol_class(raise_file_limit(settings.limits), settings.fanout)
    http = settings.http
    try:
        if workers == 1:
            with listener(http.host, http.port, http.backlog) as sock:
                return _run(settings, catalogue, protocol, sock, None)

        def work(number: int, sock: socket.socket, parent: int) -> int:
            return _run(_of_worker(settings, number), catalogue, protocol, sock, parent)

        return Workers(
            count=workers, host=http.host, port=http.port, backlog=http.backlog, work=work
        ).run()
    except OSError as error:
        _cannot_listen(http.host, http.port, error)
        return 1


def _cannot_listen(host: str, port: int, error: OSError) -> None:
    _log.error("can't listen on %s:%d: %s", host, port, error.strerror or error)


def _of_worker(settings: Settings, number: int) -> Settings:
    """Each worker answers scrapes on a port of its own."""
    metrics = settings.metrics
    if metrics.port:
        metrics = msgspec.structs.replace(metrics, port=metrics.port + number)
    return msgspec.structs.replace(settings, metrics=metrics)


def _run(
    settings: Settings,
    catalogue: Catalogue,
    protocol: type[Protocol],
    sock: socket.socket,
    parent: int | None,
) -> int:
    # Threads that read the embedded log wait this long for a loop that is busy rendering.
    sys.setswitchinterval(SWITCH_S)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(settings, catalogue, protocol, sock, parent))
    except LogError as error:
        _log.error("can't open the log: %s", error)
        return 1


async def _serve(
    settings: Settings,
    catalogue: Catalogue,
    protocol: type[Protocol],
    sock: socket.socket,
    parent: int | None,
) -> int:
    async with gateway.running(settings, catalogue) as running:
        host, port = settings.metrics.host, settings.metrics.port
        if port is not None:
            try:
                running.metrics.serve(host, port)
            except OSError as error:
                _cannot_listen(host, port, error)
                return 1
        config = uvicorn_config(settings, running.app, protocol)
        server = Server(config, hub=running.hub, drain_s=settings.fanout.drain_s)
        if parent is not None:
            server.end_with(parent)
        await server.serve([sock])
        return 0 if server.started else 1


def uvicorn_config(settings: Settings, app: App, protocol: type[Protocol]) -> uvicorn.Config:
    """How uvicorn is told to serve the app."""
    return uvicorn.Config(
        app,
        host=settings.http.host,
        port=settings.http.port,
        backlog=settings.http.backlog,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )


def _kernel_unsent(sock: socket.socket | None) -> int:
    if sock is None:
        return 0
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder)


def _full(retry_after_s: int) -> bytes:
    body = b'{"status":503,"type":"unavailable","title":"Service Unavailable"}\n'
    return (
        b"HTTP/1.1 503 Service Unavailable\r\n"
        b"content-type: application/json; charset=utf-8\r\n"
        b"access-control-allow-origin: *\r\n"
        b"retry-after: %d\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
        % (retry_after_s, len(body), body)
    )


def _url(sock: Any) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
