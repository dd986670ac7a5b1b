"""Requests are explained without being carried out."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from eventstreams.model.event import Record
from eventstreams.model.timestamp import iso_of
from eventstreams.web.explain import Explain
from tests.support.gateway import T0, Site, filled

pytestmark = pytest.mark.anyio


async def test_a_request_is_explained_as_parsed(site: Site) -> None:
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


@pytest.mark.parametrize(
    ("query", "warning"),
    [
        (f"since={T0 + 2000}&until={T0 + 1000}", "until is before since, so there are no events"),
        (f"until={T0}", "until is in the past and since is missing, so there are no events"),
        (f"since={T0}&until={T0 + 1000}", None),
        (f"since={T0}&until=-1s", None),
    ],
)
async def test_an_end_before_the_start_is_a_warning(
    embedded: Site, query: str, warning: str | None
) -> None:
    topic = await filled(embedded, count=4)
    async with embedded.gateway({"s": [topic]}) as gateway:
        said = (await gateway.get(f"/v2/explain?streams=s&{query}")).json()
        assert said["warnings"] == ([warning] if warning else [])
        assert said["recent"]["matched"] == (0 if warning else 4)
        async with gateway.opened(f"/v2/stream/s?{query}") as stream:
            assert stream.head.get("x-eventstreams-warning") == warning


async def test_an_id_has_no_start_that_an_end_could_precede(embedded: Site) -> None:
    topic = await filled(embedded, count=4)
    async with embedded.gateway({"s": [topic]}) as gateway:
        mine = {"Last-Event-ID": f'[{{"topic":"{topic}","partition":0,"offset":0}}]'}
        query = f"since={T0 + 2000}&until={T0 + 1000}"
        said = (await gateway.get(f"/v2/explain?streams=s&{query}", headers=mine)).json()
        assert said["warnings"] == []
        assert said["recent"]["matched"] == 4


async def test_explain_refuses_what_a_stream_refuses(embedded: Site) -> None:
    topic = await filled(embedded)
    async with embedded.gateway({"s": [topic]}) as gateway:
        for query in ("filter=event.", "limit=0", "since=soon", "fields=a..b", "sample=2"):
            explained = (await gateway.get(f"/v2/explain?streams=s&{query}")).json()
            streamed = (await gateway.get(f"/v2/stream/s?{query}")).json()
            del explained["uri"], streamed["uri"]
            assert explained == streamed, query
        assert (await gateway.get("/v2/explain?streams=nope")).status == 400
        assert "streams is missing" in (await gateway.get("/v2/explain")).json()["detail"]


async def test_the_cost_of_a_filter_is_explained(embedded: Site) -> None:
    cheap, costly = "event.n == 3", "event.tags.exists(t, t == 'a' || t == 'b')"
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        reported = [
            (await gateway.get(f"/v2/explain?streams=s&filter={quote(text)}")).json()
            for text in (cheap, costly)
        ]
        assert (
            0 < reported[0]["filter_microseconds"] < 10 < reported[1]["filter_microseconds"] < 200
        )
        plain = (await gateway.get("/v2/explain?streams=s&fields=n")).json()
        assert plain["filter_microseconds"] is None


@pytest.mark.parametrize(
    ("query", "by", "text"),
    [
        ({"filter": "event.n == 3"}, ["event.n"], "indexed by event.n, 25% of recent events"),
        (
            {"filter": "event.a == 'x' || event.n in [1, 2]"},
            ["event.a", "event.n"],
            "indexed by event.a, event.n, 50% of recent events examined",
        ),
        ({"sample": "0.5"}, ["sample"], "indexed by sample, "),
        ({"filter": "false"}, [], "indexed by nothing: it never matches, 0% of"),
        ({"filter": "event.n > 3"}, None, "evaluated for every event"),
        (
            {"filter": "event.tags.exists(t, t.contains('a') || t.contains('b'))"},
            None,
            "evaluated for every event, in turns of this client, because it is costly",
        ),
    ],
)
async def test_how_a_filter_is_evaluated_is_explained(
    embedded: Site, query: dict[str, str], by: list[str] | None, text: str
) -> None:
    topic = await embedded.topic()
    await embedded.produce(topic, *({"n": n} for n in range(4)))
    async with embedded.gateway({"s": [topic]}) as gateway:
        target = f"/v2/explain?{urlencode({'streams': 's', **query})}"
        evaluation = (await gateway.get(target)).json()["evaluation"]
        assert evaluation["by"] == by
        assert evaluation["text"].startswith(text)
        plain = (await gateway.get("/v2/explain?streams=s&fields=n")).json()
        assert plain["evaluation"] is None


async def test_an_empty_stream_has_no_share(embedded: Site) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        said = (await gateway.get("/v2/explain?streams=s")).json()
        assert said["recent"]["share"] is None
        assert said["gaps"] == []


async def test_the_newest_events_are_examined_whatever_their_size(site: Site) -> None:
    topic = await site.topic()
    size = 60_000
    for n in range(40):
        records = ({"n": 10 * n + i, "text": "x" * size} for i in range(10))
        await site.produce(topic, *records, timestamp_ms=T0 + n * 1000)
    async with site.gateway({"s": [topic]}) as gateway:
        recent = (await gateway.get("/v2/explain?streams=s&filter=event.n%3E%3D395")).json()[
            "recent"
        ]
    assert recent["to"] == iso_of(T0 + 39_000)
    assert recent["matched"] == 5


async def test_rates_cover_a_time_known_for_all_partitions_up_to_now(
    embedded: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a quiet partition would extend the time, and count as much as a busy one."""
    busy, quiet = await embedded.topic(), await embedded.topic()
    for topic, every_s in ((busy, 1), (quiet, 10)):
        for n in range(600):
            at = T0 + (6000 - (600 - n) * every_s) * 1000
            await embedded.log.append(
                [Record(topic, b'{"quiet":%d}' % (topic == quiet), None, at, 0)]
            )
    async with embedded.gateway({"s": [busy, quiet]}) as gateway:
        target = "/v2/explain?streams=s&filter=event.quiet%3D%3D1"
        rates: list[float] = []
        for quiet_s in (0, 4_500):
            now_ms = T0 + (6_000 + quiet_s) * 1000
            monkeypatch.setattr("eventstreams.web.explain.now_ms", lambda now_ms=now_ms: now_ms)
            recent = (await gateway.get(target)).json()["recent"]
            rates.append(recent["events_per_second"])
    assert recent["looked_at"] == 500 + 50
    assert recent["matched"] == 50
    assert rates == pytest.approx([0.1, 0.01], rel=0.05)


async def test_explain_shows_parsed_times_and_warnings(site: Site) -> None:
    topic = await filled(site, count=4)
    await site.forget_before(topic, 1)
    future = "20991231235959"
    cases = {
        f"since={T0 + 2000}": (T0 + 2000, None),
        "since=1700000001": (T0 + 1000, "starts with the oldest event that is stored"),
        "since=5": (5, "starts with the oldest event that is stored"),
        f"since={future}": (4_102_444_799_000, "in the future: starts with the next event"),
        f"since=5&last-event-id=%5B%22{topic}%22%5D": (5, "ignored: the id says where to start"),
    }
    async with site.gateway({"s": [topic]}) as gateway:
        for query, (milliseconds, note) in cases.items():
            said = (await gateway.get(f"/v2/explain?streams=s&{query}")).json()["since"]
            assert (said["milliseconds"], said["note"]) == (milliseconds, note), query
        assert (await gateway.get("/v2/explain?streams=s")).json()["since"] is None


async def test_explanations_do_not_delay_other_clients(
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
        assert begun == 2, "other requests of the client wait for their turn"
        goes_on.set()
        assert [(await each).status for each in asked] == [200] * 4
