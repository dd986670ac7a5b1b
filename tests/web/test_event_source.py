"""What a browser's EventSource gets where others get a status, after which it never comes back."""

from __future__ import annotations

import json

import pytest

from eventstreams.settings import HttpSettings, LimitSettings
from tests.web.gateway import SSE, Site

pytestmark = pytest.mark.anyio

BROWSER = {**SSE, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
ONE = LimitSettings(streams_max=1)


async def test_where_coming_back_has_a_use_it_is_told_when_and_why(embedded: Site) -> None:
    async with (
        embedded.gateway({"s": [await embedded.topic()]}, limits=ONE) as gateway,
        gateway.stream("s"),
    ):
        answer = await gateway.get("/v2/stream/s", BROWSER)
        assert answer.status == 200
        assert (answer.head.get("content-type") or "").startswith("text/event-stream")
        text = answer.body.decode()
        assert "id:" not in text, "it would take the client's own from it"
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


async def test_where_coming_back_has_none_it_is_ended_for_good(embedded: Site) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        for path in ("/v2/stream/unknown", "/v2/stream/s?filter=%0A%0D(", "/v2/stream/s?since=x"):
            answer = await gateway.get(path, BROWSER)
            assert answer.status == 204
            assert answer.head.get("content-length") is None
            assert answer.head.get("x-eventstreams-error")
            assert (await gateway.get(path, SSE)).status in (400, 404)
            fetched = {**BROWSER, "Accept": "*/*"}
            assert (await gateway.get(path, fetched)).status in (400, 404), "fetch can read it"


async def test_it_gets_the_status_where_that_is_wanted(embedded: Site) -> None:
    http = HttpSettings(event_source_refusals="status")
    async with embedded.gateway({"s": [await embedded.topic()]}, http=http) as gateway:
        assert (await gateway.get("/v2/stream/unknown", BROWSER)).status == 400
