"""What stands between a connection of HTTP/1.1 and its transport."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl


class Lingerer(Protocol):
    """A connection, as `Ending` needs it."""

    transport: asyncio.Transport

    def linger(self) -> None: ...


class Flow(FlowControl):
    """Flow control that also keeps reading paused while received bytes wait to be parsed."""

    held = wanted = False

    def hold(self) -> None:
        self.held, self.wanted = True, not self.read_paused
        self.pause_reading()

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
    """A transport that is not closed behind an answer while its peer still sends, for that would
    take the answer from it."""

    def __init__(self, connection: Lingerer) -> None:
        self._connection = connection

    def close(self) -> None:
        self._connection.linger()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection.transport, name)


class Reason:
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
