"""Sends bytes over a socket, and parses the responses strictly according to RFC 9112."""

from __future__ import annotations

import asyncio
import re
from typing import NamedTuple

PATIENCE_S = 30.0
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [ -~]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([ -~\x80-\xff]*?)[ \t]*")


class Answer(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    """Headers, with names in lower case."""
    body: bytes

    def get(self, name: bytes) -> bytes | None:
        found = [value for key, value in self.headers if key == name]
        return found[-1] if found else None


class NotWellFormed(Exception):
    pass


async def exchange(port: int, *pieces: bytes) -> bytes:
    """Return everything received until the gateway ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(PATIENCE_S):
            for piece in pieces:
                writer.write(piece)
                try:
                    await writer.drain()
                except ConnectionError:
                    break
            return await _all(reader)
    finally:
        writer.transport.abort()


async def _all(reader: asyncio.StreamReader) -> bytes:
    found = b""
    try:
        while piece := await reader.read(2**16):
            found += piece
    except ConnectionError:
        pass
    return found


def answers(data: bytes, *, head: bool = False) -> list[Answer]:
    """Return the responses in `data`, to HEAD requests with `head`. Raises NotWellFormed."""
    found: list[Answer] = []
    while data:
        answer, data = _answer(data, head=head)
        if answer.status >= 200:
            found.append(answer)
    return found


def _answer(data: bytes, *, head: bool) -> tuple[Answer, bytes]:
    top, blank, rest = data.partition(b"\r\n\r\n")
    first, *lines = top.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    fields = [_FIELD.fullmatch(line) for line in lines]
    if not blank or status is None or None in fields:
        raise NotWellFormed(data[:300])
    headers = [(field[1].lower(), field[2]) for field in fields if field is not None]
    lengths = [value for name, value in headers if name == b"content-length"]
    chunked = (b"transfer-encoding", b"chunked") in headers
    number = int(status[1])
    if len(lengths) + chunked > 1:
        raise NotWellFormed(top)
    if head or number in (100, 204, 304):
        return Answer(number, headers, b""), rest
    if chunked:
        body, rest = _chunks(rest)
        return Answer(number, headers, body), rest
    if not lengths:
        raise NotWellFormed(top)
    size = int(lengths[0])
    if len(rest) < size:
        raise NotWellFormed(top)
    return Answer(number, headers, rest[:size]), rest[size:]


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    """Return the received part of the body, and the bytes after its end."""
    body = b""
    while data:
        line, end, data = data.partition(b"\r\n")
        if not end or not re.fullmatch(rb"[0-9a-f]+", line):
            raise NotWellFormed(line[:100])
        size = int(line, 16)
        body += data[:size]
        if data[size : size + 2] not in (b"\r\n", b""):
            raise NotWellFormed(data[size : size + 100])
        data = data[size + 2 :]
        if not size:
            break
    return body, data
