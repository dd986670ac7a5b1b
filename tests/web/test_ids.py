"""The `id:` of a frame has an entry for each partition, from which a client can resume."""

from __future__ import annotations

import json

import pytest

from tests.support.gateway import Site

pytestmark = pytest.mark.anyio


async def test_every_id_has_the_next_offset_and_time_of_every_partition(
    site: Site,
) -> None:
    """An epoch follows them if the log has epochs."""
    eqiad, codfw = await site.topic(2), await site.topic(1)
    extra = {"epoch"} if site.has_epochs else set[str]()
    async with site.gateway({"s": [eqiad, codfw]}) as gateway, gateway.stream("s") as stream:
        await stream.opened()
        await site.produce(codfw, {}, timestamp_ms=1_700_000_000_001)
        first = json.loads((await stream.frame()).id)
        await site.produce(eqiad, {}, timestamp_ms=1_700_000_000_002, partition=1)
        second = json.loads((await stream.frame()).id)
    places = [(eqiad, 0), (eqiad, 1), (codfw, 0)]
    for entries in (first, second):
        assert [(entry["topic"], entry["partition"]) for entry in entries] == places
        assert all(list(e)[:4] == ["topic", "partition", "offset", "timestamp"] for e in entries)
        assert all(set(e) - {"topic", "partition", "offset", "timestamp"} <= extra for e in entries)
    assert [entry["offset"] for entry in first] == [0, 0, 1]
    assert [entry["offset"] for entry in second] == [0, 1, 1]
    assert first[2]["timestamp"] == second[2]["timestamp"] == 1_700_000_000_001
    assert second[1]["timestamp"] == 1_700_000_000_002


async def test_an_id_is_compact_ascii(site: Site) -> None:
    topic = await site.topic(2)
    await site.produce(topic, {"a": "ü"})
    async with site.gateway({"s": [topic]}) as gateway, gateway.stream("s", since="0") as stream:
        id_ = (await stream.frame()).id
    assert id_.isascii()
    assert id_ == json.dumps(json.loads(id_), separators=(",", ":"))


async def test_ids_have_the_real_end_of_quiet_partitions(
    site: Site,
) -> None:
    topic = await site.topic(3)
    await site.produce(topic, {}, {}, partition=1, timestamp_ms=1_700_000_000_000)
    async with site.gateway({"s": [topic]}) as gateway, gateway.stream("s") as stream:
        await stream.opened()
        await site.produce(topic, {}, partition=0)
        entries = json.loads((await stream.frame()).id)
    assert [entry["offset"] for entry in entries] == [1, 2, 0]
    assert entries[1]["timestamp"] == 1_700_000_000_000


async def test_events_of_a_quiet_partition_survive_a_disconnect(
    site: Site,
) -> None:
    topic = await site.topic(2)
    async with site.gateway({"s": [topic]}) as gateway:
        async with gateway.stream("s") as stream:
            await stream.opened()
            await site.produce(topic, {"n": 1}, partition=0)
            id_ = (await stream.frame()).id
        await site.produce(topic, {"n": 2}, partition=1)
        async with gateway.stream("s", last_event_id=id_) as stream:
            assert [d["n"] for d in await stream.documents(1)] == [2]


async def test_resuming_within_a_millisecond_loses_nothing(site: Site) -> None:
    topic = await site.topic()
    await site.produce(topic, *({"n": n} for n in range(4)), timestamp_ms=1_700_000_000_000)
    async with site.gateway({"s": [topic]}) as gateway:
        async with gateway.stream("s", since="0") as stream:
            id_ = (await stream.frame()).id
        async with gateway.stream("s", last_event_id=id_) as stream:
            assert [d["n"] for d in await stream.documents(3)] == [1, 2, 3]


@pytest.mark.parametrize("names", ["a,b", "b,a", "a,b,a,alias", "b,alias"])
async def test_topics_of_several_streams_are_merged_each_once(site: Site, names: str) -> None:
    first, second = await site.topic(), await site.topic()
    streams = {"a": [first, second], "b": [second], "alias": [first]}
    async with site.gateway(streams) as gateway, gateway.stream(names) as stream:
        await stream.opened()
        await site.produce(first, {})
        entries = json.loads((await stream.frame()).id)
    assert sorted(entry["topic"] for entry in entries) == sorted([first, second])


async def test_an_id_is_past_the_skipped_records_before_its_event(
    site: Site,
) -> None:
    topic = await site.topic()
    await site.produce(topic, b"bad", {"n": 1}, b"bad", {"n": 2})
    async with site.gateway({"s": [topic]}) as gateway, gateway.stream("s", since="0") as stream:
        frames = await stream.frames(2)
    assert [frame.position[topic, 0] for frame in frames] == [2, 4]


async def test_offsets_sent_on_one_connection_strictly_increase_per_partition(site: Site) -> None:
    topics = [await site.topic(2), await site.topic(2)]
    async with site.gateway({"s": topics}) as gateway:
        for n in range(20):
            await site.produce(topics[n % 2], {"n": n}, partition=n // 2 % 2)
        async with gateway.stream("s", since="0") as stream:
            await stream.opened()
            for n in range(20):
                await site.produce(topics[n % 2], {"n": n}, partition=n // 2 % 2)
            seen: dict[tuple[str, int], list[int]] = {}
            for topic, partition, offset in [f.place for f in await stream.frames(40)]:
                seen.setdefault((topic, partition), []).append(offset)
    assert sorted(seen) == sorted((topic, p) for topic in topics for p in range(2))
    assert all(offsets == list(range(10)) for offsets in seen.values())
