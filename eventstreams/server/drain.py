"""uvicorn's server, told what it can't know: streams never end by themselves.

It ends them before it waits for open responses.
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

from eventstreams import signals
from eventstreams.fanout.hub import Hub
from eventstreams.server.acceptor import TlsAcceptor
from eventstreams.server.common import Common
from eventstreams.server.protocol import Protocol

_log = logging.getLogger(__name__)

_ACCEPTS_A_TURN = 16


class Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        *,
        hub: Hub,
        drain_s: float,
        notice_s: float = 0.0,
        reload: Callable[[], None] = lambda: None,
    ) -> None:
        """`reload` is called on SIGHUP."""
        super().__init__(config)
        if not config.loaded:
            config.load()
        self._reload = reload
        self._hub = hub
        self._drain_s = drain_s
        self._notice_s = notice_s
        self._hurry = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """The first signal drains, the second ends at once. The process exits with 0 then."""
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
            self._hurry.set()
        self.should_exit = True

    def _on_hangup(self) -> None:
        self._reload()
        if self._common.certificate is not None:
            self._common.certificate.renew()

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
            _log.info("listening", extra={"url": self._url(sock)})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Become not ready, then accept no more connections, then end every stream in its time.

        A connection ends with its next answer from the moment that the process is not ready, and an
        idle one at once: a client that kept its connection would send its next request to a process
        that refuses it, and an EventSource takes a refusal for the end.
        """
        self._hub.leaving = self._common.leaving = True
        self._end_connections()
        if self._notice_s:
            _log.info("not ready any more", extra={"drains_in_s": self._notice_s})
            await self._first(asyncio.sleep(self._notice_s))
        self._hub.stop_admitting()
        self._common.closed = True
        _log.info("draining", extra={"streams": len(self._hub.subscriptions)})
        for server in self.servers:
            server.close()
        self._end_connections()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await self._first(self._hub.drain(self._drain_s * 0.8))
                await self._first(self._until_idle())
        self.drop_connections()
        await super().shutdown(sockets)

    def drop_connections(self) -> None:
        """All there are, at once."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        self._common.refusals.drop_all()

    @property
    def _common(self) -> Common:
        return cast("type[Protocol | TlsAcceptor]", self.config.http_protocol_class).common

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

    def _end_connections(self) -> None:
        """Each ends with the answer that is under way, or at once if there is none."""
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
