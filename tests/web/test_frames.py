"""The bytes of an open stream: its beginning, its frames, and their HTTP chunks."""

from __future__ import annotations

import json

import pytest
from sse_starlette import ServerSentEvent

from eventstreams.model.sse import SseEvent, SseReader
from tests.support.gateway import Site

pytestmark = pytest.mark.anyio


async def test_a_stream_begins_with_ok_and_a_blank_line(site: Site) -> None:
    async with site.gateway({"s": [await site.topic()]}) as gateway, gateway.stream("s") as stream:
        assert await stream.chunk() == b":ok\n\n"


async def test_a_stream_is_chunked_uncached_and_an_event_stream(
    site: Site,
) -> None:
    async with site.gateway({"s": [await site.topic()]}) as gateway, gateway.stream("s") as stream:
        head = stream.head
    assert (head.status, head.reason) == (200, "OK")
    assert head.get("content-type") == "text/event-stream; charset=utf-8"
    assert head.get("transfer-encoding") == "chunked"
    assert head.get("cache-control") == "no-store, no-transform"
    assert head.get("connection") == "keep-alive"
    assert head.get("date")
    for absent in ("content-length", "content-encoding", "etag", "server", "x-powered-by"):
        assert head.get(absent) is None


async def test_a_frame_is_event_data_id_and_a_blank_line_in_one_chunk(site: Site) -> None:
    topic = await site.topic()
    async with site.gateway({"s": [topic]}) as gateway, gateway.stream("s") as stream:
        await stream.opened()
        [placed] = await site.produce(topic, {"n": 1}, timestamp_ms=1_700_000_000_123)
        chunk = await stream.chunk()
    meta = {"topic": topic, "partition": 0, "offset": placed.offset}
    data = json.dumps({"n": 1, "meta": meta}, separators=(",", ":"))
    entry = {"topic": topic, "partition": 0, "offset": 1, "timestamp": 1_700_000_000_123}
    if site.has_epochs:
        entry["epoch"] = 0
    id_ = json.dumps([entry], separators=(",", ":"))
    assert chunk == f"event: message\ndata: {data}\nid: {id_}\n\n".encode()


async def test_data_is_within_the_first_five_lines(site: Site) -> None:
    topic = await site.topic()
    await site.produce(topic, {"n": 1})
    async with site.gateway({"s": [topic]}) as gateway, gateway.stream("s", since="0") as stream:
        await stream.frame()
        lines = b"".join(stream.chunks).split(b"\n")[:5]
    assert [line.split(b":")[1] for line in lines if line.startswith(b":")] == [b"ok"]
    assert any(line.startswith(b"data:") for line in lines)
    assert not any(line.startswith(b"retry") for line in lines)


async def test_no_line_is_split_between_chunks_under_load(site: Site) -> None:
    topic = await site.topic(3)
    for number in range(3):
        await site.produce(
            topic, *({"n": n, "text": "é" * n * 9} for n in range(200)), partition=number
        )
    async with (
        site.gateway({"s": [topic]}, batch_bytes_max=10_000) as gateway,
        gateway.stream("s", since="0") as stream,
    ):
        frames = await stream.frames(600)  # the client refuses chunks with incomplete frames
    assert len(stream.chunks) > 10
    assert {len([f for f in frames if f.place[1] == p]) for p in range(3)} == {200}


async def test_an_event_larger_than_a_batch_is_sent_by_itself(site: Site) -> None:
    topic = await site.topic()
    async with (
        site.gateway({"s": [topic]}, batch_bytes_max=1000) as gateway,
        gateway.stream("s") as stream,
    ):
        await stream.opened()
        await site.produce(topic, {"text": "x" * 300_000}, {"n": 2})
        first, second = await stream.documents(2)
    assert first["text"] == "x" * 300_000
    assert second["n"] == 2
    assert len(stream.chunks) == 3


async def test_a_quiet_stream_gets_comment_lines_without_a_blank_line(site: Site) -> None:
    topic = await site.topic()
    async with site.gateway({"s": [topic]}, heartbeat_s=0.05) as gateway:
        async with gateway.stream("s") as stream:
            await stream.opened()
            assert [await stream.chunk() for _ in range(3)] == [b":\n"] * 3
            await site.produce(topic, {"n": 1})
            assert [d["n"] for d in await stream.documents(1)] == [1]
        async with gateway.stream("s", {"Accept": "application/json"}) as stream:
            assert [await stream.chunk() for _ in range(3)] == [b"\n"] * 3


async def test_heartbeats_are_due_within_fifteen_seconds_unless_set_otherwise(
    embedded: Site,
) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        assert gateway.parts.hub.settings.heartbeat_s <= 15


async def test_frames_are_read_like_those_of_a_known_library(site: Site) -> None:
    topic = await site.topic(2)
    documents = [{"text": "a: b\n\r\nü\u2028"}, {"": " "}, [1, {"id": ":"}], {"data": "event: x"}]
    await site.produce(topic, *documents)
    async with site.gateway({"s": [topic]}) as gateway, gateway.stream("s", since="0") as stream:
        frames = await stream.frames(len(documents))
        sent = b"".join(stream.chunks)
    by_library = b":ok\n\n" + b"".join(
        ServerSentEvent(frame.data, event=frame.event, id=frame.id, sep="\n").encode()
        for frame in frames
    )
    assert _parsed(sent) == _parsed(by_library)
    assert len(_parsed(sent)) == len(documents)


def _parsed(body: bytes) -> list[SseEvent]:
    return list(SseReader().feed(body))
