"""Limits and tickets hold over gateways that share a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from eventstreams.config.settings import AccessSettings, LimitSettings, SharedSettings
from tests.support.gateway import Served, Site, stream_of
from tests.support.issuer import SECRET, secret_token
from tests.support.redis_server import RedisServer, redis
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio
__all__ = ["redis"]

ONE = {"X-Client-IP": "192.0.2.1"}


@asynccontextmanager
async def two(
    site: Site, redis: RedisServer, folder: Path, limits: LimitSettings
) -> AsyncIterator[tuple[Served, Served]]:
    folder.joinpath("secret").write_bytes(SECRET)
    stream = stream_of("s", [await site.topic()])
    closed = stream_of("closed", [await site.topic()])._replace(scope="read")
    streams = {"s": stream, "closed": closed}
    access = AccessSettings(hs256_secret_file=str(folder / "secret"))
    shared = SharedSettings(redis_url=redis.url, timeout_s=PATIENCE_S)
    async with (
        site.gateway(streams, limits=limits, access=access, shared=shared) as one,
        site.gateway(streams, limits=limits, access=access, shared=shared) as other,
    ):
        yield one, other


async def test_limits_hold_over_gateways_that_share_redis(
    embedded: Site, redis: RedisServer, tmp_path: Path
) -> None:
    limits = LimitSettings(client_ip_connections=2)
    async with two(embedded, redis, tmp_path, limits) as (one, other):
        async with one.stream("s", ONE), other.stream("s", ONE):
            for gateway in (one, other):
                refused = await gateway.get("/v2/stream/s", ONE)
                assert refused.status == 429
                assert int(refused.head.get("retry-after") or 0) >= 5
        async with asyncio.timeout(PATIENCE_S):  # ended streams are reported after a while
            while (await other.ask("HEAD", "/v2/stream/s", ONE)).status != 200:
                await asyncio.sleep(0.01)


async def test_a_ticket_is_valid_once_over_all_gateways(
    embedded: Site, redis: RedisServer, tmp_path: Path
) -> None:
    async with two(embedded, redis, tmp_path, LimitSettings()) as (one, other):
        token = {"Authorization": f"Bearer {secret_token(scope='read')}"}
        issued = await one.ask("POST", "/v2/ticket", token)
        ticket = issued.json()["ticket"]
        async with other.stream("closed", ticket=ticket):
            pass
        for gateway in (one, other):
            assert (await gateway.get(f"/v2/stream/closed?ticket={ticket}")).status == 401


async def test_without_redis_streams_continue_and_tickets_fail(
    embedded: Site, redis: RedisServer, tmp_path: Path
) -> None:
    limits = LimitSettings(client_ip_connections=1)
    async with two(embedded, redis, tmp_path, limits) as (one, other):
        async with one.stream("s", ONE):
            redis.stop()
            assert (await one.get("/v2/stream/s", ONE)).status == 429, "it knows its own"
            async with other.stream("s", ONE):
                pass
        token = {"Authorization": f"Bearer {secret_token(scope='read')}"}
        refused = await one.ask("POST", "/v2/ticket", token)
        assert refused.status == 503
        assert int(refused.head.get("retry-after") or 0) > 0
        async with one.stream("closed", {**token, **ONE}):
            pass
        await one.until("quota_reachable", 0)
