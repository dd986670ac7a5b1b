"""A server that sends scripted bytes, and records requests and the events that programs received.

It uses bare streams, so the script alone decides what a client gets: the borders of chunks, a
response that is cut in the middle, gzip flushed at a chosen place.

    GET /run/KEY     answered by the script of that run; requests of a run are counted from 1
    POST /seen/KEY   a page in a browser reports what it received, as JSON
    GET /page/KEY    that page
    GET /module/NAME a file of the fetch client that the page may use
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

MODULE = (
    Path(__file__).parent.parent.parent
    / ".clients/npm/node_modules/@microsoft/fetch-event-source/lib/esm"
)
PAGE = Path(__file__).parent / "programs" / "browser.html"
_KEEP_ALIVE_S = 5.0
_APART_S = 0.05
"""Seconds between chunks, so that a client reads each separately."""


class Exchange:
    """One request of a run, with methods to answer it."""

    def __init__(self, number: int, headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.headers = headers
        self.at = time.monotonic()
        self.ended_at = self.at
        self.kept = False
        """Whether the response is complete, so that the connection can carry another request."""
        self._writer = writer
        self._gzip: Any = None

    @property
    def last_event_id(self) -> str | None:
        return self.headers.get("last-event-id")

    @property
    def takes_gzip(self) -> bool:
        return "gzip" in self.headers.get("accept-encoding", "")

    async def start(self, *, gzip: bool = False) -> None:
        """Send the head of an event stream, and its initial comment."""
        lines = [
            "HTTP/1.1 200 OK",
            "content-type: text/event-stream; charset=utf-8",
            "cache-control: no-cache",
            "access-control-allow-origin: *",
            "transfer-encoding: chunked",
        ]
        if gzip:
            self._gzip = zlib.compressobj(wbits=31)
            lines.append("content-encoding: gzip")
        self._writer.write("\r\n".join([*lines, "", ""]).encode())
        await self.send(":ok\n\n")

    async def send(self, text: str) -> None:
        """Send one chunk; with gzip, flush after it."""
        data = text.encode()
        if self._gzip:
            data = self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writer.drain()
        await asyncio.sleep(_APART_S)

    async def cut(self) -> None:
        """Close the connection in the middle of the response."""
        await asyncio.sleep(4 * _APART_S)
        self._writer.close()
        self.ended_at = time.monotonic()

    async def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()
        self.kept = True
        self.ended_at = time.monotonic()

    async def no_content(self) -> None:
        self._writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await self._writer.drain()
        self.kept = True


class Run:
    """One client on one scenario: its requests, the events delivered, and whether that is
    enough."""

    def __init__(self, script: Script, *, looped: bool) -> None:
        self.script = script
        self.looped = looped
        """Whether the program's own loop reconnects, rather than the library."""
        self.exchanges: list[Exchange] = []
        self.items: list[tuple[float, dict[str, Any]]] = []
        self.done = asyncio.Event()
        self._news = asyncio.Condition()

    async def add(self, item: dict[str, Any]) -> None:
        async with self._news:
            self.items.append((time.monotonic(), item))
            self._news.notify_all()

    async def handed(self, data: str, timeout_s: float = 2.0) -> bool:
        """Wait until an event with this data has been delivered to the client."""
        async with self._news:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._news.wait_for(lambda: self.handed_at(data) is not None)
                    return True
        return False

    def handed_at(self, data: str) -> float | None:
        return next((at for at, item in self.items if item.get("data") == data), None)

    def exchange(self, number: int) -> Exchange | None:
        return self.exchanges[number - 1] if len(self.exchanges) >= number else None


Script = Callable[[Run, Exchange], Awaitable[None]]


class Server:
    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.port = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncGenerator[None]:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that was stopped resets its connection, at any point of the script.
        # When everything is measured, the loop cancels requests whose stream is still open.
        expected = (OSError, EOFError, TimeoutError, asyncio.CancelledError)
        with contextlib.suppress(*expected):
            while await self._request(reader, writer):
                pass
        writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request. Returns whether another may follow on the connection."""
        async with asyncio.timeout(_KEEP_ALIVE_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *rest = head.rstrip().split("\r\n")
        headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in rest)}
        _, kind, key = [*first.split()[1].split("/"), "", ""][:3]
        if kind == "module" and key in ("index", "fetch", "parse"):
            _file(writer, b"text/javascript", MODULE / f"{key}.js")
            return True
        run = self.runs.get(key)
        if run is None or kind not in ("run", "seen", "page"):
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return True
        if kind == "seen":
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            await run.add(json.loads(body))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return True
        if kind == "page":
            _file(writer, b"text/html; charset=utf-8", PAGE)
            return True
        exchange = Exchange(len(run.exchanges) + 1, headers, writer)
        run.exchanges.append(exchange)
        await run.script(run, exchange)
        return exchange.kept


def _file(writer: asyncio.StreamWriter, kind: bytes, file: Path) -> None:
    content = file.read_bytes()
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n" % kind)
    writer.write(b"content-length: %d\r\n\r\n%b" % (len(content), content))
