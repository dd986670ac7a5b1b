"""The number of streams of a client is limited, and each lease is returned exactly once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from eventstreams.config.settings import LimitSettings
from tests.support.gateway import Site
from tests.support.leases import IP, becomes_free
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

TWO = LimitSettings(client_ip_connections=2)


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


async def test_refused_requests_return_their_leases(site: Site) -> None:
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


async def test_a_stream_returns_its_lease_however_it_ends(site: Site) -> None:
    async with site.gateway({"s": [await site.topic()]}, limits=TWO) as gateway:
        async with gateway.stream("s", IP) as stream:
            await stream.opened()
            await becomes_free(gateway, 1)
        await becomes_free(gateway, 2)  # the client disconnected
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


async def test_beyond_the_stream_limit_there_is_503_with_retry_after(embedded: Site) -> None:
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


async def test_the_selftest_takes_a_lease_and_returns_it(embedded: Site) -> None:
    topic = await embedded.topic()
    async with embedded.gateway({"s": [topic]}, limits=TWO) as gateway:
        async with gateway.opened("/v2/selftest", IP) as one:
            assert one.head.status == 200
            async with gateway.opened("/v2/selftest", IP):
                for target in ("/v2/selftest", "/v2/stream/s"):
                    refused = await gateway.get(target, IP)
                    assert refused.status == 429
                assert gateway.count("refused_total", code="TooManyConnections") == 2
        await becomes_free(gateway, 2)
        assert (await gateway.get("/v2/selftest", IP)).body.count(b"data: ") == 10
        await becomes_free(gateway, 2)
        unsaid = await gateway.get("/v2/selftest")
        assert unsaid.status == 400
