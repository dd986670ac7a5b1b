"""Sends bytes over a socket, and parses the responses strictly according to RFC 9112."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from eventstreams.tasks import background
from tests.support.waiting import PATIENCE_S

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
    """Return everything received until the gateway ends the connection.

    A transport of asyncio would drop received bytes when a write fails or the peer resets.
    """
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(PATIENCE_S):
            await loop.sock_connect(sock, ("127.0.0.1", port))
            with suppress(ConnectionError):
                for piece in pieces:
                    await loop.sock_sendall(sock, piece)
            found = b""
            with suppress(ConnectionError):
                while received := await loop.sock_recv(sock, 2**16):
                    found += received
            return found


class Pulse:
    """Another client, whose requests are answered one after the other.

    It distinguishes a response that is late on a busy machine from one that never comes: then the
    gateway answers the requests of this client, although they were sent later.
    """

    _EVERY_S = 0.01
    _REQUEST = b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

    def __init__(self, port: int) -> None:
        self._port = port
        self._answered = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Pulse]:
        async with background(self._run()):
            yield self

    async def _run(self) -> None:
        while True:
            with suppress(OSError):
                self._answered += bool(await exchange(self._port, self._REQUEST))
            await asyncio.sleep(self._EVERY_S)

    async def received(self, reader: asyncio.StreamReader, quiet_s: float) -> bytes:
        """Return everything received until the peer ends the connection, or sends nothing for
        `quiet_s` in which it answers the other client."""
        found, answered = b"", self._answered
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    piece = await asyncio.wait_for(reader.read(2**16), quiet_s)
                except TimeoutError:
                    if self._answered > answered + 1:  # the second was sent after all of ours
                        return found
                except ConnectionError:
                    return found
                else:
                    if not piece:
                        return found
                    found += piece
                    answered = self._answered


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
