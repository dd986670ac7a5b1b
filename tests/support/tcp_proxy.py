"""A proxy in front of a broker that can be slow or drop data while the broker itself works."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from eventstreams.tasks import background

_CHUNK_BYTES = 64 * 1024

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Forwards connections from `door` to the broker that listens on `port`."""

    def __init__(self, door: socket.socket, port: int) -> None:
        self._door = door
        self._port = port
        self._cut = False
        self._latency_s = 0.0
        self._chunk_bytes = _CHUNK_BYTES
        self._maimed: set[asyncio.StreamWriter] = set()

    @contextmanager
    def cut(self) -> Generator[None]:
        """Accept and keep connections, but silently drop all bytes.

        At the end, connections that lost bytes are reset, because they cannot continue.
        """
        self._cut = True
        try:
            yield
        finally:
            self._cut = False
            maimed, self._maimed = self._maimed, set()
            for writer in maimed:
                writer.transport.abort()

    def lead_to(self, port: int) -> None:
        """Forward new connections to this port. Open connections are unaffected."""
        self._port = port

    @contextmanager
    def slow(self, *, latency_s: float, chunk_bytes: int) -> Generator[None]:
        """Delay data: `chunk_bytes` bytes take `latency_s` in each direction."""
        self._latency_s, self._chunk_bytes = latency_s, chunk_bytes
        try:
            yield
        finally:
            self._latency_s, self._chunk_bytes = 0.0, _CHUNK_BYTES

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        with self._door.dup() as door:
            door.setblocking(False)
            door.listen()
            async with background(self._accept(door)):
                yield

    async def _accept(self, door: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            while True:
                near, _ = await loop.sock_accept(door)
                tasks.create_task(self._serve(near))

    async def _serve(self, accepted: socket.socket) -> None:
        async with connection(sock=accepted) as near:
            with suppress(OSError):  # the broker is not running
                async with connection(host="127.0.0.1", port=self._port) as far:
                    await self._join(near, far)

    async def _join(self, near: Connection, far: Connection) -> None:
        """Close both sides as soon as one of them closes."""
        ways = [
            asyncio.create_task(self._pump(near[0], far[1], near[1])),
            asyncio.create_task(self._pump(far[0], near[1], near[1])),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._maimed.discard(near[1])

    async def _pump(
        self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, near: asyncio.StreamWriter
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(self._chunk_bytes):
                if self._latency_s:
                    await asyncio.sleep(self._latency_s)
                if self._cut:
                    self._maimed.add(near)
                    continue
                to.write(data)
                await to.drain()
            if self._cut:  # a disconnect is lost as well
                self._maimed.add(near)
                await asyncio.Event().wait()


@asynccontextmanager
async def connection(**where: Any) -> AsyncGenerator[Connection]:
    reader, writer = await asyncio.open_connection(**where)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
