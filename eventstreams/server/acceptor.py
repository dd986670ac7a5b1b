"""The protocol of a server's connections, and the TLS handshake that may come before it.

uvicorn's own TLS (`ssl_certfile`) shows a connection to the server only once its handshake is
complete: until then nothing counts it, and asyncio waits a minute for it. Anyone could open such
connections without bound. So the server listens without TLS, and `TlsAcceptor` begins TLS on each
connection that it has counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

from uvicorn import Config
from uvicorn.server import ServerState

from eventstreams.server.common import HEAD_S, Common, close_unasked
from eventstreams.server.protocol import Protocol
from eventstreams.server.refusal import LINGERING_MAX, Refusals
from eventstreams.server.tls import Certificate
from eventstreams.settings import Settings
from eventstreams.turns import Turns
from eventstreams.web.address import site_of
from eventstreams.web.answers import common_headers

_log = logging.getLogger(__name__)

_HANDSHAKE_S = 0.001
"""What a handshake is charged to its client, in s. Most of it is a signature, which the event loop
computes within the TLS library, when the first message of the client has come."""
_CLOSE_S = 2.0
"""How long the client may take to answer the end of TLS."""
_WRITE_BYTES_MAX = 64 * 1024
"""What a TLS connection buffers before its writers must wait; the same as a plain connection."""


class TlsAcceptor(asyncio.Protocol):
    """A connection during its TLS handshake; the handshake may take `HEAD_S`."""

    common: Common
    certificate: Certificate
    http: type[Protocol]
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
        """Bytes that came before TLS began, then those that came with the end of the handshake."""
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self.common.closed or not self._has_room():
            close_unasked(self.transport)
            return
        self._connections.add(self)
        self.common.waiting[self] = None
        task = self._loop.create_task(self._shake_hands())
        task.add_done_callback(self._tasks.discard)
        self._tasks.add(task)

    def data_received(self, data: bytes) -> None:
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._lost = True
        self._forget()
        self.common.gone(last=not self._connections)

    def _has_room(self) -> bool:
        """Up to LINGERING_MAX connections beyond the limit are accepted, to receive a refusal."""
        count, most = len(self._connections), self.common.connections_max
        return count < most or self.common.make_room() or count < most + LINGERING_MAX

    def _forget(self) -> None:
        self._connections.discard(self)
        self.common.waiting.pop(self, None)

    def give_way(self) -> None:
        self.transport.abort()
        self.connection_lost(None)

    def shutdown(self) -> None:
        """Drops the connection: no request has come on it."""
        self.transport.abort()

    async def _shake_hands(self) -> None:
        self.transport.pause_reading()
        peer: tuple[str, int] | None = self.transport.get_extra_info("peername")
        client = site_of(peer[0]) if peer else ""
        async with self.common.turns.turn(client):
            pass
        self.common.turns.charge(client, _HANDSHAKE_S)
        if self.transport.is_closing():
            return
        self._loop.call_soon(self._pass_on)
        try:
            transport = await self._loop.start_tls(
                self.transport,
                self,
                self.certificate.context,
                server_side=True,
                ssl_handshake_timeout=HEAD_S,
                ssl_shutdown_timeout=_CLOSE_S,
            )
        except OSError as error:  # ssl.SSLError is one
            _log.debug("TLS handshake failed: %s", error)
            transport = None
        # uvloop may return a transport without TLS where the connection was lost meanwhile.
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
        """Hand what came before TLS began to the protocol that does the handshake. The callback
        runs after `start_tls` has set that protocol and before the protocol reads by itself."""
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
) -> type[Protocol | TlsAcceptor]:
    """The protocol of one server: uvicorn makes one instance for each connection. `count` is called
    with the name of the error of each refusal."""
    http = settings.http
    common = Common(
        connections_max=connections_max,
        refusals=Refusals(
            common_headers(http),
            event_source=http.event_source_refusals == "stream",
            count=count,
        ),
        head_bytes_max=settings.limits.head_bytes_max,
        stall_timeout_s=settings.fanout.stall_timeout_s,
        turns=turns,
        certificate=certificate,
    )
    plain = type("Http", (Protocol,), {"common": common})
    if certificate is None:
        return plain
    inside = {"common": common, "certificate": certificate, "http": plain}
    return type("Https", (TlsAcceptor,), inside)
