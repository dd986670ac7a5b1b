"""A gateway that speaks HTTP/2 with one connection to it, and what it holds for that one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from eventstreams.server.http2 import Http2
from eventstreams.server.http2_stream import Http2Stream
from eventstreams.settings import HttpSettings
from tests.web.client import PATIENCE_S
from tests.web.gateway import Served, Site
from tests.web.http2 import Client, http2_client

PRIOR = HttpSettings(http2=True)
"""Without TLS: what is said is the same."""
CANCEL, CALM, REFUSED = 8, 11, 7
WINDOW = 20_000


@asynccontextmanager
async def served(
    site: Site, *, window: int = 2**20, **said: Any
) -> AsyncIterator[tuple[str, Served, Client]]:
    """The topic of a stream `s`, its gateway, and one connection to it."""
    topic = await site.topic()
    async with (
        site.gateway({"s": [topic]}, **{"http": PRIOR, **said}) as gateway,
        http2_client(gateway.port, window=window) as client,
    ):
        yield topic, gateway, client


async def nothing_runs(gateway: Served) -> None:
    """No request is at work, and no stream is open."""
    async with asyncio.timeout(PATIENCE_S):
        while gateway.server.server_state.tasks or gateway.parts.hub.subscriptions:
            await asyncio.sleep(0)


def connection_of(gateway: Served) -> Http2:
    [connection] = gateway.server.server_state.connections
    assert isinstance(connection, Http2)
    return connection


def kept(gateway: Served) -> int:
    """Bytes that are held for the client of the one connection."""
    connection = connection_of(gateway)
    cycles = [cast("Http2Stream", cycle) for cycle in connection.cycles.values()]
    parked = sum((cycle.stream.pending_bytes or 0) + len(cycle.rest) for cycle in cycles)
    return parked + connection.transport.get_write_buffer_size()
