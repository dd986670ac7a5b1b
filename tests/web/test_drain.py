"""During a drain, every stream ends completely, and its client can continue elsewhere."""

from __future__ import annotations

import asyncio
import re

import pytest

from eventstreams.fanout.send import EndReason
from tests.support.client import connected, frames_of
from tests.support.gateway import NDJSON, Site, ask
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio


async def test_a_drained_stream_ends_with_a_retry_line(
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


async def test_a_drain_in_history_ends_between_frames(
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
        async with asyncio.timeout(PATIENCE_S):
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


async def test_a_drain_closes_idle_connections_first(
    site: Site,
) -> None:
    """A client with an open connection would send requests to a process that refuses them."""
    topic = await site.topic()
    async with (
        site.gateway({"s": [topic]}, drain_s=600.0) as gateway,
        gateway.stream("s") as stream,
        gateway.stream("s") as last,
        connected(gateway.port) as kept,
        connected(gateway.port) as fresh,
    ):
        await stream.opened()
        await last.opened()
        assert (await ask(kept, "GET", "/healthz")).status == 200
        draining = asyncio.create_task(gateway.server.drain())
        for idle in (kept, fresh):  # although streams have minutes to end
            assert await idle.some(1) == b""
        for subscription in gateway.parts.hub.subscriptions.copy():
            subscription.end(EndReason.DRAINED)
        for open_stream in (stream, last):
            await open_stream.rest()
            assert await open_stream.client.some(1) == b""
        gateway.server._second_signal.set()
        await draining


async def test_during_the_notice_responses_end_connections(site: Site) -> None:
    topic = await site.topic()
    async with (
        site.gateway({"s": [topic]}, drain_s=1.0) as gateway,
        connected(gateway.port) as kept,
    ):
        gateway.server._notice_s = 600.0
        assert (await ask(kept, "GET", "/healthz")).status == 200
        draining = asyncio.create_task(gateway.server.drain())
        assert await kept.some(1) == b""
        async with connected(gateway.port) as late:
            answer = await ask(late, "GET", "/healthz")
            assert (answer.status, answer.head.get("connection")) == (200, "close")
            assert await late.some(1) == b""
        gateway.server._second_signal.set()
        await draining


async def test_while_draining_new_streams_are_refused(site: Site) -> None:
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
        async with gateway.stream("s") as late:  # many clients give up after a 503
            assert late.head.get("connection") == "close"
            [only] = await late.rest()
            assert re.fullmatch(rb":ok\n\nretry: [1-8]\d\d\d\n", only)
            assert await late.client.some(1) == b"", "the connection ends after the response"
        refused = await ask(kept, "GET", "/v2/stream/s", NDJSON)
        assert refused.head.get("connection") == "close"
        assert (refused.status, refused.json()["type"]) == (503, "unavailable")
        assert 1 <= int(refused.head.get("retry-after") or 0) <= 5
        assert refused.head.get("access-control-allow-origin") == "*"
