"""Crowds of clients: each checks that it gets every event once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tests.support.client import Frame, IncompleteResponse, Stream, connected, frames_of
from tests.support.gateway import SSE, Served, Site

PAD = "x" * 900


def numbers(frames: list[Frame]) -> list[int]:
    return [frame.document["n"] for frame in frames]


async def produce(site: Site, topic: str, first: int, count: int) -> None:
    """Append numbered events of about 1 KB."""
    for start in range(first, first + count, 200):
        batch = range(start, min(start + 200, first + count))
        await site.produce(topic, *({"n": n, "pad": PAD} for n in batch))


@asynccontextmanager
async def streams(
    served: Served, name: str, count: int, **options: object
) -> AsyncIterator[list[Stream]]:
    """Open this many streams, each past its first bytes."""
    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(served.stream(name, **options))  # type: ignore[arg-type]
            for _ in range(count)
        ]
        for stream in opened:
            await stream.opened()
        yield opened


async def unruly(served: Served, name: str, turns: int, seed: int) -> None:
    """A client that reads a little, stalls or resets, and reconnects with its id."""
    chance = random.Random(seed)
    last_id: str | None = None
    expected: int | None = None
    for _ in range(turns):
        headers = dict(SSE) if last_id is None else {**SSE, "Last-Event-ID": last_id}
        async with connected(served.port, receive_buffer=8192) as client:
            await client.send("GET", f"/v2/stream/{name}", headers)
            head = await client.head()
            assert head.status == 200
            stream = Stream(client, head)
            await stream.opened()
            if chance.random() < 0.3:
                client.pause()
                continue
            for _ in range(chance.randrange(6)):
                try:
                    chunk = await stream.chunk()
                except IncompleteResponse:  # closed because it had stalled
                    break
                if chunk is None:
                    break
                for frame in frames_of(chunk):
                    assert frame.event == "message"
                    assert expected is None or frame.document["n"] == expected
                    expected, last_id = frame.document["n"] + 1, frame.id
        await asyncio.sleep(0)
