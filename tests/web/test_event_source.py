"""A refused EventSource of a browser gets a response after which it reconnects if that helps."""

from __future__ import annotations

import json

import pytest

from eventstreams.config.settings import HttpSettings, LimitSettings
from eventstreams.errors import GatewayFull
from eventstreams.web.answers import event_source_body
from tests.support.gateway import SSE, Site

pytestmark = pytest.mark.anyio

BROWSER = {**SSE, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
ONE = LimitSettings(streams_max=1)


async def test_temporary_refusals_tell_event_source_when_to_reconnect(embedded: Site) -> None:
    async with (
        embedded.gateway({"s": [await embedded.topic()]}, limits=ONE) as gateway,
        gateway.stream("s"),
    ):
        answer = await gateway.get("/v2/stream/s", BROWSER)
        assert answer.status == 200
        assert (answer.head.get("content-type") or "").startswith("text/event-stream")
        text = answer.body.decode()
        assert "id:" not in text, "it would erase the client's id"
        *_, retry = text.splitlines()
        assert retry.startswith("retry: ")
        assert 5000 <= int(retry.removeprefix("retry: ")) <= 46_000
        [data] = [line for line in text.splitlines() if line.startswith("data: ")]
        document = json.loads(data.removeprefix("data: "))
        assert document["status"] == 503
        assert document["name"] == "GatewayFull"
        plain = await gateway.get("/v2/stream/s", SSE)
        assert plain.status == 503
        assert 5 <= int(plain.head.get("retry-after") or 0) <= 30


async def test_final_refusals_end_event_source(embedded: Site) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        for path in ("/v2/stream/unknown", "/v2/stream/s?filter=%0A%0D(", "/v2/stream/s?since=x"):
            answer = await gateway.get(path, BROWSER)
            assert answer.status == 204
            assert answer.head.get("content-length") is None
            assert answer.head.get("x-eventstreams-error")
            assert (await gateway.get(path, SSE)).status in (400, 404)
            fetched = {**BROWSER, "Accept": "*/*"}
            assert (await gateway.get(path, fetched)).status in (400, 404), (
                "fetch can read the status"
            )


async def test_event_source_gets_the_status_if_configured(embedded: Site) -> None:
    http = HttpSettings(event_source_refusals="status")
    async with embedded.gateway({"s": [await embedded.topic()]}, http=http) as gateway:
        assert (await gateway.get("/v2/stream/unknown", BROWSER)).status == 400


@pytest.mark.parametrize("soonest_s", [1, 600])
def test_event_source_reconnects_no_sooner_than_the_delay(soonest_s: int) -> None:
    for _ in range(20):
        *_, last = event_source_body(GatewayFull("full", soonest_s)).decode().splitlines()
        retry_ms = int(last.removeprefix("retry: "))
        assert soonest_s * 1000 <= retry_ms <= 3 * soonest_s * 1000
