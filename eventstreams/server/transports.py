"""Wraps transports to change the bytes that an HTTP/1.1 connection writes."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl


class Lingerer(Protocol):
    """The part of a connection that `Ending` uses."""

    transport: asyncio.Transport

    def linger(self) -> None: ...


class Flow(FlowControl):
    """Flow control that also keeps reading paused while received bytes wait to be parsed."""

    held = wanted = False

    def hold(self) -> None:
        self.held, self.wanted = True, not self.read_paused
        super().pause_reading()

    def release(self) -> None:
        self.held = False
        if self.wanted:
            self.resume_reading()

    def pause_reading(self) -> None:
        if self.held:
            self.wanted = False
        super().pause_reading()

    def resume_reading(self) -> None:
        if self.held:
            self.wanted = True
        else:
            super().resume_reading()


class Ending:
    """A transport that stays open after a response while its peer still sends.

    Closing it at once could lose the response before the peer has read it.
    """

    def __init__(self, connection: Lingerer) -> None:
        self._connection = connection

    def close(self) -> None:
        self._connection.linger()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection.transport, name)


class Reason:
    """A transport that replaces the reason phrase in the first bytes of a response."""

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


class LastAnswer:
    """A transport for the last response on a connection, and for HTTP/1.0, which has no chunks.

    The connection is not kept alive, so the response must not announce keep-alive (RFC 9112, 9.6),
    and the end of the connection may end the body. Each write holds a whole head or whole chunks.
    """

    def __init__(self, transport: Any, *, takes_chunks: bool) -> None:
        self._transport = transport
        self._takes_chunks = takes_chunks
        self._is_head = True
        self._unchunks = False

    def write(self, data: bytes) -> None:
        if self._is_head:
            if data.startswith(b"HTTP/1.1 100 "):
                if self._takes_chunks:
                    self._transport.write(data)
                return
            self._is_head = False
            data = self._head(data)
        elif self._unchunks:
            data = _unchunked(data)
        if data:
            self._transport.write(data)

    def _head(self, data: bytes) -> bytes:
        lines = data.split(b"\r\n")
        kept = [line for line in lines if line != b"connection: keep-alive"]
        if not self._takes_chunks and b"transfer-encoding: chunked" in kept:
            self._unchunks = True
            kept.remove(b"transfer-encoding: chunked")
        return b"\r\n".join(kept)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _unchunked(data: bytes) -> bytes:
    """Return the body of complete chunks in HTTP/1.1's chunked encoding."""
    body, at = b"", 0
    while at < len(data):
        end = data.index(b"\r\n", at)
        size, begin = int(data[at:end], 16), end + 2
        body += data[begin : begin + size]
        at = begin + size + 2
    return body
