"""Writes large responses piece by piece, and disconnects clients that do not read them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from starlette.types import Scope, Send

from eventstreams.deadlines import timeout_at
from eventstreams.web.answers import Headers

_PIECE_BYTES = 64 * 1024
_UNWRITTEN_BYTES_MAX = 64 * 1024
"""How many bytes a connection buffers before writers must wait, except in the last wait."""


async def write(
    scope: Scope,
    send: Send,
    status: int,
    headers: Headers,
    parts: Sequence[bytes],
    *,
    stall_s: float,
    bytes_per_s_min: int,
) -> None:
    """Send a response of these parts; return when all of it is written to the connection.

    The client may accept no bytes for `stall_s` seconds in total, and must otherwise read at
    `bytes_per_s_min` on average; if it does not, its connection is dropped.
    """
    size = sum(map(len, parts))
    headers = [*headers, (b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    extensions: dict[str, Any] = scope.get("extensions") or {}
    connection: Any = extensions.get("eventstreams.connection")
    began_s = asyncio.get_running_loop().time() + stall_s
    sent = 0
    try:
        async with timeout_at(began_s) as deadline:
            for piece in _pieces(parts):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                sent += len(piece)
                deadline.move(began_s + sent / bytes_per_s_min)
            if size > _PIECE_BYTES:
                _buffer(connection, 0)
            # With a buffer of 0 bytes, the server accepts this only when everything is written.
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    except TimeoutError:
        if connection is not None:
            connection.abort()
            await asyncio.sleep(0)  # so that the server notices the disconnect
    else:
        if size > _PIECE_BYTES:
            _buffer(connection, _UNWRITTEN_BYTES_MAX)


def _buffer(connection: Any, bytes_max: int) -> None:
    """Set how much the connection may buffer, if there still is a connection."""
    if connection is not None and not connection.transport.is_closing():
        connection.transport.set_write_buffer_limits(bytes_max)


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the parts, joined into pieces of about _PIECE_BYTES."""
    gathered: list[bytes] = []
    size = 0
    for part in parts:
        gathered.append(part)
        size += len(part)
        if size >= _PIECE_BYTES:
            yield b"".join(gathered)
            gathered, size = [], 0
    if gathered:
        yield b"".join(gathered)
