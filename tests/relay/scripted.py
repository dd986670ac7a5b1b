"""A scripted upstream, and relays of it to a log in memory.

It replaces only the remote server: the relay connects to it by HTTP over a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from eventstreams.log.base import Log
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import Catalogue, Stream
from eventstreams.model.event import Event, Partition
from eventstreams.relay.answers import Backoff
from eventstreams.relay.relay import Relay
from eventstreams.relay.routes import Routes
from eventstreams.relay.upstream import find_upstream
from tests.support.tcp_server import tcp_server
from tests.support.waiting import until

PATIENCE_S = 60.0
PLENTY = 1 << 24
OK = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"connection: close\r\n\r\n:ok\n\n"
)
STREAM = Stream("edits", ("eqiad.edits", "codfw.edits"), frozenset(), ("e",), None, None)
MOVES = Stream("moves", ("moves",), frozenset({"moves"}), (), None, None)
CATALOGUE = Catalogue({"edits": STREAM, "moves": MOVES})


class Request(NamedTuple):
    path: str
    query: dict[str, str]
    headers: dict[str, str]

    @property
    def last_event_id(self) -> Any:
        text = self.headers.get("last-event-id")
        return None if text is None else json.loads(text)


Answer = bytes | Callable[[Request], bytes]


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    """Return a complete response."""
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def entry(topic: str, **fields: Any) -> dict[str, Any]:
    return {"topic": topic, "partition": 0, **fields}


def event(topic: str, offset: int, *, stream: str = "edits", **fields: Any) -> bytes:
    """Return the data of an event as a gateway sends it."""
    meta = {"stream": stream, "topic": topic, "partition": 0, "offset": offset}
    return json.dumps({"meta": {**meta, **fields}, "n": offset}, separators=(",", ":")).encode()


def frame(data: bytes, id_: Any, name: str = "message") -> bytes:
    text = id_ if isinstance(id_, str) else json.dumps(id_, separators=(",", ":"))
    return b"event: %b\ndata: %b\nid: %b\n\n" % (name.encode(), data, text.encode())


def exact(topic: str, offset: int, timestamp: int | None = None) -> bytes:
    """Return a frame of our gateway, for a stream with one partition."""
    time_ms = 1_000 + offset if timestamp is None else timestamp
    return frame(event(topic, offset), [entry(topic, offset=offset + 1, timestamp=time_ms)])


class Upstream:
    """A server that gives each connection the next response and closes it, except the last."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = answers
        self._requests = asyncio.Queue[Request]()
        self._open: list[asyncio.StreamWriter] = []
        self.url = ""
        self.count = 0

    async def request(self) -> Request:
        """Return the next request, once it has arrived."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._requests.get()

    async def send(self, more: bytes) -> None:
        """Send bytes on the open connection."""
        self._open[-1].write(more)
        await self._open[-1].drain()

    def cut(self) -> None:
        self._open[-1].transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = _parse(await reader.readuntil(b"\r\n\r\n"))
        number, self.count = self.count, self.count + 1
        made = self._answers[min(number, len(self._answers) - 1)]
        writer.write(made(request) if callable(made) else made)
        await writer.drain()
        self._open.append(writer)
        self._requests.put_nowait(request)
        if number + 1 >= len(self._answers):
            await reader.read()


@contextlib.asynccontextmanager
async def upstream(*answers: Answer) -> AsyncIterator[Upstream]:
    made = Upstream(answers)
    async with tcp_server(made.serve) as port:
        made.url = f"http://127.0.0.1:{port}"
        yield made


def _parse(head: bytes) -> Request:
    first, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
    target = urlsplit(first.split(" ")[1])
    headers = dict(line.split(": ", 1) for line in lines)
    query = {name: values[0] for name, values in parse_qs(target.query).items()}
    return Request(target.path, query, {name.lower(): v for name, v in headers.items()})


async def stored(log: Log, topic: str) -> list[Event]:
    """Return the events of a topic's only partition, up to the first open transaction."""
    partition = Partition(topic, 0)
    end = (await log.bounds([partition]))[partition].end
    offset, found = 0, list[Event]()
    while offset < end:
        slice_ = await log.read(partition, offset, PLENTY)
        found += slice_.events
        if slice_.next == offset:
            break
        offset = slice_.next
    return found


async def numbers(log: Log, topic: str) -> list[int]:
    """Return the numbers `n` of these events."""
    return [json.loads(each.value or b"")["n"] for each in await stored(log, topic)]


class Site:
    """A log and the relay that fills it."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.metrics = Metrics()

    def relay(self, url: str, **options: Any) -> Relay:
        streams = options.pop("streams", {"edits": "edits"})
        names = {
            name: options.pop(name)
            for name in ("filter_", "canaries", "contact")
            if name in options
        }
        return Relay(
            name=options.pop("name", "r"),
            upstream=find_upstream(url, tuple(streams), **names),
            routes=Routes(streams, CATALOGUE),
            log=self.log,
            metrics=self.metrics,
            backoff=options.pop("backoff", None)
            or Backoff(base_s=0.001, max_s=0.002, attempts=1_000),
            **options,
        )

    @contextlib.asynccontextmanager
    async def relaying(self, url: str, **options: Any) -> AsyncIterator[asyncio.Task[None]]:
        for topic in ("eqiad.edits", "codfw.edits", "moves"):
            await self.log.create_topic(topic, 1)
        task = asyncio.create_task(self.relay(url, **options).run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait({task})  # a test that expects an error awaits the task itself

    async def events(self, topic: str) -> list[Event]:
        return await stored(self.log, topic)

    async def values(self, topic: str, count: int) -> list[bytes | None]:
        """Return all records, once there are this many."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := await self.events(topic)) < count:
                await asyncio.sleep(0.002)
        return [each.value for each in found]

    def count(self, name: str, relay: str = "r") -> float:
        value = self.metrics.registry.get_sample_value(
            f"eventstreams_relay_{name}", {"relay": relay}
        )
        return value or 0.0

    async def until(self, name: str, value: float) -> None:
        await until(lambda: self.count(name) == value, every_s=0.002)
