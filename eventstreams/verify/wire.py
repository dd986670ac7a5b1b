"""An HTTP/1.1 client that exposes unmodified heads and the ends of chunks (RFC 9112).

Ordinary HTTP clients join chunks, hide a body after HEAD and may accept a truncated response. The
checks examine exactly these things. Every request has its own connection.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from eventstreams.errors import EventStreamsError

_HEAD_BYTES_MAX = 256 * 1024
_READ_BYTES = 64 * 1024


class CannotConnect(EventStreamsError):
    """A connection to the gateway cannot be opened."""


class BadHttp(EventStreamsError):
    """The response is not HTTP/1.1, or ended before its head was complete."""


class IncompleteResponse(EventStreamsError):
    """The connection ended before the response did."""


class TooManyRequests(EventStreamsError):
    """The run has reached its limit of requests."""


class Head(NamedTuple):
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    """Headers in the order in which they were sent, with names in lower case."""

    def get(self, name: str) -> str | None:
        """Return the lines of a header joined by commas, or None if there is none."""
        found = [value for key, value in self.headers if key == name]
        return ", ".join(found) if found else None

    def items(self, name: str) -> list[str]:
        """Return the members of a header that is a list, in lower case."""
        return [item.strip().lower() for item in (self.get(name) or "").split(",") if item.strip()]


class Exchange:
    """One response whose head has been read."""

    def __init__(self, reader: asyncio.StreamReader, head: Head, *, has_body: bool) -> None:
        self.head = head
        self.chunked = "chunked" in head.items("transfer-encoding")
        self._reader = reader
        self._chunk_left: int | None = None
        length = head.get("content-length") or ""
        self._left: int | None = int(length) if length.isdecimal() else None
        self._is_over = not has_body

    async def read(self) -> bytes | None:
        """Return the next chunk, or received bytes if the body is not chunked; None at the end.

        It may be cancelled and called again. Raises IncompleteResponse if the connection
        ends within the response.
        """
        if self._is_over:
            return None
        try:
            piece = await (self._read_chunk() if self.chunked else self._read_plain())
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError) as error:
            raise IncompleteResponse("the connection ended within the response") from error
        self._is_over = piece is None
        return piece

    async def _read_chunk(self) -> bytes | None:
        if self._chunk_left is None:
            line = await self._reader.readuntil(b"\r\n")
            try:
                self._chunk_left = int(line.split(b";")[0].strip(), 16)
            except ValueError as error:
                raise IncompleteResponse(
                    f"{line[:40]!r} is not the size of an HTTP chunk"
                ) from error
        piece = await self._reader.readexactly(self._chunk_left + 2)
        self._chunk_left = None
        return piece[:-2] or None

    async def _read_plain(self) -> bytes | None:
        if self._left == 0:
            return None
        piece = await self._reader.read(_READ_BYTES if self._left is None else self._left)
        if self._left is not None:
            if not piece:
                raise IncompleteResponse("the connection ended within the response")
            self._left -= len(piece)
        return piece or None

    async def body(self) -> bytes:
        """Return the rest of the body. Raises IncompleteResponse."""
        pieces: list[bytes] = []
        while (piece := await self.read()) is not None:
            pieces.append(piece)
        return b"".join(pieces)

    async def leftover(self) -> bytes:
        """Return the bytes between the response and the end of the connection."""
        try:
            return await self._reader.read(_READ_BYTES)
        except (ConnectionError, ssl.SSLError):
            return b""


class Client:
    """Opens connections to one origin, each after a pause, and only a limited number."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        headers: Mapping[str, str],
        requests_max: int,
        pause_s: float,
    ) -> None:
        """Set the origin. `headers` are sent with every request."""
        self._host, self._port, self._tls = host, port, tls
        standard = 443 if tls else 80
        name = f"[{host}]" if ":" in host else host
        self._authority = name if port == standard else f"{name}:{port}"
        self._headers = dict(headers)
        self._requests_max = requests_max
        self._pause_s = pause_s
        self.requests = 0
        """The number of requests sent."""

    @asynccontextmanager
    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        keep: bool = False,
    ) -> AsyncGenerator[Exchange]:
        """Send one request and yield its response. `keep` omits `Connection: close`.

        Raises CannotConnect, BadHttp and TooManyRequests.
        """
        if self.requests >= self._requests_max:
            raise TooManyRequests(f"the limit of {self._requests_max} requests is reached")
        if self.requests:
            await asyncio.sleep(self._pause_s)
        self.requests += 1
        try:
            reader, writer = await asyncio.open_connection(
                self._host, self._port, ssl=self._tls, limit=_HEAD_BYTES_MAX
            )
        except OSError as error:
            raise CannotConnect(f"no connection to {self._authority}: {_why(error)}") from error
        try:
            writer.write(self._head(method, target, headers or {}, body, keep=keep) + (body or b""))
            head = await _read_head(reader)
            has_body = method != "HEAD" and head.status not in (204, 304)
            yield Exchange(reader, head, has_body=has_body)
        finally:
            writer.transport.abort()

    def _head(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        keep: bool,
    ) -> bytes:
        fields = {"Host": self._authority, **self._headers}
        if not keep:
            fields["Connection"] = "close"
        if body is not None:
            fields["Content-Length"] = str(len(body))
        fields.update(headers)
        lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


async def _read_head(reader: asyncio.StreamReader) -> Head:
    while True:
        try:
            text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError) as error:
            raise BadHttp("the connection ended before the head of a response") from error
        except asyncio.LimitOverrunError as error:
            raise BadHttp(f"the head has more than {_HEAD_BYTES_MAX:,} bytes") from error
        first, *lines = text.removesuffix("\r\n\r\n").split("\r\n")
        version, _, rest = first.partition(" ")
        status, _, reason = rest.partition(" ")
        if not version.startswith("HTTP/1.") or not status.isdecimal():
            raise BadHttp(f"{first[:80]!r} is not the first line of an HTTP/1.1 response")
        if status.startswith("1"):
            continue  # an interim response, before the final one
        fields = (line.partition(":") for line in lines)
        headers = tuple((name.strip().lower(), value.strip()) for name, _, value in fields)
        return Head(int(status), reason, headers)


def _why(error: OSError) -> str:
    """Return the reason for which no connection was opened."""
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)  # asyncio's own text repeats the address
    return error.strerror or str(error)
