"""Streams with until, limit or max_seconds end by themselves, and can be resumed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.model.stop_condition import StopCondition, unwrap
from tests.support.client import Answer, frames_of
from tests.support.clock import StoppedClock
from tests.support.gateway import T0, Served, Site, filled, messages_of

pytestmark = pytest.mark.anyio

BROWSER = {"Sec-Fetch-Site": "same-origin"}


def numbers(answer: Answer) -> list[int]:
    return [frame.document["n"] for frame in messages_of(answer)]


async def get(gateway: Served, query: str, last_id: str | None = None) -> Answer:
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    return await gateway.get(f"/v2/stream/s?{query}", headers)


async def test_a_stream_ends_cleanly_at_its_bound(site: Site) -> None:
    async with site.gateway({"s": [await filled(site, count=6)]}) as gateway:
        for query, expected in (
            ("since=earliest&limit=1", [0]),
            ("since=earliest&limit=4", [0, 1, 2, 3]),
            (f"since={T0}&until={T0 + 3000}", [0, 1, 2]),
            (f"since={T0 + 1000}&until={T0 + 1000}", []),
            (f"since={T0 + 2000}&until={T0 + 10**6}", [2, 3, 4, 5]),
            (f"since=earliest&until={T0 + 5001}&limit=2", [0, 1]),
            ("since=earliest&until=-1s", [0, 1, 2, 3, 4, 5]),
            ("since=-1s&until=-1s", []),
        ):
            assert numbers(await get(gateway, query)) == expected, query


async def test_ndjson_ends_at_its_bound(embedded: Site) -> None:
    async with embedded.gateway({"s": [await filled(embedded)]}) as gateway:
        answer = await gateway.get(
            "/v2/stream/s?since=earliest&until=-1s", {"Accept": "application/json"}
        )
        lines = [json.loads(line)["n"] for line in answer.body.split(b"\n") if line]
        assert lines == [0, 1, 2, 3]


async def test_each_partition_ends_at_the_requested_time(site: Site) -> None:
    topic = await filled(site, count=5, partitions=3)
    async with site.gateway({"s": [topic]}) as gateway:
        answer = await get(gateway, f"since=earliest&until={T0 + 2000}")
        assert sorted(numbers(answer)) == [0, 0, 0, 1, 1, 1]


async def test_a_limit_counts_what_is_still_to_come(site: Site) -> None:
    topic = await filled(site, count=2)
    async with (
        site.gateway({"s": [topic]}) as gateway,
        gateway.opened("/v2/stream/s?since=earliest&limit=4") as stream,
    ):
        assert [d["n"] for d in await stream.documents(2)] == [0, 1]
        await site.produce(topic, {"n": 2})
        assert (await stream.frame()).document["n"] == 2
        await site.produce(topic, {"n": 3}, {"n": 4})
        assert (await stream.frame()).document["n"] == 3
        assert await stream.chunk() is None


async def test_max_seconds_ends_a_quiet_stream(embedded: Site) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        assert numbers(await get(gateway, "max_seconds=0.2")) == []


async def test_until_a_future_time_sends_live_events(
    embedded: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await embedded.topic()
    clock = StoppedClock(monkeypatch)
    async with embedded.gateway({"s": [topic]}) as gateway:
        until = clock.now_ms + 200
        async with gateway.opened(f"/v2/stream/s?until={until}") as stream:
            await stream.opened()
            await embedded.produce(topic, {"n": 0})
            assert (await stream.frame()).document["n"] == 0
            clock.now_s += 1
            await embedded.produce(topic, {"n": 1}, timestamp_ms=until)
            rest = b"".join(await stream.rest())
            assert [f.document["n"] for f in frames_of(rest)] in ([], [1]), "it may arrive early"


@pytest.mark.parametrize("query", ["limit=4", f"until={T0 + 4000}"])
async def test_a_reconnected_client_gets_the_rest_and_then_204(embedded: Site, query: str) -> None:
    topic = await filled(embedded, count=6)
    async with embedded.gateway({"s": [topic]}) as gateway:
        whole = messages_of(await get(gateway, f"since=earliest&{query}"))
        assert [f.document["n"] for f in whole] == [0, 1, 2, 3]
        for number, frame in enumerate(whole, 1):
            answer = await get(gateway, f"since=earliest&{query}", frame.id)
            if number < len(whole):
                assert numbers(answer) == [0, 1, 2, 3][number:]
            else:
                assert (answer.status, answer.body) == (204, b"")
                assert answer.head.get("content-length") is None


async def test_a_browser_without_matches_gets_204_on_reconnect(embedded: Site) -> None:
    """It has an id from the first or last checkpoint."""
    async with embedded.gateway({"s": [await filled(embedded)]}) as gateway:
        for query in ("since=-1s&until=-1s", "max_seconds=0.1"):
            answer = await gateway.get(f"/v2/stream/s?{query}", BROWSER)
            assert answer.status == 200
            last = [line[4:] for line in answer.body.split(b"\n") if line.startswith(b"id: ")][-1]
            back = await gateway.get(
                f"/v2/stream/s?{query}", {**BROWSER, "Last-Event-ID": last.decode()}
            )
            assert back.status == 204, query


async def test_a_final_id_alone_leads_to_204(
    embedded: Site,
) -> None:
    """The last events did not match, so the id of the last match is not the stream's end."""
    query = "since=earliest&until=-1s&filter=event.n%3D%3D1"
    async with embedded.gateway({"s": [await filled(embedded)]}) as gateway:
        answer = await get(gateway, query)
        *_, last = answer.body.decode().strip().split("\n")
        back = await get(gateway, query, last.removeprefix("id: "))
        assert back.status == 204


