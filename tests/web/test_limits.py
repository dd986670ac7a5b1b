"""Limits for one client and for all; refusals say when to retry."""

from __future__ import annotations

import asyncio

import pytest

from eventstreams.config.settings import LimitSettings
from eventstreams.metrics import Metrics
from eventstreams.quota.quota import LocalQuota, Quota
from eventstreams.web.limits import Allowance
from tests.support.client import Frame, connected
from tests.support.gateway import Site
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

ONE, OTHER = {"X-Client-IP": "192.0.2.1"}, {"X-Client-IP": "192.0.2.2"}


async def test_the_total_number_of_streams_is_limited(embedded: Site) -> None:
    limits = LimitSettings(streams_max=2)
    async with embedded.gateway({"s": [await embedded.topic()]}, limits=limits) as gateway:
        async with gateway.stream("s"), gateway.stream("s"):
            delays = set[int]()
            for _ in range(20):
                refused = await gateway.get("/v2/stream/s")
                assert refused.status == 503
                delays.add(int(refused.head.get("retry-after") or 0))
            assert min(delays) >= 5
            assert len(delays) > 1, "they must not all reconnect at once"
        await gateway.until("clients", 0)
        async with asyncio.timeout(PATIENCE_S):
            while (await gateway.ask("HEAD", "/v2/stream/s")).status != 200:
                await asyncio.sleep(0.01)


async def test_connects_per_minute_are_limited(embedded: Site) -> None:
    limits = LimitSettings(client_ip_connects_per_minute=3)
    async with embedded.gateway({"s": [await embedded.topic()]}, limits=limits) as gateway:
        statuses = [(await gateway.ask("HEAD", "/v2/stream/s", ONE)).status for _ in range(5)]
        assert statuses == [200] * 3 + [429] * 2
        assert (await gateway.ask("HEAD", "/v2/stream/s", OTHER)).status == 200
        refused = await gateway.get("/v2/stream/s", ONE)
        assert refused.json()["title"] == "Too Many Connects From Your Client IP"
        assert gateway.count("refused_total", code="TooManyConnects") == 3


async def test_explain_and_tickets_count_as_connects(embedded: Site) -> None:
    limits = LimitSettings(client_ip_connects_per_minute=1)
    async with embedded.gateway({"s": [await embedded.topic()]}, limits=limits) as gateway:
        for method, path in (("GET", "/v2/explain?streams=s"), ("POST", "/v2/ticket")):
            address = {"X-Client-IP": f"192.0.2.{len(path)}"}
            first = await gateway.ask(method, path, address)
            assert first.status != 429
            assert (await gateway.ask(method, path, address)).status == 429
        assert gateway.count("refused_total", code="TooManyConnects") == 2
        unsaid = (await gateway.get("/v2/stream/s")).json()["detail"]
        assert "http.trusted_proxies" in unsaid


async def test_an_ipv6_network_is_one_client(embedded: Site) -> None:
    limits = LimitSettings(client_ip_connects_per_minute=1)
    async with embedded.gateway({"s": [await embedded.topic()]}, limits=limits) as gateway:
        for address, status in (("2001:db8::1", 200), ("2001:db8::2", 429), ("2001:db8:1::1", 200)):
            found = await gateway.ask("HEAD", "/v2/stream/s", {"X-Client-IP": address})
            assert found.status == status


async def test_history_beyond_the_allowance_is_slowed_and_complete(
    embedded: Site,
) -> None:
    topic = await embedded.topic()
    await embedded.produce(topic, *({"n": n, "text": "x" * 1000} for n in range(60)))
    limits = LimitSettings(client_ip_catch_up_bytes_per_minute=60_000)
    async with embedded.gateway(
        {"s": [topic]}, limits=limits, batch_bytes_max=5000, heartbeat_s=0.2
    ) as gateway:
        async with gateway.stream("s", ONE, since="1") as stream:
            seen = [document["n"] for document in await stream.documents(58)]
            assert seen == list(range(58))
            assert b":\n" in stream.chunks, "it waited, with heartbeats"
        async with gateway.stream("s", OTHER, since="1") as stream:
            assert len(await stream.documents(15)) == 15, "others have their own"
        async with gateway.stream("s", ONE) as stream:
            await stream.opened()
            await embedded.produce(topic, {"n": "now"})
            assert (await stream.frame()).document["n"] == "now", "live events are not slowed"


SCANS = [
    {"filter": "event.n == -1"},
    {"filter": "event.l.all(x, x == 1) && event.n == -1"},
    {"sample": "0.000001"},
    {"fields": "none"},
    {"canary": "false", "filter": "event.n == -1", "sample": "0.5"},
    {"filter": "event.n == -1", "limit": "1"},
    {"filter": "event.n == -1", "until": "-0s"},
]


@pytest.mark.parametrize("query", SCANS, ids=map(str, SCANS))
async def test_discarded_bytes_count_as_sent(embedded: Site, query: dict[str, str]) -> None:
    count = 400
    topic = await embedded.topic()
    await embedded.produce(
        topic, *({"n": n, "text": "x" * 1000, "meta": {"id": str(n)}} for n in range(count))
    )
    limits = LimitSettings(client_ip_catch_up_bytes_per_minute=60_000)
    async with embedded.gateway(
        {"s": [topic]}, limits=limits, batch_bytes_max=5000, heartbeat_s=0.1
    ) as gateway:
        async with gateway.stream("s", ONE, since="1", heartbeat="checkpoint", **query) as stream:
            frames: list[Frame] = []
            while sum(frame.event == "checkpoint" for frame in frames) < 4:  # it is slowed
                frames.append(await stream.frame())
        assert frames[-1].position[topic, 0] < count / 2
        explained = await gateway.ask("GET", "/v2/explain?streams=s", ONE)
        recent = explained.json()["recent"]
        assert recent["looked_at"] < count
        assert recent["error"].startswith("Your client IP has reached its limit of history")
        other = (await gateway.ask("GET", "/v2/explain?streams=s", OTHER)).json()["recent"]
        assert other["looked_at"] > 0, "others have their own"


async def test_an_oversized_head_is_refused(embedded: Site) -> None:
    limits = LimitSettings(head_bytes_max=2000)
    async with (
        embedded.gateway({"s": [await embedded.topic()]}, limits=limits) as gateway,
        connected(gateway.port) as client,
    ):
        client.writer.write(b"GET /v2/streams HTTP/1.1\r\nHost: x\r\n")
        for _ in range(10):
            client.writer.write(b"X-A: " + b"a" * 500 + b"\r\n")
        assert (await client.head()).status == 431


class Counting(LocalQuota):
    """A quota that counts what is spent."""

    def __init__(self) -> None:
        super().__init__()
        self.spent: list[int] = []

    async def spend(self, key: str, amount: int, per_minute: int) -> float:
        self.spent.append(amount)
        return await super().spend(key, amount, per_minute)


async def test_an_allowance_is_renewed_when_it_is_used_up() -> None:
    shared = Counting()
    allowance = Allowance(Quota(shared, Metrics()), "192.0.2.1", 1_600)
    assert await allowance.wait_s() == 0.0
    [quantum] = shared.spent
    allowance.used(quantum - 1)
    assert await allowance.wait_s() == 0.0
    assert shared.spent == [quantum]
    allowance.used(1)
    assert await allowance.wait_s() == 0.0
    assert shared.spent == [quantum, quantum]
