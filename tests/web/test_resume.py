"""Last-Event-ID has several forms, and determines the subscription."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from eventstreams.model.event import Partition
from eventstreams.model.position import Position
from tests.support.client import Stream
from tests.support.gateway import T0, Site, filled, stream_of

pytestmark = pytest.mark.anyio


async def numbers(stream: Stream, count: int) -> list[int]:
    return [document["n"] for document in await stream.documents(count)]


def entry(topic: str, partition: int = 0, **fields: Any) -> dict[str, Any]:
    return {"topic": topic, "partition": partition, **fields}


FORMS: list[tuple[dict[str, Any], int]] = [
    ({"offset": 0}, 0),
    ({"offset": 2}, 2),
    ({"offset": 2.0}, 2),
    ({"offset": 4}, 4),
    ({"offset": -1}, 4),
    ({"offset": -1000}, 4),
    ({"offset": -1001}, 4),
    ({"offset": -2}, 0),
    ({"offset": -2001}, 3),
    ({"offset": -2003}, 1),
    ({"offset": -2099}, 0),
    ({"timestamp": T0 + 2000}, 2),
    ({"timestamp": T0 + 1001}, 2),
    ({"timestamp": 0}, 0),
    ({"timestamp": -1}, 4),
    ({"timestamp": -2}, 0),
    ({"timestamp": T0 + 10**9}, 4),
    ({"timestamp": str(T0 + 2000)}, 2),
    ({"timestamp": "2023-11-14T22:13:22Z"}, 2),
    ({"offset": 2, "timestamp": T0 + 1000}, 2),
    ({"offset": 1, "timestamp": None}, 1),
    ({"offset": 2, "more": {"x": 1}}, 2),
]
"""Entries of ids, each with the first of four records to read; 4 is the next record."""


async def test_every_form_of_id_entry_determines_the_start(site: Site) -> None:
    topic = await filled(site)
    latest = await filled(site)
    end = 4
    async with site.gateway({"s": [topic], "latest": [latest]}) as gateway:
        for fields, first in FORMS:
            if first < 4:
                async with gateway.stream("s", last_event_id=[entry(topic, **fields)]) as stream:
                    expected = list(range(first, 4))
                    assert await numbers(stream, len(expected)) == expected, fields
            else:
                at = {"offset": end} if fields == {"offset": 4} else fields
                mark = [entry(latest, **at)]
                async with gateway.stream("latest", last_event_id=mark) as stream:
                    await stream.opened()
                    await site.produce(latest, {"n": end}, timestamp_ms=T0)
                    assert await numbers(stream, 1) == [end], fields
                    end += 1


async def test_partitions_missing_from_the_id_are_not_read(site: Site) -> None:
    one, two = await filled(site, partitions=2), await filled(site)
    async with (
        site.gateway({"s": [one, two]}) as gateway,
        gateway.stream("s", last_event_id=[entry(one, 1, offset=0)]) as stream,
    ):
        for topic, partition in ((one, 0), (one, 1), (two, 0)):
            await site.produce(topic, {"n": 4}, partition=partition)
        frames = await stream.frames(5)
    assert {frame.place[:2] for frame in frames} == {(one, 1)}
    assert {tuple(frame.position) for frame in frames} == {((one, 1),)}


@pytest.mark.parametrize(
    "form", ["array of names", "string", "string with comma", "mixed"], ids=str
)
@pytest.mark.parametrize("since", [None, "2023-11-14T22:13:22Z"], ids=["latest", "since"])
async def test_streams_cover_all_partitions(site: Site, form: str, since: str | None) -> None:
    one, two = await filled(site, partitions=2), await filled(site)
    mark: Any = {
        "array of names": [one, two],
        "string": one,
        "string with comma": f"{one},{two}",
        "mixed": [one, entry(two, offset=4)],
    }[form]
    query = {} if since is None else {"since": since}
    async with (
        site.gateway({"s": [one, two]}) as gateway,
        gateway.stream("s", last_event_id=json.dumps(mark), **query) as stream,
    ):
        await stream.opened()
        before = 2 if since else 0
        count = before * (3 if form in ("string with comma", "array of names") else 2)
        assert sorted(await numbers(stream, count)) == sorted([2, 3] * (count // 2))
        await site.produce(one, {"n": 4}, partition=1)
        position = (await stream.frame()).position
    assert {partition for topic, partition in position if topic == one} == {0, 1}
    assert ((two, 0) in position) == (form != "string")


async def test_since_is_ignored_beside_a_header(site: Site) -> None:
    topic = await filled(site)
    async with (
        site.gateway({"s": [topic]}) as gateway,
        gateway.stream("s", last_event_id=[entry(topic, offset=3)], since="0") as stream,
    ):
        assert await numbers(stream, 1) == [3]


@pytest.mark.parametrize("header", ["", " "], ids=["empty", "blank"])
async def test_an_empty_last_event_id_is_ignored(site: Site, header: str) -> None:
    topic = await filled(site)
    async with (
        site.gateway({"s": [topic]}) as gateway,
        gateway.stream("s", last_event_id=header, since=str(T0 + 2000)) as stream,
    ):
        assert await numbers(stream, 2) == [2, 3]


@pytest.mark.parametrize("name", ["Last-Event-ID", "last-event-id", "lastEventId"])
async def test_the_id_header_takes_precedence_over_the_query(site: Site, name: str) -> None:
    topic = await filled(site)
    query = f"/v2/stream/s?{name}={quote(json.dumps([entry(topic, offset=3)]))}"
    async with site.gateway({"s": [topic]}) as gateway:
        async with gateway.opened(query) as stream:
            assert await numbers(stream, 1) == [3]
        async with gateway.opened(query, {"Last-Event-ID": ""}) as stream:
            assert await numbers(stream, 1) == [3]
        async with gateway.opened(query, last_event_id=[entry(topic, offset=1)]) as stream:
            assert await numbers(stream, 1) == [1]


@pytest.mark.parametrize(
    ("older", "between", "newer"),
    [
        ("[1]", "\r\nLast-Event-ID: ", "[3]"),
        ("[3]", "\r\nLast-Event-ID: ", ""),
        ("", "\r\nLast-Event-ID: ", "[3]"),
        ("[1]", "\r\nLast-Event-ID: [2]\r\nlast-event-id: ", "[3]"),
        ("[1]", ", ", "[3]"),
        ("[1]", ",", "{3}"),
        ("{1}", ", ", "{3}"),
        ("[1]", ", ", "v3"),
        ("v1", ",", "v3"),
        ("v1", ", ", "[3]"),
    ],
)
async def test_the_newest_of_several_ids_is_used(
    embedded: Site, older: str, between: str, newer: str
) -> None:
    """A client may add new ids to its first one, and a proxy may join them."""
    topic = await filled(embedded)

    def id_of(form: str) -> str:
        if not form:
            return ""
        offset = int(form.strip("[]{}v"))
        array = json.dumps([entry(topic, offset=offset)])
        token = Position(
            (Partition(topic, 0),), (offset,), (T0 + 1000 * (offset - 1),)
        ).encode_token()
        assert token is not None
        return {"[": array, "{": f'{{"left":9,"id":{array}}}', "v": token.decode()}[form[0]]

    header = f"{id_of(older)}{between}{id_of(newer)}"
    async with (
        embedded.gateway({"s": [topic]}) as gateway,
        gateway.stream("s", {"Last-Event-ID": header}) as stream,
    ):
        assert await numbers(stream, 1) == [3]


async def test_the_name_of_the_id_header_is_case_insensitive(site: Site) -> None:
    topic = await filled(site)
    id_ = json.dumps([entry(topic, offset=3)])
    async with (
        site.gateway({"s": [topic]}) as gateway,
        gateway.stream("s", {"lAsT-eVeNt-Id": id_}) as stream,
    ):
        assert await numbers(stream, 1) == [3]


async def test_offsets_take_precedence_over_timestamps(site: Site) -> None:
    one, two = await filled(site), await filled(site)
    header = [
        entry(one, offset=3, timestamp=T0 + 2000),
        entry(two, timestamp=T0 + 3000),
    ]
    async with (
        site.gateway({"s": [one, two]}) as gateway,
        gateway.stream("s", last_event_id=header) as stream,
    ):
        places = [frame.place for frame in await stream.frames(2)]
    assert sorted(places) == sorted([(one, 0, 3), (two, 0, 3)])


async def test_timestamps_are_used_for_ids_of_another_log(
    site: Site,
) -> None:
    topic = await filled(site, count=6)
    cases = [
        (entry(topic, offset=5, timestamp=T0 + 1000), 1),  # the record before 5 has another time
        (entry(topic, offset=999, timestamp=T0 + 4000), 4),  # out of range
        (entry(topic, offset=2, timestamp=T0 + 4500), 5),
    ]
    async with site.gateway({"s": [topic]}) as gateway:
        for mark, first in cases:
            async with gateway.stream("s", last_event_id=[mark]) as stream:
                frame = await stream.frame()
                assert (frame.event, frame.document["n"]) == ("message", first), mark


async def test_new_partitions_begin_at_their_first_record(
    site: Site,
) -> None:
    topic = await filled(site, partitions=2, count=1)
    async with site.gateway({"s": [topic]}) as before, before.stream("s", since="0") as stream:
        id_ = (await stream.frames(2))[-1].id
    await site.log.create_topic(topic, 3)
    await site.produce(topic, {"n": 10}, {"n": 11}, partition=2)
    async with (
        site.gateway({"s": [topic]}) as after,
        after.stream("s", last_event_id=id_) as stream,
    ):
        frames = await stream.frames(2)
    assert [frame.place for frame in frames] == [(topic, 2, 0), (topic, 2, 1)]
    assert frames[-1].position == {(topic, 0): 1, (topic, 1): 1, (topic, 2): 2}


async def test_partitions_added_during_a_stream_are_read_from_the_start(site: Site) -> None:
    topic = await filled(site, count=1)
    async with (
        site.gateway({"s": [topic]}, refresh_s=0.1) as gateway,
        gateway.stream("s") as stream,
    ):
        await stream.opened()
        await site.log.create_topic(topic, 2)
        await site.produce(topic, {"n": 10}, partition=1)
        frame = await stream.frame()
    assert frame.place == (topic, 1, 0)
    assert frame.position == {(topic, 0): 1, (topic, 1): 1}


async def test_allowed_topics_are_read_only_if_named_in_the_id(site: Site) -> None:
    preferred, other = await filled(site), await filled(site)
    streams = {"s": stream_of("s", [preferred], allowed=[other])}
    async with site.gateway(streams) as gateway:
        async with gateway.stream("s", last_event_id=[entry(other, offset=3)]) as stream:
            assert (await stream.frame()).place == (other, 0, 3)
        async with gateway.stream("s", since="0") as stream:
            assert {frame.place[0] for frame in await stream.frames(4)} == {preferred}


async def test_an_id_of_100_kb_is_accepted(site: Site) -> None:
    topic = await filled(site)
    mark = entry(topic, offset=3, padding="x" * 100_000)
    async with (
        site.gateway({"s": [topic]}) as gateway,
        gateway.stream("s", last_event_id=[mark]) as stream,
    ):
        assert await numbers(stream, 1) == [3]


async def test_several_messages_of_two_topics_from_their_offsets_or_times(site: Site) -> None:
    one, two = await filled(site, count=1), await filled(site, count=2)
    expected = sorted([(one, 0, 0), (two, 0, 0), (two, 0, 1)])
    async with site.gateway({"s": [one, two]}) as gateway:
        for at in ({"offset": 0}, {"timestamp": T0 - 600_000}):
            header = [entry(one, **at), entry(two, **at)]
            async with gateway.stream("s", last_event_id=header) as stream:
                assert sorted(f.place for f in await stream.frames(3)) == expected
