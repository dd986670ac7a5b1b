"""Crowds of clients: each checks that it gets every event once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tests.web.client import Frame, Stream, Torn, connected, frames_of
from tests.web.gateway import SSE, Served, Site

PAD = "x" * 900


def numbers(frames: list[Frame]) -> list[int]:
    return [frame.document["n"] for frame in frames]


async def produce(site: Site, topic: str, first: int, count: int) -> None:
    """Events of about 1 KB, numbered."""
    for start in range(first, first + count, 200):
        batch = range(start, min(start + 200, first + count))
        await site.produce(topic, *({"n": n, "pad": PAD} for n in batch))


@asynccontextmanager
async def streams(
    served: Served, name: str, count: int, **options: object
) -> AsyncIterator[list[Stream]]:
    """That many open streams, each past its first bytes."""
    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(served.stream(name, **options))  # type: ignore[arg-type]
            for _ in range(count)
        ]
        for stream in opened:
            await stream.opened()
        yield opened


async def unruly(served: Served, name: str, turns: int, seed: int) -> None:
    """A client that comes, reads a little, stalls or resets, and comes again with its id."""
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
                except Torn:  # it was closed because it had stalled
                    break
                if chunk is None:
                    break
                for frame in frames_of(chunk):
                    assert frame.event == "message"
                    assert expected is None or frame.document["n"] == expected
                    expected, last_id = frame.document["n"] + 1, frame.id
        await asyncio.sleep(0)
