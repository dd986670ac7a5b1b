"""Records of 10 MB are sent completely, in order among small ones, in bounded memory."""

from __future__ import annotations

import asyncio
import base64
import random
import re
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from eventstreams.config.settings import SqliteSettings
from eventstreams.log.base import Log
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Record
from tests.support.client import Stream, connected
from tests.support.gateway import SSE
from tests.support.kafka_tools import opened, topic_with
from tests.support.process import Gateway, over_kafka, serving_over

pytestmark = pytest.mark.anyio

MIB = 2**20
CLIENTS = 8
BIG = base64.b64encode(random.Random(1).randbytes(7_500_000))
"""10 MB of hardly compressible text."""
MOST = 28
"""How many may be in memory at once, while they are read, framed and compressed: fewer than one of
each record for each client, and fewer than the records that one client reads."""
KEPT = {"tail_bytes_max": 4 * MIB, "cache_bytes_max": 4 * MIB}
"""The memory for tails, less than one record."""
_NUMBER = re.compile(rb'\ndata: {[^\n]{,20}"n":(-?\d+)')
_HEAD_BYTES = 100
"""The beginning of a frame, which contains its number."""


class Place(NamedTuple):
    log: Log
    topic: str
    settings: dict[str, Any]
    """Return settings of a gateway's log."""

    async def produce(self, count: int) -> list[int]:
        """Append big records, numbered from 1, between small ones; return all numbers."""
        await self.append(0)
        for n in range(1, count + 1):
            await self.append(n, BIG)
            await self.append(-n)
        return [0, *(n for m in range(1, count + 1) for n in (m, -m))]

    async def append(self, n: int, pad: bytes = b"") -> None:
        await self.log.append([Record(self.topic, b'{"n":%d,"pad":"%b"}' % (n, pad))])


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        if request.param == "kafka":
            bootstrap = request.getfixturevalue("kafka")
            topic = await topic_with(bootstrap, max_message_bytes=str(16 * MIB))
            log: Log = await stack.enter_async_context(opened(bootstrap))
            settings = over_kafka(bootstrap, request_timeout_s=20.0)
        else:
            topic, folder = "t", tmp_path / "data"
            log = SqliteLog(directory=folder, settings=SqliteSettings(sync="normal"))
            await log.start()
            stack.push_async_callback(log.aclose)
            await log.create_topic(topic, 1)
            settings = {"backend": "sqlite", "data_dir": str(folder)}
        yield Place(log, topic, settings)


class Reader:
    """Records the numbers of received events, and how many big ones were complete."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.numbers: list[int] = []
        self.whole = 0
        encoding = stream.head.get("content-encoding")
        self._unpacker = None if encoding is None else zlib.decompressobj(wbits=31)
        self._parts: list[bytes] = []

    async def read(self, count: int) -> None:
        """Read until it has this many events."""
        while len(self.numbers) < count:
            chunk = await self.stream.chunk()
            assert chunk is not None, "the stream has ended"
            body = chunk if self._unpacker is None else self._unpacker.decompress(chunk)
            self._parts.append(body)
            if not body.endswith(b"\n\n"):
                continue
            for frame in b"".join(self._parts).split(b"\n\n"):
                self.numbers += map(int, _NUMBER.findall(frame[:_HEAD_BYTES]))
                self.whole += BIG in frame
            self._parts.clear()


@asynccontextmanager
async def reading(gateway: Gateway, query: str, coding: str = "identity") -> AsyncIterator[Reader]:
    async with connected(gateway.port) as client:
        target = f"/v2/stream/s?{query}"
        await client.send("GET", target, {**SSE, "Accept-Encoding": coding})
        head = await client.head()
        assert (head.status, head.get("content-encoding") or "identity") == (200, coding)
        yield Reader(Stream(client, head))


@pytest.mark.parametrize("live", [True, False], ids=["live", "from history"])
async def test_large_records_are_sent_in_bounded_memory(
    place: Place, tmp_path: Path, *, live: bool
) -> None:
    """One of the clients does not read."""
    count = 4
    query = "compress=gzip" + ("" if live else "&since=earliest")
    expected = [] if live else await place.produce(count)
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(
            serving_over(tmp_path, place.settings, {"s": [place.topic]}, fanout=KEPT)
        )
        memory = psutil.Process(gateway.process.pid)
        before = memory.memory_info().rss
        readers = [
            await stack.enter_async_context(
                reading(gateway, query, "identity" if n % 4 else "gzip")
            )
            for n in range(CLIENTS)
        ]
        stuck = readers.pop()
        stuck.stream.client.pause()
        if live:
            expected = await place.produce(count)
        most = 0
        for so_far in range(1, len(expected) + 1):
            async with asyncio.TaskGroup() as tasks:
                for reader in readers:
                    tasks.create_task(reader.read(so_far))
            most = max(most, memory.memory_info().rss - before)
        for reader in readers:
            assert (reader.numbers, reader.whole) == (expected, count)
        assert most < MOST * len(BIG)


@pytest.mark.parametrize("live", [True, False], ids=["live", "from history"])
async def test_memory_for_large_records_is_limited(
    place: Place, tmp_path: Path, *, live: bool
) -> None:
    count = 30
    query = "" if live else "since=earliest"
    expected = [] if live else await place.produce(count)
    async with (
        serving_over(tmp_path, place.settings, {"s": [place.topic]}, fanout=KEPT) as gateway,
        reading(gateway, query) as one,
        reading(gateway, query) as stuck,
    ):
        stuck.stream.client.pause()
        memory = psutil.Process(gateway.process.pid)
        before = memory.memory_info().rss
        if live:
            expected = await place.produce(count)
        most = 0
        for so_far in range(1, len(expected) + 1):
            await one.read(so_far)
            most = max(most, memory.memory_info().rss - before)
        assert (one.numbers, one.whole) == (expected, count)
        assert most < MOST * len(BIG)
