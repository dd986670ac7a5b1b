"""A site whose pages have another origin than the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress


class OtherSite:
    """A server of pages whose origin is not the gateway's."""

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, tuple[str, bytes]] = {}
        """Path -> Content-Type and content."""
        self.headers: Mapping[str, str] = {}
        """Further headers of every response."""
        self.requests: list[str] = []
        """The head of each request."""

    def page(self, body: str, path: str = "/") -> None:
        self.files[path] = ("text/html", f"<!doctype html><title>test</title>{body}".encode())

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head)
            kind, body = self.files.get(head.split(" ")[1], ("text/plain", b""))
            headers = {"Content-Type": kind, "Content-Length": str(len(body)), **self.headers}
            lines = [f"{name}: {value}" for name, value in headers.items()]
            text = "\r\n".join(["HTTP/1.1 200 OK", *lines, "Connection: close", "", ""])
            writer.write(text.encode() + body)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def other_site() -> AsyncIterator[OtherSite]:
    site = OtherSite()
    server = await asyncio.start_server(site.answer, "127.0.0.1", 0)
    site.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server:
        yield site
