"""`caught_up=event` over HTTP, on every log, in SSE and NDJSON, plain and compressed."""

from __future__ import annotations

import json
import zlib

import pytest

from tests.support.client import Stream, frames_of
from tests.support.gateway import Site, filled, messages_of

pytestmark = pytest.mark.anyio

MESSAGE = "All events so far have been sent; those that follow are live"


async def test_a_replay_reports_when_it_has_caught_up(site: Site) -> None:
    topic = await filled(site, count=3, partitions=2)
    other = await filled(site, count=2)
    async with (
        site.gateway({"s": [topic, other]}) as gateway,
        gateway.opened("/v2/stream/s?since=earliest&caught_up=event") as stream,
    ):
        *replayed, reported = await stream.frames(9)
        assert {frame.event for frame in replayed} == {"message"}
        assert (reported.event, reported.document) == ("caught-up", {"message": MESSAGE})
        assert reported.position == {(topic, 0): 3, (topic, 1): 3, (other, 0): 2}
        await site.produce(other, {"n": 2})
        live = await stream.frame()
        assert (live.event, live.document["n"]) == ("message", 2)
    async with (
        site.gateway({"s": [topic, other]}) as gateway,
        gateway.opened("/v2/stream/s", {"Last-Event-ID": reported.id}) as stream,
    ):
        assert (await stream.frame()).document["n"] == 2


async def test_a_live_stream_reports_immediately_that_it_has_caught_up(embedded: Site) -> None:
    topic = await filled(embedded)
    async with (
        embedded.gateway({"s": [topic]}) as gateway,
        gateway.opened("/v2/stream/s?caught_up=event") as stream,
    ):
        reported = await stream.frame()
        assert (reported.event, reported.position) == ("caught-up", {(topic, 0): 4})


async def test_without_the_parameter_catching_up_is_not_reported(embedded: Site) -> None:
    topic = await filled(embedded)
    async with embedded.gateway({"s": [topic]}) as gateway:
        for query in ("since=earliest", "since=earliest&caught_up="):
            async with gateway.opened(f"/v2/stream/s?{query}") as stream:
                await stream.frames(4)
                await embedded.produce(topic, {"n": 9})
                assert (await stream.frame()).event == "message"


async def test_ndjson_reports_catching_up_in_an_object_without_meta(embedded: Site) -> None:
    topic = await filled(embedded, count=2)
    accept = {"Accept": "application/json"}
    async with (
        embedded.gateway({"s": [topic]}) as gateway,
        gateway.opened("/v2/stream/s?since=earliest&caught_up=event", accept) as stream,
    ):
        lines = [json.loads(line) for line in await stream.lines(3)]
        assert [line.get("meta", {}).get("offset") for line in lines] == [0, 1, None]
        assert {key: lines[2][key] for key in ("event", "message")} == {
            "event": "caught-up",
            "message": MESSAGE,
        }
        [entry] = json.loads(lines[2]["id"])
        assert (entry["topic"], entry["offset"]) == (topic, 2)


async def test_compressed_streams_report_catching_up(embedded: Site) -> None:
    topic = await filled(embedded, count=2)
    async with (
        embedded.gateway({"s": [topic]}) as gateway,
        gateway.opened(
            "/v2/stream/s?since=earliest&caught_up=event&compress=gzip",
            {"Accept-Encoding": "gzip"},
        ) as stream,
    ):
        assert events_of(await decoded(stream, b"caught-up")) == ["message", "message", "caught-up"]


async def decoded(stream: Stream, until: bytes) -> bytes:
    inflate = zlib.decompressobj(wbits=31)
    text = b""
    while until not in text or not text.endswith(b"\n\n"):
        chunk = await stream.chunk()
        assert chunk is not None
        text += inflate.decompress(chunk)
    return text


def events_of(text: bytes) -> list[str]:
    return [frame.event for frame in frames_of(text.removeprefix(b":ok\n\n"))]


async def test_a_stream_that_ends_in_history_never_catches_up(embedded: Site) -> None:
    topic = await filled(embedded)
    async with embedded.gateway({"s": [topic]}) as gateway:
        answer = await gateway.get("/v2/stream/s?since=earliest&limit=2&caught_up=event")
        assert len(messages_of(answer)) == 2
        assert b"caught-up" not in answer.body
        async with gateway.opened("/v2/stream/s?since=earliest&caught_up=event") as stream:
            assert [frame.event for frame in await stream.frames(5)][-1] == "caught-up"


async def test_caught_up_accepts_one_value_and_is_explained(embedded: Site) -> None:
    topic = await filled(embedded)
    async with embedded.gateway({"s": [topic]}) as gateway:
        refused = await gateway.get("/v2/stream/s?caught_up=yes")
        assert refused.status == 400
        assert refused.json()["detail"] == "caught_up=yes is not one of: event"
        for query, said in (("", False), ("&caught_up=event", True)):
            explained = await gateway.get(f"/v2/explain?streams=s{query}")
            assert explained.json()["caught_up"] is said
