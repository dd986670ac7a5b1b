"""What a request would do, said without doing it."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from eventstreams.model.event import Record
from eventstreams.web.explain import Explain
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


async def test_what_a_filter_may_cost_is_explained(embedded: Site) -> None:
    cheap, costly = "event.n == 3", "event.tags.exists(t, t == 'a' || t == 'b')"
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        told = [
            (await gateway.get(f"/v2/explain?streams=s&filter={quote(text)}")).json()
            for text in (cheap, costly)
        ]
        assert 0 < told[0]["filter_microseconds"] < 10 < told[1]["filter_microseconds"] < 200
        plain = (await gateway.get("/v2/explain?streams=s&fields=n")).json()
        assert plain["filter_microseconds"] is None


async def test_an_empty_stream_has_no_share(embedded: Site) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        said = (await gateway.get("/v2/explain?streams=s")).json()
        assert said["recent"]["share"] is None
        assert said["gaps"] == []


async def test_rates_and_shares_are_of_a_time_of_which_every_partition_is_known(
    embedded: Site,
) -> None:
    """Else a quiet partition would stretch the time, and count for as much as a busy one."""
    busy, quiet = await embedded.topic(), await embedded.topic()
    for topic, every_s in ((busy, 1), (quiet, 10)):
        for n in range(600):
            at = T0 + (6000 - (600 - n) * every_s) * 1000
            await embedded.log.append(
                [Record(topic, b'{"quiet":%d}' % (topic == quiet), None, at, 0)]
            )
    async with embedded.gateway({"s": [busy, quiet]}) as gateway:
        answer = await gateway.get("/v2/explain?streams=s&filter=event.quiet%3D%3D1")
    recent = answer.json()["recent"]
    assert recent["looked_at"] == 500 + 50
    assert recent["matched"] == 50
    assert recent["events_per_second"] == pytest.approx(0.1, rel=0.05)


async def test_what_a_time_was_understood_as_is_said_with_what_is_odd(site: Site) -> None:
    topic = await filled(site, count=4)
    await site.forget_before(topic, 1)
    future = "20991231235959"
    cases = {
        f"since={T0 + 2000}": (T0 + 2000, None),
        "since=1700000001": (T0 + 1000, "nothing older is kept: begins with the oldest event"),
        "since=5": (5, "nothing older is kept: begins with the oldest event"),
        f"since={future}": (4_102_444_799_000, "in the future: begins with the next event"),
        f"since=5&last-event-id=%5B%22{topic}%22%5D": (5, "ignored: the id says where to begin"),
    }
    async with site.gateway({"s": [topic]}) as gateway:
        for query, (milliseconds, note) in cases.items():
            said = (await gateway.get(f"/v2/explain?streams=s&{query}")).json()["since"]
            assert (said["milliseconds"], said["note"]) == (milliseconds, note), query
        assert (await gateway.get("/v2/explain?streams=s")).json()["since"] is None


async def test_nobody_waits_for_the_explanations_of_others(
    embedded: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    explain = Explain._explain
    begun, goes_on = 0, asyncio.Event()

    async def slow(self: Explain, scope: Any) -> dict[str, Any]:
        nonlocal begun
        if b"slow" in scope["query_string"]:
            begun += 1
            await goes_on.wait()
        return await explain(self, scope)

    monkeypatch.setattr(Explain, "_explain", slow)
    mine, theirs = {"X-Client-IP": "192.0.2.1"}, {"X-Client-IP": "192.0.2.2"}
    async with (
        embedded.gateway({"s": [await embedded.topic()]}) as gateway,
        asyncio.TaskGroup() as tasks,
    ):
        asked = [
            tasks.create_task(gateway.get("/v2/explain?streams=s&fields=slow", headers=mine))
            for _ in range(4)
        ]
        while begun < 2:
            await asyncio.sleep(0.01)
        for _ in range(3):
            answer = await gateway.get("/v2/explain?streams=s", headers=theirs)
            assert answer.status == 200
        assert begun == 2, "the others of the same client wait for their turn"
        goes_on.set()
        assert [(await each).status for each in asked] == [200] * 4
