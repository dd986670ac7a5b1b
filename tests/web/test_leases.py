"""How many streams one client may hold, and that each lease is given back exactly once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from eventstreams.settings import LimitSettings
from tests.web.client import PATIENCE_S
from tests.web.gateway import Served, Site

pytestmark = pytest.mark.anyio

IP = {"X-Client-IP": "192.0.2.1"}
TWO = LimitSettings(client_ip_connections=2)


async def free(gateway: Served) -> int:
    """How many more streams the client may open now."""
    async with AsyncExitStack() as stack:
        for count in range(10):
            stream = await stack.enter_async_context(gateway.opened("/v2/stream/s", IP))
            if stream.head.status == 429:
                return count
            assert stream.head.status == 200
    raise AssertionError("there is no limit")


async def becomes_free(gateway: Served, count: int) -> None:
    """The gateway hears of a client's end in its own time."""
    async with asyncio.timeout(PATIENCE_S):
        while await free(gateway) != count:
            await asyncio.sleep(0.01)


async def test_without_a_limit_no_address_is_needed(site: Site) -> None:
    async with site.gateway({"s": [await site.topic()]}) as gateway, AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(gateway.stream("s"))


async def test_with_a_limit_the_address_is_required_and_its_streams_are_counted(
    site: Site,
) -> None:
    async with site.gateway({"s": [await site.topic()]}, limits=TWO) as gateway:
        missing = await gateway.get("/v2/stream/s")
        assert missing.status == 400
        assert missing.json()["type"] == "bad_request"
        assert missing.json()["title"] == "Missing Required X-Client-IP Header"
        empty = await gateway.get("/v2/stream/s", {"X-Client-IP": ""})
        assert empty.status == 400
        async with gateway.stream("s", IP), gateway.stream("s", IP):
            refused = await gateway.get("/v2/stream/s", IP)
            assert refused.status == 429
            assert refused.json()["type"] == "too_many_requests"
            title = "Too Many Concurrent Connections From Your Client IP"
            assert refused.json()["title"] == title
            assert (await gateway.get("/v2/streams")).status == 200, "only streams are limited"
            async with gateway.stream("s", {"X-Client-IP": "192.0.2.2"}):
                pass
        await becomes_free(gateway, 2)


async def test_refused_requests_give_back_exactly_what_they_took(site: Site) -> None:
    async with site.gateway({"s": [await site.topic()]}, limits=TWO) as gateway:
        async with gateway.stream("s", IP):
            for _ in range(5):
                assert (await gateway.get("/v2/stream/nope", IP)).status == 400
                assert (await gateway.get("/v2/stream/s?since=x", IP)).status == 400
                bad = {**IP, "Last-Event-ID": "nope"}
                assert (await gateway.get("/v2/stream/s", bad)).status == 400
                assert await gateway.get("/v2/stream/s", {**bad, "Last-Event-ID": '["x"]'})
                assert (await gateway.ask("HEAD", "/v2/stream/s", IP)).status == 200
            await becomes_free(gateway, 1)
        await becomes_free(gateway, 2)


async def test_a_stream_gives_its_lease_back_whoever_ends_it(site: Site) -> None:
    async with site.gateway({"s": [await site.topic()]}, limits=TWO) as gateway:
        async with gateway.stream("s", IP) as stream:
            await stream.opened()
            await becomes_free(gateway, 1)
        await becomes_free(gateway, 2)  # the client went
        async with gateway.stream("s", IP) as stream:
            await stream.opened()
            for subscription in gateway.parts.hub.subscriptions:
                subscription.connection.abort()  # the connection broke
            await becomes_free(gateway, 2)
        async with gateway.stream("s", IP) as stream:
            await stream.opened()
            await gateway.parts.hub.drain(0.0)  # the gateway ends it
            await stream.rest()
            gateway.parts.hub.draining = False
            await becomes_free(gateway, 2)


async def test_beyond_the_connection_limit_there_is_503_with_retry_after(embedded: Site) -> None:
    limits = LimitSettings(connections_max=1)
    async with embedded.gateway({"s": [await embedded.topic()]}, limits=limits) as gateway:
        async with gateway.stream("s") as stream:
            await stream.opened()
            answer = await gateway.get("/healthz")
            assert answer.status == 503
            assert 1 <= int(answer.head.get("retry-after") or 0) <= 20
            assert answer.head.get("access-control-allow-origin") == "*"
            assert answer.json()["status"] == 503
        async with asyncio.timeout(PATIENCE_S):
            while (await gateway.get("/healthz")).status != 200:
                await asyncio.sleep(0.01)
