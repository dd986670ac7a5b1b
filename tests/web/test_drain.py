"""Being told to stop: every stream ends whole, and its client goes on elsewhere."""

from __future__ import annotations

import asyncio
import re

import pytest

from eventstreams.fanout.ending import Reason
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


async def test_a_drained_stream_closes_its_connection_and_an_idle_one_is_closed_first(
    site: Site,
) -> None:
    """A client that kept its connection would ask the process that refuses it."""
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
        for idle in (kept, fresh):  # though no stream has to end for minutes
            assert await idle.some(1) == b""
        for subscription in gateway.parts.hub.subscriptions.copy():
            subscription.end(Reason.DRAINED)
        for open_stream in (stream, last):
            await open_stream.rest()
            assert await open_stream.client.some(1) == b""
        gateway.server._hurry.set()
        await draining


async def test_during_the_notice_an_answer_ends_its_connection(site: Site) -> None:
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
        gateway.server._hurry.set()
        await draining


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
        async with gateway.stream("s") as late:  # a 503 would be the end for many clients
            assert late.head.get("connection") == "close"
            [only] = await late.rest()
            assert re.fullmatch(rb":ok\n\nretry: [1-8]\d\d\d\n", only)
            assert await late.client.some(1) == b"", "the connection ends with the answer"
        refused = await ask(kept, "GET", "/v2/stream/s", NDJSON)
        assert refused.head.get("connection") == "close"
        assert (refused.status, refused.json()["type"]) == (503, "unavailable")
        assert 1 <= int(refused.head.get("retry-after") or 0) <= 5
        assert refused.head.get("access-control-allow-origin") == "*"
