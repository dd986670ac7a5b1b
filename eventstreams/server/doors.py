"""Where a connection comes in before it is known which HTTP it speaks, and a server's protocol.

TLS is begun here and not by the listening socket, because that one neither counts connections that
have not ended their handshake nor gives them up early: anyone could open them without bound.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import Any, cast

from uvicorn import Config
from uvicorn.server import ServerState

from eventstreams.server.common import HEAD_S, Common
from eventstreams.server.http2 import Http2
from eventstreams.server.protocol import Protocol
from eventstreams.server.refusal import LINGERING_MAX, Refusals
from eventstreams.server.tls import Certificate
from eventstreams.settings import Settings
from eventstreams.web.answers import common_headers

_log = logging.getLogger(__name__)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""How HTTP/2 begins (RFC 9113, 3.4)."""
_GOODBYE_S = 2.0
"""How long the peer may take to answer the end of TLS."""
_WRITE_BYTES_MAX = 64 * 1024
"""As much as a plain connection keeps before its writers must wait."""


class Door(asyncio.Protocol, ABC):
    """A connection that counts as one and has asked for nothing yet."""

    common: Common
    http1: type[Protocol]
    http2: type[Http2] | None
    transport: asyncio.Transport

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._made_with = {
            "config": config,
            "server_state": server_state,
            "app_state": app_state,
            "_loop": _loop,
        }
        self._loop = _loop or asyncio.get_running_loop()
        self._tasks = server_state.tasks
        self._connections = cast("set[Any]", server_state.connections)
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if len(self._connections) >= self.common.connections_max + LINGERING_MAX:
            self.transport.abort()  # so many are let in to be told that there is no room
            return
        self._connections.add(self)
        self._begin()

    @abstractmethod
    def _begin(self) -> None:
        """Finds out what it speaks, and calls `_let_in`, or closes it in time."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._connections.discard(self)
        self.common.gone(last=not self._connections)

    def data_received(self, data: bytes) -> None:
        self._early += data

    def shutdown(self) -> None:
        self.transport.abort()

    def _let_in(self, kind: type[Protocol | Http2]) -> None:
        """Hands the connection over, with what has come already."""
        self._connections.discard(self)
        protocol = kind(**self._made_with)  # type: ignore[arg-type]
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if self._early:  # the connection may have been refused, and have another protocol by now
            cast("asyncio.Protocol", self.transport.get_protocol()).data_received(self._early)


class PlainDoor(Door):
    """Without TLS: HTTP/2 only from those who know that it is spoken here, as proxies do."""

    def _begin(self) -> None:
        self._timer = self._loop.call_later(HEAD_S, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._connections:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if len(self._early) < len(PREFACE) and PREFACE.startswith(self._early):
            return
        self._timer.cancel()
        is_http2 = self.http2 is not None and self._early.startswith(PREFACE)
        self._let_in(self.http2 if is_http2 and self.http2 else self.http1)


class TlsDoor(Door):
    """With TLS, whose handshake says by ALPN (RFC 7301) what is spoken then."""

    certificate: Certificate
    _lost = False

    def _begin(self) -> None:
        task = self._loop.create_task(self._shake_hands())
        task.add_done_callback(self._tasks.discard)
        self._tasks.add(task)

    async def _shake_hands(self) -> None:
        self.transport.pause_reading()
        self._loop.call_soon(self._pass_on)
        try:
            transport = await self._loop.start_tls(
                self.transport,
                self,
                self.certificate.context,
                server_side=True,
                ssl_handshake_timeout=HEAD_S,
                ssl_shutdown_timeout=_GOODBYE_S,
            )
        except OSError as error:  # as ssl.SSLError is
            _log.debug("no TLS: %s", error)
            transport = None
        agreed = None if transport is None else transport.get_extra_info("ssl_object")
        if self._lost or transport is None or agreed is None:
            self.transport.abort()
            self.connection_lost(None)  # during the handshake the loop may not tell
            return
        self.transport = transport
        transport.set_write_buffer_limits(high=_WRITE_BYTES_MAX)
        is_http2 = agreed.selected_alpn_protocol() == "h2"
        self._let_in(self.http2 if is_http2 and self.http2 else self.http1)

    def _pass_on(self) -> None:
        """What came before TLS was asked to begin, to the protocol that does it: before it reads by
        itself, as `start_tls` lets it in the next place."""
        early, self._early = self._early, b""
        handshake: Any = self.transport.get_protocol()
        if early and handshake is not self:
            handshake.get_buffer(len(early))[: len(early)] = early
            handshake.buffer_updated(len(early))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        super().connection_lost(exc)


def protocol_class(settings: Settings, connections_max: int) -> type[Protocol | Door]:
    """The protocol of one server: uvicorn makes one for each connection, without arguments.

    Raises ConfigError where the files of certificate and key are not good ones.
    """
    http = settings.http
    common = Common(
        connections_max=connections_max,
        refusals=Refusals(
            common_headers(http), event_source=http.event_source_refusals == "stream"
        ),
        head_bytes_max=settings.limits.head_bytes_max,
        stall_timeout_s=settings.fanout.stall_timeout_s,
        certificate=None if http.tls_certfile is None else Certificate(http),
    )
    shared = {"common": common}
    http1 = type("Http1", (Protocol,), shared)
    if common.certificate is None and not http.http2:
        return http1
    inside = {
        **shared,
        "http1": http1,
        "http2": type("Http2", (Http2,), shared) if http.http2 else None,
    }
    if common.certificate is None:
        return type("Front", (PlainDoor,), inside)
    return type("Front", (TlsDoor,), {**inside, "certificate": common.certificate})