async def test_a_relative_time_keeps_its_first_meaning(embedded: Site) -> None:
    """Otherwise `until=-1s` would advance with every reconnect."""
    topic = await filled(embedded)
    async with embedded.gateway({"s": [topic]}) as gateway:
        first = messages_of(await get(gateway, "since=earliest&until=-1s"))
        assert json.loads(first[-1].id or "")["until"] > T0
        stop_condition, _ = unwrap(first[-1].id or "")
        again = messages_of(await get(gateway, "since=earliest&until=-1s", first[0].id))
        assert unwrap(again[-1].id or "")[0] == stop_condition


async def test_head_of_a_bounded_stream_is_that_of_any(embedded: Site) -> None:
    async with embedded.gateway({"s": [await filled(embedded)]}) as gateway:
        answer = await gateway.ask("HEAD", "/v2/stream/s?limit=1")
        assert (answer.status, answer.body) == (200, b"")


REFUSED = {
    "limit=0": "limit=0 is not a number of events: use a whole number of at least 1",
    "limit=-1": "limit=-1 is not",
    "limit=1.5": "limit=1.5 is not",
    "limit=ten": "limit=ten is not",
    "limit=" + "9" * 30: "limit=999",
    "limit=1&limit=2": "limit is given more than once",
    "max_seconds=0": "max_seconds=0 is not a number of seconds greater than 0",
    "max_seconds=-5": "max_seconds=-5 is not",
    "max_seconds=1e3": "max_seconds=1e3 is not",
    "heartbeat=often": "heartbeat=often is not one of: checkpoint, comment",
    "gap=ignore": "gap=ignore is not one of: tell, fail",
}


async def test_an_invalid_bound_is_refused_with_the_expected_form(embedded: Site) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        for query, detail in REFUSED.items():
            answer = await get(gateway, query)
            assert answer.status == 400, query
            assert answer.json()["type"] == "invalid_parameter"
            assert detail in answer.json()["detail"]
        for query in ("until=soon", "until=-5x", "until=2026-13-01"):
            answer = await get(gateway, query)
            assert answer.status == 400, query
            assert answer.json()["type"] == "invalid_timestamp"
        for field in ('"left":-1', '"until":true', '"left":"2"'):
            last_id = f'{{{field},"id":["x"]}}'
            answer = await get(gateway, "", last_id)
            assert answer.status == 400, last_id


@pytest.mark.parametrize("bound", ["", "&limit=9", "&until=-1s"])
async def test_an_id_of_many_partitions_is_an_equivalent_token(embedded: Site, bound: str) -> None:
    partitions = 40
    topic = await filled(embedded, count=1, partitions=partitions)
    async with embedded.gateway({"s": [topic]}) as gateway:
        async with gateway.opened(f"/v2/stream/s?since=earliest{bound}") as stream:
            one, two = await stream.frames(2)
        assert "v1." in two.id
        looked_at = {one.place, two.place}
        assert two.position == {
            (topic, number): int((topic, number, 0) in looked_at) for number in range(partitions)
        }
        rest = numbers(await get(gateway, "since=earliest&until=-1s", two.id))
        assert len(rest) == (7 if "limit" in bound else partitions - 2)


numbers_or_none = st.none() | st.integers(0, 2**63 - 1)


@given(numbers_or_none, numbers_or_none, numbers_or_none, st.booleans())
def test_an_id_carries_the_extent_of_its_stream(
    until: int | None, deadline: int | None, left: int | None, token: bool
) -> None:
    stop_condition = StopCondition(until, deadline, left)
    inner = "v1.abc-_" if token else '[{"topic":"t","partition":0,"offset":1,"timestamp":2}]'
    assert unwrap(stop_condition.wrap(inner.encode()).decode()) == (stop_condition, inner)


@given(st.text())
def test_other_ids_are_returned_unchanged(text: str) -> None:
    stop_condition, rest = unwrap(text)
    assert stop_condition is not None or rest == text
