"""Clients over TLS."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.certificates import Files
from tests.support.client import Client, Stream
from tests.support.gateway import SSE


@asynccontextmanager
async def connected(
    port: int, files: Files, *, receive_buffer: int | None = None
) -> AsyncIterator[Client]:
    """Connect with HTTP/1.1 over TLS."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(
        sock=sock, limit=2**24, ssl=files.client("http/1.1"), server_hostname="127.0.0.1"
    )
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def streaming(
    port: int,
    files: Files,
    query: str = "",
    *,
    name: str = "s",
    receive_buffer: int | None = None,
) -> AsyncIterator[Stream]:
    async with connected(port, files, receive_buffer=receive_buffer) as client:
        await client.send("GET", f"/v2/stream/{name}{query}", SSE)
        stream = Stream(client, await client.head())
        assert stream.head.status == 200
        yield stream


def curl(files: Files, *arguments: str) -> tuple[str, ...]:
    return ("curl", "-sN", "--cacert", files.certificate, *arguments)


def replace_by(served: Files, other: Files) -> None:
    for there, here in zip(served, other, strict=True):
        Path(there).write_bytes(Path(here).read_bytes())
