"""What a request would do, said without doing it."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.web.gateway import Site
from tests.web.test_resume import T0, filled

pytestmark = pytest.mark.anyio


async def test_a_request_is_explained_as_it_was_understood(site: Site) -> None:
    topic = await filled(site, count=4)
    async with site.gateway({"s": [topic]}) as gateway:
        filter_ = quote("event.n   >= 3 // the last")
        answer = await gateway.get(
            f"/v2/explain?streams=s&filter={filter_}&fields=n&since={T0 + 1000}&limit=2&gap=fail"
        )
        assert answer.status == 200
        said = answer.json()
        assert said["topics"] == [topic]
        assert (
            said["filter"]
            == (await gateway.get(f"/v2/explain?streams=s&filter={filter_}")).json()["filter"]
        )
        assert "//" not in said["filter"]
        assert said["fields"] == ["n"]
        assert said["ends"]["events"] == 2
        assert (said["heartbeat"], said["gap"]) == ("comment", "fail")
        [start] = said["start"]
        assert (start["offset"], start["behind"]) == (1, 3)
        assert start["time"] == "2023-11-14T22:13:21.000Z"
        recent = said["recent"]
        assert (recent["looked_at"], recent["matched"], recent["share"]) == (4, 1, 0.25)
        assert recent["bytes_per_event"] == len(b'{"n":3}')


async def test_what_a_stream_would_refuse_is_refused_alike(embedded: Site) -> None:
    topic = await filled(embedded)
    async with embedded.gateway({"s": [topic]}) as gateway:
        for query in ("filter=event.", "limit=0", "since=soon", "fields=a..b", "sample=2"):
            explained = (await gateway.get(f"/v2/explain?streams=s&{query}")).json()
            streamed = (await gateway.get(f"/v2/stream/s?{query}")).json()
            del explained["uri"], streamed["uri"]
            assert explained == streamed, query
        assert (await gateway.get("/v2/explain?streams=nope")).status == 400
        assert "streams is missing" in (await gateway.get("/v2/explain")).json()["detail"]


async def test_an_empty_stream_has_no_share(embedded: Site) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        said = (await gateway.get("/v2/explain?streams=s")).json()
        assert said["recent"]["share"] is None
        assert said["gaps"] == []
