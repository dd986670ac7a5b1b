"""A client that observes the wire: exact bytes, and the boundaries of HTTP chunks.

It is strict: a frame with another layout than ours, or a line split between chunks, fails the test.
Every wait is bounded by PATIENCE_S.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from eventstreams.model.last_event_id import parse_last_event_id
from eventstreams.model.position import PartitionCursor
from eventstreams.model.stop_condition import unwrap
from tests.support.waiting import PATIENCE_S

_FRAME = re.compile(rb"event: ([^\n]*)\ndata: ([^\n]*)\nid: ([^\n]*)\n\n")
_CHECKPOINT = re.compile(rb"id: ([^\n]*)\n\n")
_COMMENT = re.compile(rb"(:|retry: )[^\n]*\n")


class IncompleteResponse(Exception):
    """The response ended without its last chunk."""


class Head(NamedTuple):
    status: int
    reason: str
    headers: list[tuple[str, str]]
    """Pairs of name, in lower case, and value."""

    def get(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name]
        assert len(found) < 2, f"{name} occurs {len(found)} times"
        return found[0] if found else None


class Answer(NamedTuple):
    head: Head
    body: bytes

    @property
    def status(self) -> int:
        return self.head.status

    def json(self) -> Any:
        return json.loads(self.body)


class Frame(NamedTuple):
    event: str
    data: str
    id: str

    @property
    def document(self) -> Any:
        return json.loads(self.data)

    @property
    def position(self) -> dict[tuple[str, int], int]:
        """Return the next offset of each partition, for any form of id."""
        _, proper = unwrap(self.id)
        marks = [mark for mark in parse_last_event_id(proper) if isinstance(mark, PartitionCursor)]
        return {mark.partition: mark.offset for mark in marks if mark.offset is not None}

    @property
    def place(self) -> tuple[str, int, int]:
        meta = self.document["meta"]
        return meta["topic"], meta["partition"], meta["offset"]


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def send(
        self, method: str, target: str, headers: Mapping[str, str] | None = None
    ) -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: gateway"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())
        await self.writer.drain()

    async def head(self) -> Head:
        async with asyncio.timeout(PATIENCE_S):
            text = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = text.removesuffix("\r\n\r\n").split("\r\n")
        _, status, reason = first.split(" ", 2)
        fields = [line.split(": ", 1) for line in lines]
        return Head(int(status), reason, [(name.lower(), value) for name, value in fields])

    async def chunk(self) -> bytes | None:
        """Return the next HTTP chunk; None at the end. Raises IncompleteResponse."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                size = int(await self._reader.readuntil(b"\r\n"), 16)
                body = await self._reader.readexactly(size + 2)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise IncompleteResponse(repr(error)) from error
        assert body.endswith(b"\r\n")
        return body[:-2] if size else None

    def pause(self) -> None:
        """Stop reading from the socket."""
        self.writer.transport.pause_reading()

    def resume(self) -> None:
        self.writer.transport.resume_reading()

    async def some(self, bytes_max: int) -> bytes:
        """Return the bytes that have arrived, framing included; empty at the end of the
        connection."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.read(bytes_max)

    async def rest(self) -> bytes:
        """Return all bytes up to the end of the connection, which may be a reset."""
        found = b""
        with suppress(ConnectionError):
            while piece := await self.some(2**16):
                found += piece
        return found

    async def body(self, head: Head) -> bytes:
        """Return the whole body, of known length or up to a proper end."""
        if head.get("transfer-encoding") == "chunked":
            chunks = []
            while (chunk := await self.chunk()) is not None:
                chunks.append(chunk)
            return b"".join(chunks)
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.readexactly(int(head.get("content-length") or "0"))


class Stream:
    """A response that does not end by itself."""

    def __init__(self, client: Client, head: Head) -> None:
        self.client = client
        self.head = head
        self.chunks: list[bytes] = []
        """All chunks received so far."""
        self._ready: list[Frame] = []

    async def chunk(self) -> bytes | None:
        chunk = await self.client.chunk()
        if chunk is not None:
            self.chunks.append(chunk)
        return chunk

    async def opened(self) -> None:
        """Receive the first bytes."""
        rest = (await self._whole_chunk()).removeprefix(b":ok\n\n")
        assert self.chunks[0].startswith(b":ok\n\n")
        self._ready += frames_of(rest)

    async def frames(self, count: int) -> list[Frame]:
        """Return the next frames, skipping comments between them."""
        if not self.chunks:
            await self.opened()
        async with asyncio.timeout(PATIENCE_S):  # heartbeats would prolong the wait forever
            while len(self._ready) < count:
                self._ready += frames_of(await self._whole_chunk())
        taken, self._ready = self._ready[:count], self._ready[count:]
        return taken

    async def frame(self) -> Frame:
        [frame] = await self.frames(1)
        return frame

    def taken(self) -> list[Frame]:
        """Return the frames that have arrived but were not requested."""
        taken, self._ready = self._ready, []
        return taken

    async def rest(self) -> list[bytes]:
        """Return the chunks up to a proper end. Raises IncompleteResponse."""
        chunks: list[bytes] = []
        async with asyncio.timeout(PATIENCE_S):
            while (chunk := await self.chunk()) is not None:
                chunks.append(chunk)
        return chunks

    async def documents(self, count: int) -> list[Any]:
        """Return the documents of the next frames."""
        return [frame.document for frame in await self.frames(count)]

    async def lines(self, count: int) -> list[bytes]:
        """Return the first non-empty lines of an NDJSON response."""
        lines: list[bytes] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(lines) < count:
                assert (await self._whole_chunk()).endswith(b"\n"), (
                    "a line split between two chunks"
                )
                lines = [line for line in b"".join(self.chunks).split(b"\n") if line]
        return lines[:count]

    async def _whole_chunk(self) -> bytes:
        chunk = await self.chunk()
        assert chunk is not None, "the stream has ended"
        return chunk


def frames_of(chunk: bytes) -> list[Frame]:
    """Return the frames of a chunk, which may contain only whole frames and comments between
    them."""
    frames: list[Frame] = []
    at = 0
    while at < len(chunk):
        if comment := _COMMENT.match(chunk, at):
            at = comment.end()
            continue
        if checkpoint := _CHECKPOINT.match(chunk, at):
            frames.append(Frame("checkpoint", "", checkpoint[1].decode()))
            at = checkpoint.end()
            continue
        found = _FRAME.match(chunk, at)
        assert found, f"not a frame: {chunk[at : at + 200]!r}"
        event, data, id_ = (part.decode() for part in found.groups())
        frames.append(Frame(event, data, id_))
        at = found.end()
    return frames


@asynccontextmanager
async def connected(
    port: int, *, receive_buffer: int | None = None, address: str | None = None
) -> AsyncIterator[Client]:
    """Open a connection, from another `address` than 127.0.0.1 if one is given.

    A client that will read slowly sets `receive_buffer`, in bytes.
    """
    sock = socket.socket()
    sock.setblocking(False)
    if address is not None:
        sock.bind((address, 0))
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=2**24)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()
