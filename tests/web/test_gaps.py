"""Missing events are reported by a gap frame, and never silently skipped."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.client import IncompleteResponse
from tests.support.gateway import NDJSON, Site

pytestmark = pytest.mark.anyio

T0 = 1_700_000_000_000


async def kept(site: Site, *, oldest: int, end: int) -> str:
    topic = await site.topic()
    for n in range(end):
        await site.produce(topic, {"n": n}, timestamp_ms=T0 + n)
    await site.forget_before(topic, oldest)
    return topic


def entry(topic: str, offset: int, timestamp: int | None = None) -> dict[str, Any]:
    fields: dict[str, Any] = {"topic": topic, "partition": 0, "offset": offset}
    return fields if timestamp is None else {**fields, "timestamp": timestamp}


async def test_an_offset_before_the_oldest_is_a_gap(
    site: Site,
) -> None:
    topic = await kept(site, oldest=5, end=8)
    for mark in (entry(topic, 2), entry(topic, 2, T0 + 1)):
        async with (
            site.gateway({"s": [topic]}) as gateway,
            gateway.stream("s", last_event_id=[mark]) as stream,
        ):
            gap, *rest = await stream.frames(4)
        assert gap.event == "gap"
        assert gap.position == {(topic, 0): 5}
        assert gap.document["partitions"] == [
            {
                "topic": topic,
                "partition": 0,
                "requested": 2,
                "available": {"oldest": 5, "end": 8},
                "resumed": 5,
                "cause": "retention",
            }
        ]
        assert [frame.document["n"] for frame in rest] == [5, 6, 7]


@pytest.mark.parametrize("offset", [9, 99_999_999_999, 10**20])
async def test_an_offset_beyond_the_end_is_a_gap(site: Site, offset: int) -> None:
    topic = await kept(site, oldest=0, end=2)
    async with (
        site.gateway({"s": [topic]}) as gateway,
        gateway.stream("s", last_event_id=[entry(topic, offset)]) as stream,
    ):
        gap = await stream.frame()
        await site.produce(topic, {"n": 2})
        frame = await stream.frame()
    assert gap.event == "gap"
    assert gap.position == {(topic, 0): 2}
    [reported] = gap.document["partitions"]
    assert reported["requested"] == min(offset, 2**63 - 1)
    assert (reported["resumed"], reported["cause"]) == (2, "beyond_end")
    assert reported["available"] == {"oldest": 0, "end": 2}
    assert frame.place == (topic, 0, 2)


async def test_one_gap_report_names_exactly_the_affected_partitions(site: Site) -> None:
    old, new, well = [await kept(site, oldest=o, end=6) for o in (3, 0, 0)]
    header = [entry(old, 1), entry(new, 77), entry(well, 5)]
    async with (
        site.gateway({"s": [old, new, well]}) as gateway,
        gateway.stream("s", last_event_id=header) as stream,
    ):
        gap, *rest = await stream.frames(5)
        reported = {p["topic"]: p["cause"] for p in gap.document["partitions"]}
    assert reported == {old: "retention", new: "beyond_end"}
    assert gap.position == {(old, 0): 3, (new, 0): 6, (well, 0): 5}
    assert {frame.event for frame in rest} == {"message"}


async def test_the_gap_frame_is_the_first_chunk_after_ok(site: Site) -> None:
    topic = await kept(site, oldest=1, end=2)
    async with (
        site.gateway({"s": [topic]}) as gateway,
        gateway.stream("s", last_event_id=[entry(topic, 0)]) as stream,
    ):
        first = await stream.chunk() or b""
    assert first.startswith(b":ok\n\nevent: gap\ndata: {")


async def test_the_id_of_a_gap_frame_leads_past_the_gap(site: Site) -> None:
    topic = await kept(site, oldest=5, end=8)
    async with site.gateway({"s": [topic]}) as gateway:
        async with gateway.stream("s", last_event_id=[entry(topic, 0, T0)]) as stream:
            gap = await stream.frame()
        async with gateway.stream("s", last_event_id=gap.id) as stream:
            frame = await stream.frame()
    assert (frame.event, frame.document["n"]) == ("message", 5)


async def test_in_ndjson_a_header_reports_the_gap(site: Site) -> None:
    topic = await kept(site, oldest=5, end=8)
    async with site.gateway({"s": [topic]}) as gateway:
        async with gateway.stream("s", NDJSON, last_event_id=[entry(topic, 2)]) as stream:
            reported = json.loads(stream.head.get("x-eventstreams-gap") or "")
            lines = await stream.lines(3)
        async with gateway.stream("s", NDJSON, last_event_id=[entry(topic, 5)]) as stream:
            assert stream.head.get("x-eventstreams-gap") is None
    assert reported["partitions"][0]["cause"] == "retention"
    assert [json.loads(line)["n"] for line in lines] == [5, 6, 7]


async def test_the_gap_header_is_bounded_and_counts_the_rest(embedded: Site) -> None:
    topics = [await kept(embedded, oldest=5, end=8) for _ in range(40)]
    async with embedded.gateway({"s": topics}) as gateway:
        marks = [entry(topic, 2) for topic in topics]
        async with gateway.stream("s", NDJSON, last_event_id=marks) as stream:
            header = stream.head.get("x-eventstreams-gap") or ""
        async with gateway.stream(
            "s", NDJSON, last_event_id=marks, status=410, gap="fail"
        ) as refused:
            whole = json.loads(await refused.client.body(refused.head))
    reported = json.loads(header)
    assert len(header) <= 2048
    assert reported["partitions"] == whole["partitions"][: len(reported["partitions"])] != []
    assert len(reported["partitions"]) + reported["left_out"] == len(whole["partitions"]) == 40


async def test_offsets_at_the_oldest_and_at_the_end_are_no_gaps(site: Site) -> None:
    topic = await kept(site, oldest=5, end=8)
    async with site.gateway({"s": [topic]}) as gateway:
        async with gateway.stream("s", last_event_id=[entry(topic, 5)]) as stream:
            frames = await stream.frames(3)
        async with gateway.stream("s", last_event_id=[entry(topic, 8)]) as stream:
            await site.produce(topic, {"n": 8})
            frames += await stream.frames(1)
    assert [(f.event, f.document["n"]) for f in frames] == [("message", n) for n in range(5, 9)]


SMALL = {
    "tail_bytes_max": 1,
    "cache_bytes_max": 400_000,
    "block_bytes": 100_000,
    "batch_bytes_max": 100_000,
}
COUNT = 150
KEPT = 10


@pytest.mark.parametrize("as_json", [False, True], ids=["sse", "ndjson"])
async def test_retention_during_a_stream_is_reported_as_a_gap(site: Site, as_json: bool) -> None:
    topic = await site.topic()
    for _ in range(COUNT // 10):
        await site.produce(topic, *[{"pad": "x" * 60_000}] * 10)
    headers = NDJSON if as_json else None
    async with (
        site.gateway({"s": [topic]}, **SMALL) as gateway,
        gateway.stream("s", headers, receive_buffer=500_000, since="0") as stream,
    ):
        await stream.chunk()
        stream.client.pause()  # more follows than sockets buffer
        await site.forget_before(topic, COUNT - KEPT)
        stream.client.resume()
        if as_json:
            with pytest.raises(IncompleteResponse):
                await stream.rest()
            assert len(stream.chunks) > 1
            return
        frames = [await stream.frame()]
        while frames[-1].event == "gap" or frames[-1].place[2] != COUNT - 1:
            frames.append(await stream.frame())
    [gap] = [frame for frame in frames if frame.event == "gap"]
    [reported] = gap.document["partitions"]
    assert reported["requested"] == frames[frames.index(gap) - 1].position[topic, 0]
    assert reported["resumed"] == COUNT - KEPT == gap.position[topic, 0]
    offsets = [frame.place[2] for frame in frames if frame is not gap]
    assert offsets == [*range(reported["requested"]), *range(COUNT - KEPT, COUNT)]
