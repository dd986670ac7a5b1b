"""Records are sent as JSON, and records without events are skipped."""

from __future__ import annotations

import json
from typing import Any

import pytest

from eventstreams.model.event import Record
from tests.support.gateway import NDJSON, Site, stream_of

pytestmark = pytest.mark.anyio

EXACT: list[tuple[str, str]] = [
    ('{"a":"\u2028\u2029\u0085"}', '{"a":"\\u2028\\u2029\\u0085"}'),
    ('{"a":"\\u2028"}', '{"a":"\\u2028"}'),
    ('{"a":"\\ud800 and \\udfff"}', '{"a":"\\ud800 and \\udfff"}'),
    ('{"a":"\\ud83d\\ude00"}', '{"a":"\U0001f600"}'),
    ('{"a":"Zürich ☃"}', '{"a":"Zürich ☃"}'),
    ('{"a":18446744073709551615,"b":-9223372036854775808}',) * 2,
    ('{"a":9007199254740993}',) * 2,
    ('{"z":1,"10":2,"9":3}',) * 2,
    ('{ "a" : [ 1 , 2 ] }', '{"a":[1,2]}'),
    ('{"a":"x\\ny\\r\\n"}',) * 2,
    ('{"a":"\\/"}', '{"a":"/"}'),
    ('{"a":1,"a":2}', '{"a":2}'),
    ('{"a":true,"b":null,"c":false,"d":1.5}',) * 2,
]
"""Values of records, and the data that is sent."""


async def test_data_is_compact_utf8_on_one_line(
    site: Site,
) -> None:
    topic = await site.topic()
    await site.produce(topic, *(value.encode() for value, _ in EXACT))
    async with site.gateway({"s": [topic]}) as gateway, gateway.stream("s", since="0") as stream:
        frames = await stream.frames(len(EXACT))
    for offset, (frame, (value, expected)) in enumerate(zip(frames, EXACT, strict=True)):
        meta = f',"meta":{{"topic":"{topic}","partition":0,"offset":{offset}}}}}'
        assert frame.data == expected.removesuffix("}") + meta, value
        assert frame.data.splitlines() == [frame.data]


async def test_an_integer_beyond_64_bits_is_delivered_unchanged(site: Site) -> None:
    topic = await site.topic()
    await site.produce(topic, b'{"a":12345678901234567890123}', {"n": 2})
    async with site.gateway({"s": [topic]}) as gateway, gateway.stream("s", since="0") as stream:
        first, second = await stream.documents(2)
    assert first["a"] == pytest.approx(12345678901234567890123)
    assert second["n"] == 2


BAD: list[Any] = [
    None,
    b"",
    b"123",
    b'"text"',
    b"null",
    b"true",
    b"not json",
    b"{",
    b'{"a":1} trailing',
    b'{"a":NaN}',
    b"\xff\xfe",
    b"\x00",
    {"meta": "text"},
    {"meta": 5},
    {"meta": [1]},
    b"[" * 100_000,
]


@pytest.mark.parametrize("live", [True, False], ids=["live", "from history"])
async def test_records_without_events_are_skipped_and_counted(site: Site, live: bool) -> None:
    topic = await site.topic()
    async with site.gateway({"s": [topic]}) as gateway:
        if not live:
            await site.produce(topic, *BAD, {"n": 1})
        async with gateway.stream("s", **({} if live else {"since": "0"})) as stream:
            await stream.opened()
            if live:
                await site.produce(topic, *BAD, {"n": 1})
            frame = await stream.frame()
        assert frame.document["n"] == 1
        assert frame.position == {(topic, 0): len(BAD) + 1}
        assert gateway.count("records_skipped_total") == len(BAD)


async def test_an_array_is_delivered_unchanged(site: Site) -> None:
    topic = await site.topic()
    await site.produce(topic, [1, {"a": 2}], [])
    async with site.gateway({"s": [topic]}) as gateway, gateway.stream("s", since="0") as stream:
        assert [frame.data for frame in await stream.frames(2)] == ['[1,{"a":2}]', "[]"]


async def test_place_in_the_log_is_set_in_meta(site: Site) -> None:
    topic = await site.topic(2)
    given = {"meta": {"offset": "x", "dt": "2023", "topic": 1, "stream": "canonical"}, "z": 1}
    await site.produce(topic, given, {"meta": None, "a": 1}, {"a": 1}, partition=1)
    async with site.gateway({"s": [topic]}) as gateway, gateway.stream("s", since="0") as stream:
        first, second, third = [frame.data for frame in await stream.frames(3)]
    assert first == (
        f'{{"meta":{{"offset":0,"dt":"2023","topic":"{topic}","stream":"canonical",'
        '"partition":1},"z":1}'
    )
    assert second == f'{{"meta":{{"topic":"{topic}","partition":1,"offset":1}},"a":1}}'
    assert third == f'{{"a":1,"meta":{{"topic":"{topic}","partition":1,"offset":2}}}}'


async def test_a_key_is_last_in_meta_as_a_buffer(
    site: Site,
) -> None:
    topic = await site.topic()
    keys = [b"k0", b"\xff\x00", None]
    await site.log.append([Record(topic, b"{}", key, None, 0) for key in keys])
    async with site.gateway({"s": [topic]}) as gateway, gateway.stream("s", since="0") as stream:
        metas = [document["meta"] for document in await stream.documents(3)]
    assert metas[0]["key"] == {"type": "Buffer", "data": [107, 48]}
    assert list(metas[0]) == ["topic", "partition", "offset", "key"]
    assert metas[1]["key"]["data"] == [255, 0]
    assert "key" not in metas[2]


async def test_an_alias_serves_events_with_the_canonical_stream(site: Site) -> None:
    topic = await site.topic()
    await site.produce(topic, {"meta": {"stream": "mediawiki.recentchange"}})
    streams = {
        "mediawiki.recentchange": stream_of(
            "mediawiki.recentchange", [topic], aliases=("recentchange",)
        )
    }
    async with site.gateway(streams) as gateway:
        seen = []
        for name in ("recentchange", "mediawiki.recentchange"):
            async with gateway.stream(name, since="0") as stream:
                seen.append(await stream.frame())
    assert seen[0] == seen[1]
    assert seen[0].document["meta"]["stream"] == "mediawiki.recentchange"


async def test_canaries_pass_through(site: Site) -> None:
    topic = await site.topic()
    await site.produce(topic, {"meta": {"domain": "canary"}})
    async with site.gateway({"s": [topic]}) as gateway, gateway.stream("s", since="0") as stream:
        assert (await stream.frame()).document["meta"]["domain"] == "canary"


async def test_ndjson_has_the_same_documents_one_per_line(site: Site) -> None:
    topic = await site.topic()
    await site.produce(topic, *(value.encode() for value, _ in EXACT))
    async with site.gateway({"s": [topic]}) as gateway:
        async with gateway.stream("s", since="0") as stream:
            framed = [frame.data.encode() for frame in await stream.frames(len(EXACT))]
        async with gateway.stream("s", NDJSON, since="0") as stream:
            lines = await stream.lines(len(EXACT))
    assert lines == framed
    assert all(json.loads(line) is not None for line in lines)
