"""Being told to stop: every stream ends whole, and its client goes on elsewhere."""

from __future__ import annotations

import asyncio
import re

import pytest

from tests.web.client import connected, frames_of
from tests.web.gateway import NDJSON, Site, ask

pytestmark = pytest.mark.anyio


async def test_each_stream_ends_properly_with_retry_as_its_last_line_and_no_blank_line(
    site: Site,
) -> None:
    topic = await site.topic()
    async with (
        site.gateway({"s": [topic]}, drain_s=0.5) as gateway,
        gateway.stream("s") as one,
        gateway.stream("s") as two,
        gateway.stream("s", NDJSON) as lines,
    ):
        for stream in (one, two):
            await stream.opened()
        await lines.chunk()
        await site.produce(topic, {"n": 1})
        await one.frame()
        draining = asyncio.create_task(gateway.server.drain())
        for stream in (one, two):
            *before, last = await stream.rest()
            assert re.fullmatch(rb"retry: [1-8]\d\d\d\n", last)
            assert len(frames_of(b"".join(before))) == (stream is two)
        assert [line for line in await lines.rest() if b'"n":1' not in line] == []
        await draining
        assert gateway.count("streams_ended_total", reason="drained") == 3


async def test_a_client_in_the_middle_of_history_gets_whole_frames_and_goes_on_elsewhere(
    site: Site,
) -> None:
    topic = await site.topic()
    for _ in range(15):
        await site.produce(topic, *[{"pad": "x" * 60_000}] * 10)
    async with (
        site.gateway({"s": [topic]}, drain_s=20.0) as gateway,
        gateway.stream("s", receive_buffer=500_000, since="0") as stream,
    ):
        frames = [await stream.frame()]
        stream.client.pause()
        draining = asyncio.create_task(gateway.server.drain())
        async with asyncio.timeout(10):
            while not gateway.parts.hub.draining:
                await asyncio.sleep(0)
        stream.client.resume()
        *chunks, last = await stream.rest()
        frames += stream.taken() + [f for chunk in chunks for f in frames_of(chunk)]
        assert last.startswith(b"retry: ")
        await draining
    async with (
        site.gateway({"s": [topic]}) as other,
        other.stream("s", last_event_id=frames[-1].id) as stream,
    ):
        frames += await stream.frames(150 - len(frames))
    assert [frame.place[2] for frame in frames] == list(range(150))


async def test_while_draining_it_is_not_ready_and_takes_no_new_stream(site: Site) -> None:
    topic = await site.topic()
    async with (
        site.gateway({"s": [topic]}, drain_s=0.5) as gateway,
        gateway.stream("s") as stream,
        connected(gateway.port) as kept,
    ):
        await stream.opened()
        assert (await ask(kept, "GET", "/readyz")).status == 200
        gateway.parts.hub.stop_admitting()
        ready = await ask(kept, "GET", "/readyz")
        assert (ready.status, ready.json()["draining"]) == (503, True)
        assert (await ask(kept, "GET", "/healthz")).status == 200
        refused = await ask(kept, "GET", "/v2/stream/s")
        assert (refused.status, refused.json()["type"]) == (503, "unavailable")
        assert 1 <= int(refused.head.get("retry-after") or 0) <= 5
        assert refused.head.get("access-control-allow-origin") == "*"
