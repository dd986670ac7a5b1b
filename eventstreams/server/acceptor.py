"""Creates the protocol of a server's connections, and performs the TLS handshake before it.

With uvicorn's own TLS (`ssl_certfile`), the server sees a connection only once its handshake is
complete. Until then nothing counts it, and asyncio waits a minute for it, so anyone could open any
number of such connections. Therefore the server listens without TLS, and `TlsAcceptor` begins TLS
on each connection that it has counted.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, cast

from uvicorn import Config
from uvicorn.server import ServerState

from eventstreams.config.settings import Settings
from eventstreams.deadlines import Deadline
from eventstreams.server.connections import HEAD_S, Connections, close_at_once
from eventstreams.server.http1 import HttpConnection
from eventstreams.server.records import RECEIVE_BUFFER_BYTES, TlsProtocol
from eventstreams.server.rejection import LINGER_S, LINGERING_MAX, REFUSED_HEAD_S, Rejection
from eventstreams.server.tls import Certificate
from eventstreams.turns import PIECE_S, Turns
from eventstreams.web.address import Proxies, site_of
from eventstreams.web.answers import common_headers

_log = logging.getLogger(__name__)

_HANDSHAKE_S = 0.001
"""The seconds that a client is charged for a handshake. Most of it is a signature, which the TLS
library computes on the event loop when the client's first message has arrived."""
_NEVER_S = 86_400.0
"""A timeout that the event loop accepts for a handshake. `Deadline` ends it long before."""
_CLOSE_S = 2.0
"""How long the client may take to confirm the end of TLS."""
_WRITE_BYTES_MAX = 64 * 1024
"""How much a TLS connection buffers before writers must wait; as much as a plain one."""


class TlsAcceptor(asyncio.Protocol):
    """A connection during its TLS handshake, which may take up to `Connections.head_s`."""

    common: Connections
    certificate: Certificate
    http: type[HttpConnection]
    transport: asyncio.Transport

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._loop = _loop or asyncio.get_running_loop()
        self._http = self.http(config, server_state, app_state, self._loop)
        self._tasks = server_state.tasks
        self._connections = cast("set[Any]", server_state.connections)
        self._early = b""
        """Bytes received before TLS began, then those received with the end of the handshake."""
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        if self.common.closed or not self._has_room():
            close_at_once(self.transport)
            return
        self._connections.add(self)
        self.common.waiting[self] = None
        task = self._loop.create_task(self._handshake())
        task.add_done_callback(self._tasks.discard)
        self._tasks.add(task)

    def data_received(self, data: bytes) -> None:
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._lost = True
        self._forget()
        self.common.gone(last=not self._connections)

    def _has_room(self) -> bool:
        """Return whether to accept the connection, perhaps only to refuse it with a response."""
        count, most = len(self._connections), self.common.connections_max
        refused_max = self.common.refusals.lingering_max
        room = count < most or self.common.make_room(self._client())
        return room or count < most + refused_max

    def _client(self) -> str:
        """Return the client's address or network; empty if it has disconnected."""
        peer: tuple[str, int] | None = self.transport.get_extra_info("peername")
        return site_of(peer[0]) if peer else ""

    def _forget(self) -> None:
        self._connections.discard(self)
        self.common.waiting.pop(self, None)

    def make_way(self) -> None:
        """Close the connection at once to make room for another."""
        self.transport.abort()
        self.connection_lost(None)

    def shutdown(self) -> None:
        """Close the connection at once, because it has no request yet."""
        self.transport.abort()

    async def _handshake(self) -> None:
        self.transport.pause_reading()
        client = self._client()
        async with self.common.turns.turn(client):
            pass
        self.common.turns.charge(client, _HANDSHAKE_S)
        if self.transport.is_closing():
            return
        self._loop.call_soon(self._pass_on)
        deadline = Deadline(self._loop.time() + self.common.head_s, self.transport.abort)
        try:
            transport = await self._loop.start_tls(
                self.transport,
                self,
                self.certificate.context,
                server_side=True,
                ssl_handshake_timeout=_NEVER_S,
                ssl_shutdown_timeout=_CLOSE_S,
            )
        except OSError as error:  # ssl.SSLError is one
            _log.debug("TLS handshake failed: %s", error)
            transport = None
        finally:
            deadline.cancel()
        # uvloop may return a transport without TLS if the connection was lost meanwhile.
        if self._lost or transport is None or transport.get_extra_info("ssl_object") is None:
            self.transport.abort()
            self.connection_lost(None)  # during the handshake the loop may not call it
            return
        transport.set_write_buffer_limits(high=_WRITE_BYTES_MAX)
        self._forget()
        transport.set_protocol(self._http)
        self._http.connection_made(transport)
        if self._early:  # the connection may have been refused, and have another protocol now
            cast("asyncio.Protocol", transport.get_protocol()).data_received(self._early)

    def _pass_on(self) -> None:
        """Pass the bytes received before TLS began to the protocol of the handshake.

        This callback runs after `start_tls` has set that protocol and before the protocol reads.
        """
        early, self._early = self._early, b""
        handshake: Any = self.transport.get_protocol()
        if early and handshake is not self:
            handshake.get_buffer(len(early))[: len(early)] = early
            handshake.buffer_updated(len(early))


def protocol_class(
    settings: Settings,
    *,
    connections_max: int,
    certificate: Certificate | None,
    turns: Turns,
    count: Callable[[str], object],
    head_s: float = HEAD_S,
    refused_head_s: float = REFUSED_HEAD_S,
    linger_s: float = LINGER_S,
    lingering_max: int = LINGERING_MAX,
    piece_s: float = PIECE_S,
) -> type[HttpConnection | TlsAcceptor]:
    """Return the protocol class of one server, which uvicorn instantiates for each connection.

    `count` is called with the name of the error of each refusal. For the times and
    `lingering_max` see Connections and Rejection.
    """
    http = settings.http
    common = Connections(
        connections_max=connections_max,
        refusals=Rejection(
            common_headers(http),
            event_source=http.event_source_refusals == "stream",
            count=count,
            head_s=refused_head_s,
            linger_s=linger_s,
            lingering_max=lingering_max,
        ),
        head_bytes_max=settings.limits.head_bytes_max,
        stall_timeout_s=settings.fanout.stall_timeout_s,
        turns=turns,
        proxies=Proxies(http.trusted_proxies),
        head_s=head_s,
        piece_s=piece_s,
        certificate=certificate,
    )
    if certificate is None:
        return type("Http", (HttpConnection,), {"common": common})
    http_in_tls = type("HttpInTls", (TlsProtocol,), {"common": common})
    parts = {"common": common, "certificate": certificate, "http": http_in_tls}
    return type("Https", (TlsAcceptor,), parts)
