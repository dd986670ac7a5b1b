"""Pipelined and endless requests on a connection."""

from __future__ import annotations

import asyncio

import pytest

from eventstreams.config.settings import LimitSettings
from tests.support.client import connected
from tests.support.gateway import Site
from tests.support.leases import IP, becomes_free
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


async def test_a_pipelined_request_leaks_neither_task_nor_lease(
    embedded: Site,
) -> None:
    limits = LimitSettings(client_ip_connections=1)
    async with embedded.gateway(
        {"s": [await embedded.topic()]}, limits=limits, heartbeat_s=3600
    ) as gateway:
        async with connected(gateway.port) as client:
            await client.send("GET", "/v2/stream/s", IP)
            assert (await client.head()).status == 200
            await client.send("GET", "/healthz")
        await becomes_free(gateway, 1)
        async with asyncio.timeout(PATIENCE_S):
            while gateway.server.server_state.tasks:
                await asyncio.sleep(0)


async def test_an_endless_head_is_refused(embedded: Site) -> None:
    async with (
        embedded.gateway({"s": [await embedded.topic()]}) as gateway,
        connected(gateway.port) as client,
    ):
        client.writer.write(b"GET /healthz HTTP/1.1\r\nX: ")
        await client.writer.drain()
        sending = asyncio.create_task(_send_for_ever(client.writer))
        head = await client.head()
        sending.cancel()
        assert head.status == 431


async def _send_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 10_000)
        try:
            await writer.drain()
        except ConnectionError:
            return
        await asyncio.sleep(0)
