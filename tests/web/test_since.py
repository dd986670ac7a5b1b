"""`since` accepts the usual forms of a time, and refuses others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from eventstreams.fanout.hub import Hub
from eventstreams.fanout.resume import Resumed
from eventstreams.log.sqlite.log import SqliteLog
from eventstreams.model.event import Partition
from eventstreams.model.position import PartitionCursor
from tests.support.gateway import Site

pytestmark = pytest.mark.anyio

T0 = 1_795_451_978_451  # 2026-11-23T16:39:38.451Z
MINUTE = 60_000
COUNT = 10


async def filled(site: Site) -> str:
    """Fill a topic with ten records, one per minute, the sixth at T0."""
    topic = await site.topic()
    for n in range(COUNT):
        await site.produce(topic, {"n": n}, timestamp_ms=T0 + (n - 5) * MINUTE)
    return topic


UNDERSTOOD = [
    ("since=2026-11-23T16:39:38.451Z", 5),
    ("since=2026-11-23T16:39:38.451%2B00:00", 5),
    ("since=2026-11-23T16:39:38.451+00:00", 5),
    ("since=2026-11-23T17:39:38.451+01:00", 5),
    ("since=2026-11-23T15:39:38.451-01:00", 5),
    ("since=2026-11-23T16:39:38.451+0000", 5),
    ("since=2026-11-23T16:39:38.452Z", 6),
    ("since=2026-11-23T16:39:38.451999", 5),
    ("since=2026-11-23T16:39:38", 5),
    ("since=2026-11-23T16:40", 6),
    ("since=2026-11-23T16:40Z", 6),
    ("since=2026-11-23%2016:40:00", 6),
    ("since=2026-11-23+16:40:00.123456", 6),
    ("since=2026-11-23", 0),
    ("since=Mon,%2023%20Nov%202026%2016:40:00%20GMT", 6),
    ("since=Mon,+23+Nov+2026+16:40:00+%2B0000", 6),
    (f"since={T0}", 5),
    (f"since={T0 + 1}", 6),
    ("since=0", 0),
    ("since=-1", 0),
    ("since=2026", 0),
    ("since=2026-11", 0),
    ("since=2026-12", COUNT),
    ("since=1795451978", 5),
    ("since=1795451978.4509", 5),
    ("since=1795451979", 6),
    ("since=20261123163938", 5),
    ("since=20261123163939", 6),
    ("since=20261123", 0),
    ("since=20261124", COUNT),
    ("since=2026-11-23T24:00:00Z", COUNT),
    ("since=2026-11-22T24:00:00Z", 0),
    ("since=23%20Nov%202026", 0),
    ("since=Nov+23,+2026+16:40", 6),
    ("since=Mon%20Nov%2023%202026%2016:40:00%20GMT+0000%20(Coordinated%20Universal%20Time)", 6),
    ("since=1970-01-01T00:00:00Z", 0),
    ("since=1969-01-01", 0),
    ("since=", COUNT),
    ("since", COUNT),
    ("since=%20", COUNT),
    ("_=0", COUNT),
    ("", COUNT),
    ("since=2026-11-24", COUNT),
    ("since=2999-01-01T00:00:00Z", COUNT),
    (f"since={T0 * 2}", COUNT),
]
"""Queries, each with the first record to read; COUNT is the next record."""


async def test_since_starts_at_the_first_record_at_or_after_a_time_in_any_usual_form(
    site: Site,
) -> None:
    topic = await filled(site)
    async with site.gateway({"s": [topic]}) as gateway:
        end = COUNT
        for query, first in UNDERSTOOD:
            async with gateway.opened(f"/v2/stream/s?{query}") as stream:
                assert stream.head.status == 200, query
                await stream.opened()
                expected = first if first < COUNT else end
                if first == COUNT:
                    await site.produce(topic, {"n": end}, timestamp_ms=T0 + 4 * MINUTE)
                    end += 1
                assert (await stream.frame()).document["n"] == expected, query


REFUSED = [
    "since=garbage",
    "since=now",
    "since=2026-13-45",
    "since=2026-02-30",
    "since=1%20hour%20ago",
    "since=20261123T000000Z",
    "since=foo%201",
    "since=2026-11-23T25:00:00Z",
    "since=1&since=2",
    "since=2026-11-23&since=2026-11-23",
    "since[a]=1",
    "since%5Ba%5D=1",
    "since=NaN",
    "since=1e400",
    "since=20261323163938",
    "since=17954519784510",
    "since=1795451978451000",
    "since=999999999999999999",
    "until=1795451978451000&since=0",
    "since=2026-11-23T16:39:38%00",
    "since=%ff%fe",
    "since=" + "9" * 5000,
]


async def test_an_invalid_since_is_an_invalid_timestamp(embedded: Site) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        for query in REFUSED:
            answer = await gateway.get(f"/v2/stream/s?{query}")
            assert answer.status == 400, query
            assert answer.json()["type"] == "invalid_timestamp"
            assert answer.json()["title"] == "Invalid timestamp"
            assert answer.json()["uri"] == f"/v2/stream/s?{query}"


async def test_the_detail_quotes_the_decoded_value(embedded: Site) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        answer = await gateway.get("/v2/stream/s?since=an%20hour+ago")
    assert "an hour ago" in answer.json()["detail"]


async def test_an_invalid_since_is_refused_beside_a_valid_header(embedded: Site) -> None:
    topic = await embedded.topic()
    header = {"Last-Event-ID": f'[{{"topic":"{topic}","partition":0,"offset":0}}]'}
    async with embedded.gateway({"s": [topic]}) as gateway:
        answer = await gateway.get("/v2/stream/s?since=garbage", header)
    assert (answer.status, answer.json()["type"]) == (400, "invalid_timestamp")


async def test_a_time_is_looked_up_in_each_partition_separately(site: Site) -> None:
    early, late = await site.topic(2), await site.topic()
    for n in range(4):
        await site.produce(early, {"n": n}, timestamp_ms=T0 + n)
        await site.produce(late, {"n": n}, timestamp_ms=T0 + 10 * n)
    async with (
        site.gateway({"a": [early], "b": [late]}) as gateway,
        gateway.stream("a,b", since=str(T0 + 3)) as stream,
    ):
        places = [frame.place for frame in await stream.frames(4)]
    assert sorted(places) == sorted([(early, 0, 3), (late, 0, 1), (late, 0, 2), (late, 0, 3)])


async def test_since_before_the_oldest_event_is_no_gap(
    site: Site,
) -> None:
    topic = await filled(site)
    await site.forget_before(topic, 4)
    async with (
        site.gateway({"s": [topic]}) as gateway,
        gateway.stream("s", since="2026-01-01") as stream,
    ):
        frame = await stream.frame()
    assert (frame.event, frame.document["n"]) == ("message", 4)


async def test_since_reads_the_log_once_for_all_partitions(
    embedded: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 300
    topic = await embedded.topic(count)
    for n in range(0, count, 50):
        await embedded.produce(topic, {"n": n}, partition=n, timestamp_ms=T0)
    asked: list[int] = []
    offset_at = SqliteLog.offset_at

    async def counting(
        log: SqliteLog, times: Mapping[Partition, int]
    ) -> dict[Partition, int | None]:
        asked.append(len(times))
        return await offset_at(log, times)

    monkeypatch.setattr(SqliteLog, "offset_at", counting)
    async with embedded.gateway({"s": [topic]}) as gateway:
        async with gateway.stream("s", since=str(T0)) as stream:
            seen = {document["n"] for document in await stream.documents(6)}
        assert seen == set(range(0, count, 50))
        assert asked == [count]


async def test_few_partitions_of_an_id_are_looked_up_at_the_same_time(
    embedded: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 300
    topic = await embedded.topic(count)
    now = most = 0
    resume = Hub.resume

    async def counting(hub: Hub, mark: PartitionCursor) -> Resumed:
        nonlocal now, most
        now += 1
        most = max(most, now)
        try:
            await asyncio.sleep(0)
            return await resume(hub, mark)
        finally:
            now -= 1

    monkeypatch.setattr(Hub, "resume", counting)
    # The first record that is left can only be found in the log.
    position = [{"topic": topic, "partition": n, "offset": -2} for n in range(count)]
    async with (
        embedded.gateway({"s": [topic]}) as gateway,
        gateway.stream("s", last_event_id=position) as stream,
    ):
        await embedded.produce(topic, {"n": 1}, partition=count - 1)
        assert (await stream.frame()).document["n"] == 1
    assert 1 < most <= 64
