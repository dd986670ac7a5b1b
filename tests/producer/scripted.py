"""A scripted intake, which records requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar

import h11

from tests.support.tcp_server import tcp_server
from tests.support.waiting import PATIENCE_S


class Said(NamedTuple):
    status: int
    document: Any = None
    """The body: bytes unchanged, None for an empty body, everything else as JSON."""
    headers: tuple[tuple[str, str], ...] = ()


CUT = Said(0)
"""The connection is closed without an answer."""
TAKEN = Said(201)

Events = list[dict[str, Any]]
Script = Callable[[Events], Awaitable[Said]]


class Scripted:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Events] = []
        self.heads: list[dict[str, str]] = []
        self.url = ""

    @property
    def numbers(self) -> list[list[int]]:
        """The `n` of the events of each request."""
        return [[event["n"] for event in events] for events in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        with contextlib.suppress(h11.RemoteProtocolError):
            while await self._exchange(connection, reader, writer):
                connection.start_next_cycle()

    async def _exchange(
        self,
        connection: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Request):
                head = {name.decode(): value.decode() for name, value in event.headers}
                self.heads.append(head | {":path": event.target.decode()})
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        events = json.loads(body)
        self.requests.append(events)
        said = await self.script(events)
        if said is CUT:
            return False
        document = said.document
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        if document is None:
            content = b""
        headers = [*said.headers, ("content-length", str(len(content)))]
        reason = HTTPStatus(said.status).phrase
        for part in (
            h11.Response(status_code=said.status, headers=headers, reason=reason.encode()),
            h11.Data(data=content),
            h11.EndOfMessage(),
        ):
            writer.write(connection.send(part) or b"")
        await writer.drain()
        return True


@asynccontextmanager
async def scripted(script: Script, port: int = 0) -> AsyncIterator[Scripted]:
    intake = Scripted(script)
    async with tcp_server(intake.serve, port) as bound:
        intake.url = f"http://127.0.0.1:{bound}"
        yield intake


def in_turn(*said: Said) -> Script:
    """Responses in order; after them, everything is accepted."""
    left = list(said)

    async def script(events: Events) -> Said:
        return left.pop(0) if left else TAKEN

    return script


def event(n: int, **more: Any) -> dict[str, Any]:
    return {
        "$schema": "/test/event/1.0.0",
        "meta": {"stream": "s", "id": f"id-{n}"},
        "n": n,
        **more,
    }


def element(kind: str, text: str, **more: Any) -> dict[str, Any]:
    key = "errorsText" if kind == "invalid" else "message"
    return {"status": kind, "context": {key: text}, **more}


T = TypeVar("T")


async def soon(work: Awaitable[T]) -> T:
    async with asyncio.timeout(PATIENCE_S):
        return await work


def held(*said: Said) -> tuple[asyncio.Event, asyncio.Event, Any]:
    """The first request waits for the test; the others are answered immediately."""
    came, go = asyncio.Event(), asyncio.Event()
    rest = in_turn(*said)

    async def script(events: Events) -> Said:
        first = not came.is_set()
        came.set()
        if first:
            await go.wait()
        return await rest(events)

    return came, go, script
