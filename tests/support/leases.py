"""The number of streams that an address may still open."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from tests.support.gateway import Served
from tests.support.waiting import PATIENCE_S

IP = {"X-Client-IP": "192.0.2.1"}


async def free(gateway: Served) -> int:
    """Return how many more streams the client may open now."""
    async with AsyncExitStack() as stack:
        for count in range(10):
            stream = await stack.enter_async_context(gateway.opened("/v2/stream/s", IP))
            if stream.head.status == 429:
                return count
            assert stream.head.status == 200
    raise AssertionError("there is no limit")


async def becomes_free(gateway: Served, count: int) -> None:
    """Wait until the gateway has noticed that clients have disconnected."""
    async with asyncio.timeout(PATIENCE_S):
        while await free(gateway) != count:
            await asyncio.sleep(0.01)
