"""Extends uvicorn's server: ends all streams before uvicorn waits for open responses.

uvicorn alone would wait forever, because streams do not end by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Generator
from typing import Any, cast

import uvicorn

from eventstreams.fanout.hub import Hub
from eventstreams.server import signals
from eventstreams.server.acceptor import TlsAcceptor
from eventstreams.server.connections import Connections
from eventstreams.server.http1 import HttpConnection

_log = logging.getLogger(__name__)

_ACCEPTS_A_TURN = 16
_TICK_S = 1.0
"""How often the `Date` header is updated and `should_exit` is checked, in seconds."""


class Server(uvicorn.Server):
    """A server that drains its streams for up to `drain_s` seconds when it is stopped."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        hub: Hub,
        drain_s: float,
        notice_s: float = 0.0,
        reload: Callable[[], None] = lambda: None,
    ) -> None:
        """Create a server for `config`, whose protocol is from `protocol_class`.

        `notice_s` is how long the server is not ready, but still accepts, before it drains.
        `reload` is called on SIGHUP.
        """
        super().__init__(config)
        if not config.loaded:
            config.load()
        self._reload = reload
        self._hub = hub
        self._drain_s = drain_s
        self._ending_s = drain_s * 0.8
        """The time over which streams end. The rest of `drain_s` is for slow clients."""
        self._notice_s = notice_s
        self._first_signal = asyncio.Event()
        self._second_signal = asyncio.Event()

    async def main_loop(self) -> None:
        """Update the `Date` header until the server is stopped.

        uvicorn's own loop wakes up ten times as often, which takes 0.2 % of a core.
        """
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._first_signal.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Drain on the first SIGINT or SIGTERM, end at once on the second.

        The process exits with 0 in both cases.
        """
        loop = asyncio.get_running_loop()
        stopping = (signal.SIGINT, signal.SIGTERM)
        for number in stopping:
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        if signals.take_hangup():
            self._on_hangup()
        try:
            yield
        finally:
            for number in (*stopping, signal.SIGHUP):
                loop.remove_signal_handler(number)
            signals.catch_early()

    def _on_signal(self) -> None:
        if self.should_exit:
            self.force_exit = True
            self._second_signal.set()
        self._stop()

    def _stop(self) -> None:
        self.should_exit = True
        self._first_signal.set()

    def _on_hangup(self) -> None:
        self._reload()
        if self._common.certificate is not None:
            self._common.certificate.renew()

    def end_with(self, parent: int) -> None:
        """Drain when the pipe `parent` is closed, because then the parent process has ended."""
        loop = asyncio.get_running_loop()

        def parent_gone() -> None:
            loop.remove_reader(parent)
            self._stop()

        loop.add_reader(parent, parent_gone)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, with several duplicates of each socket.

        The event loop accepts one connection per pass from each listening socket, and its passes
        are long while it writes to thousands of clients.
        """
        listening = sockets or []
        again = [sock.dup() for sock in listening for _ in range(_ACCEPTS_A_TURN - 1)]
        await super().startup(None if sockets is None else [*listening, *again])
        for sock in listening or [sock for server in self.servers for sock in server.sockets]:
            _log.info("listening", extra={"url": self._url(sock)})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Become not ready, then stop accepting connections, then end all streams over time.

        Once the process is not ready, connections end after their next response, idle ones at once.
        A client that kept its connection would otherwise send its next request to a process that
        refuses it, and an EventSource does not reconnect after a refusal.
        """
        self._hub.leaving = self._common.leaving = True
        self._end_connections()
        if self._notice_s:
            _log.info("no longer ready", extra={"drains_in_s": self._notice_s})
            await self._first(asyncio.sleep(self._notice_s))
        self._hub.stop_admitting()
        self._common.closed = True
        _log.info("draining", extra={"streams": len(self._hub.subscriptions)})
        for server in self.servers:
            server.close()
        self._end_connections()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await self._first(self._hub.drain(self._ending_s))
                await self._first(self._until_idle())
        self.drop_connections()
        await super().shutdown(sockets)

    def drop_connections(self) -> None:
        """Close all connections at once."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        self._common.refusals.drop_all()

    @property
    def _common(self) -> Connections:
        protocol = cast("type[HttpConnection | TlsAcceptor]", self.config.http_protocol_class)
        return protocol.common

    async def _first(self, work: Any) -> None:
        """Wait for `work`, unless a second signal arrives first."""
        working = asyncio.ensure_future(work)
        second_signal = asyncio.ensure_future(self._second_signal.wait())
        try:
            await asyncio.wait({working, second_signal}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            working.cancel()
            second_signal.cancel()

    def _end_connections(self) -> None:
        """End each connection after its current response, or at once if there is none."""
        for connection in list(self.server_state.connections):
            connection.shutdown()

    async def _until_idle(self) -> None:
        if self.server_state.connections:
            idle = self._common.idle = asyncio.Event()
            await idle.wait()

    def _url(self, sock: Any) -> str:
        scheme = "http" if self._common.certificate is None else "https"
        host, port = sock.getsockname()[:2]
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
