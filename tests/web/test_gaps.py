"""Offsets that can't be had: told by a gap frame, never jumped over in silence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.web.client import Torn
from tests.web.gateway import NDJSON, Site

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


async def test_below_the_oldest_kept_a_gap_is_told_first_and_reading_starts_at_the_oldest(
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
async def test_beyond_the_end_a_gap_is_told_and_only_what_is_new_is_sent(
    site: Site, offset: int
) -> None:
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
    [told] = gap.document["partitions"]
    assert told["requested"] == min(offset, 2**63 - 1)
    assert (told["resumed"], told["cause"]) == (2, "beyond_end")
    assert told["available"] == {"oldest": 0, "end": 2}
    assert frame.place == (topic, 0, 2)


async def test_a_gap_is_told_once_for_all_its_partitions_and_only_for_those(site: Site) -> None:
    old, new, well = [await kept(site, oldest=o, end=6) for o in (3, 0, 0)]
    header = [entry(old, 1), entry(new, 77), entry(well, 5)]
    async with (
        site.gateway({"s": [old, new, well]}) as gateway,
        gateway.stream("s", last_event_id=header) as stream,
    ):
        gap, *rest = await stream.frames(5)
        told = {p["topic"]: p["cause"] for p in gap.document["partitions"]}
    assert told == {old: "retention", new: "beyond_end"}
    assert gap.position == {(old, 0): 3, (new, 0): 6, (well, 0): 5}
    assert {frame.event for frame in rest} == {"message"}


async def test_the_gap_frame_comes_in_the_first_chunk_after_ok(site: Site) -> None:
    topic = await kept(site, oldest=1, end=2)
    async with (
        site.gateway({"s": [topic]}) as gateway,
        gateway.stream("s", last_event_id=[entry(topic, 0)]) as stream,
    ):
        first = await stream.chunk() or b""
    assert first.startswith(b":ok\n\nevent: gap\ndata: {")


async def test_resuming_with_the_id_of_a_gap_frame_tells_no_gap_again(site: Site) -> None:
    topic = await kept(site, oldest=5, end=8)
    async with site.gateway({"s": [topic]}) as gateway:
        async with gateway.stream("s", last_event_id=[entry(topic, 0, T0)]) as stream:
            gap = await stream.frame()
        async with gateway.stream("s", last_event_id=gap.id) as stream:
            frame = await stream.frame()
    assert (frame.event, frame.document["n"]) == ("message", 5)


async def test_in_ndjson_a_header_tells_the_gap(site: Site) -> None:
    topic = await kept(site, oldest=5, end=8)
    async with site.gateway({"s": [topic]}) as gateway:
        async with gateway.stream("s", NDJSON, last_event_id=[entry(topic, 2)]) as stream:
            told = json.loads(stream.head.get("x-eventstreams-gap") or "")
            lines = await stream.lines(3)
        async with gateway.stream("s", NDJSON, last_event_id=[entry(topic, 5)]) as stream:
            assert stream.head.get("x-eventstreams-gap") is None
    assert told["partitions"][0]["cause"] == "retention"
    assert [json.loads(line)["n"] for line in lines] == [5, 6, 7]


async def test_the_header_of_many_gaps_is_bounded_and_counts_the_rest(embedded: Site) -> None:
    topics = [await kept(embedded, oldest=5, end=8) for _ in range(40)]
    async with embedded.gateway({"s": topics}) as gateway:
        marks = [entry(topic, 2) for topic in topics]
        async with gateway.stream("s", NDJSON, last_event_id=marks) as stream:
            header = stream.head.get("x-eventstreams-gap") or ""
        async with gateway.stream(
            "s", NDJSON, last_event_id=marks, status=410, gap="fail"
        ) as refused:
            whole = json.loads(await refused.client.body(refused.head))
    told = json.loads(header)
    assert len(header) <= 2048
    assert told["partitions"] == whole["partitions"][: len(told["partitions"])] != []
    assert len(told["partitions"]) + told["left_out"] == len(whole["partitions"]) == 40


async def test_an_offset_at_the_oldest_or_at_the_end_is_no_gap(site: Site) -> None:
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
async def test_retention_that_overtakes_a_reader_is_told_or_ends_ndjson_abruptly(
    site: Site, as_json: bool
) -> None:
    topic = await site.topic()
    for _ in range(COUNT // 10):
        await site.produce(topic, *[{"pad": "x" * 60_000}] * 10)
    headers = NDJSON if as_json else None
    async with (
        site.gateway({"s": [topic]}, **SMALL) as gateway,
        gateway.stream("s", headers, receive_buffer=500_000, since="0") as stream,
    ):
        await stream.chunk()
        stream.client.pause()  # more is to come than sockets hold
        await site.forget_before(topic, COUNT - KEPT)
        stream.client.resume()
        if as_json:
            with pytest.raises(Torn):
                await stream.rest()
            assert len(stream.chunks) > 1
            return
        frames = [await stream.frame()]
        while frames[-1].event == "gap" or frames[-1].place[2] != COUNT - 1:
            frames.append(await stream.frame())
    [gap] = [frame for frame in frames if frame.event == "gap"]
    [told] = gap.document["partitions"]
    assert told["requested"] == frames[frames.index(gap) - 1].position[topic, 0]
    assert told["resumed"] == COUNT - KEPT == gap.position[topic, 0]
    offsets = [frame.place[2] for frame in frames if frame is not gap]
    assert offsets == [*range(told["requested"]), *range(COUNT - KEPT, COUNT)]
