"""GET /v2/limits tells a client what applies to it, and what it uses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventstreams.config.settings import IntakeSettings, LimitSettings, Settings
from eventstreams.model.catalogue import Catalogue
from eventstreams.web.usage import PATH
from tests.support.client import connected
from tests.support.gateway import Served, Site, run_gateway, stream_of
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

ONE, OTHER = {"X-Client-IP": "2001:db8::1"}, {"X-Client-IP": "192.0.2.2"}
LIMITED = LimitSettings(
    client_ip_connections=5,
    client_ip_connects_per_minute=60,
    client_ip_catch_up_bytes_per_minute=60_000_000,
)


async def reported(gateway: Served, headers: dict[str, str]) -> Any:
    answer = await gateway.get(PATH, headers)
    assert answer.status == 200
    assert answer.head.get("cache-control") == "no-store"
    return answer.json()


async def test_each_client_sees_its_own_use(embedded: Site) -> None:
    topic = await embedded.topic()
    await embedded.produce(topic, {"n": 1})
    async with embedded.gateway({"s": [topic]}, limits=LIMITED) as gateway:
        async with (
            gateway.stream("s", ONE, since="earliest") as stream,
            gateway.stream("s", {"X-Client-IP": "2001:db8::2"}),
        ):
            await stream.frame()
            mine = await reported(gateway, ONE)
            assert mine["client"] == "2001:db8::/64"
            assert mine["streams"]["open"] == {"max": 5, "used": 2}
            assert mine["streams"]["opened_per_minute"]["max"] == 60
            assert 1 <= mine["streams"]["opened_per_minute"]["used"] <= 2
            assert 1 <= mine["streams"]["history_bytes_per_minute"]["used"] <= 60_000_000
            other = await reported(gateway, OTHER)
            assert other["client"] == "192.0.2.2"
            for name in ("open", "opened_per_minute", "history_bytes_per_minute"):
                assert other["streams"][name]["used"] == 0
        await gateway.until("clients", 0)
        assert (await reported(gateway, ONE))["streams"]["open"]["used"] == 0


async def test_a_client_that_no_proxy_names_is_refused_as_its_streams_are(embedded: Site) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}, limits=LIMITED) as gateway:
        for path in (PATH, "/v2/stream/s"):
            assert (await gateway.get(path)).status == 400


async def test_without_limits_nothing_is_counted(embedded: Site) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        document = await reported(gateway, {})
    assert document["client"] is None
    for name in ("open", "opened_per_minute", "history_bytes_per_minute"):
        assert document["streams"][name] == {"max": None, "used": None}
    settings = Settings()
    assert document["requests"]["head_bytes_max"] == settings.limits.head_bytes_max
    assert document["streams"]["heartbeat_s"] == settings.fanout.heartbeat_s
    posts, intake = document["posts"], settings.intake
    assert posts["bodies"] == {"max": intake.client_bodies_max, "used": 0}
    for name in posts.keys() - {"bodies", "bytes"}:
        assert posts[name] == getattr(intake, name)


async def test_a_body_that_is_being_posted_counts(embedded: Site) -> None:
    async with (
        embedded.gateway({"s": [await embedded.topic()]}) as gateway,
        connected(gateway.port) as client,
    ):
        body = {"Content-Type": "application/json", "Content-Length": "1000"}
        await client.send("POST", "/v1/events", {**OTHER, **body})
        client.writer.write(b" " * 500)
        async with asyncio.timeout(PATIENCE_S):
            while (posts := (await reported(gateway, OTHER))["posts"])["bodies"]["used"] == 0:
                pass
        assert posts["bytes"]["used"] >= 500
        assert (await reported(gateway, ONE))["posts"]["bytes"]["used"] == 0


@pytest.mark.parametrize(("only", "absent"), [("gateway", "posts"), ("intake", "streams")])
async def test_what_a_process_does_not_serve_is_null(
    embedded: Site, only: Any, absent: str
) -> None:
    settings = Settings(log=embedded.settings, only=only, intake=IntakeSettings(error_stream=None))
    catalogue = Catalogue({"s": stream_of("s", ["t"])})
    async with run_gateway(settings, catalogue) as gateway:
        document = await reported(gateway, {})
    assert [name for name, value in document.items() if value is None] == ["client", absent]
