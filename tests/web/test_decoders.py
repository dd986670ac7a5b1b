"""Programs of others decode a shared compressed stream that they join late."""

from __future__ import annotations

import asyncio
import gzip
import json
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from eventstreams.fanout.compression import Encoding
from tests.support.gateway import Served, Site
from tests.support.programs import browser, lines_with, running
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

BATCHES = 5
NODE = """
const answer = await fetch(process.argv[1], { headers: { "accept-encoding": "gzip" } });
console.log("coding " + answer.headers.get("content-encoding"));
const decoder = new TextDecoder();
for await (const part of answer.body) process.stdout.write(decoder.decode(part, { stream: true }));
console.log("ended");
"""


class Shared:
    """Run a gateway with a stream that another client already follows compressed."""

    def __init__(self, site: Site, gateway: Served, topic: str) -> None:
        self.site = site
        self.gateway = gateway
        self.topic = topic
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}/v2/stream/s"

    async def say(self) -> int:
        """Append another event."""
        self.sent += 1
        await self.site.produce(self.topic, {"n": self.sent, "text": "ä" * 300})
        return self.sent

    async def shared_by(self, members: int) -> None:
        """Wait until this many clients get the same bytes."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                cohorts = self.gateway.parts.hub._cohorts
                if members in [
                    len(c.members) for w, c in cohorts.items() if w.encoding is Encoding.GZIP
                ]:
                    return
                await asyncio.sleep(0.01)

    async def drain(self) -> None:
        await self.gateway.parts.hub.drain(0)


@asynccontextmanager
async def shared(site: Site) -> AsyncIterator[Shared]:
    topic = await site.topic()
    async with (
        site.gateway({"s": [topic]}, heartbeat_s=0.5) as gateway,
        gateway.stream("s", {"Accept-Encoding": "gzip"}, compress="gzip", heartbeat="checkpoint")
        as early,
    ):  # fmt: skip
        here = Shared(site, gateway, topic)
        await here.shared_by(1)
        for _ in range(BATCHES):
            await here.say()
        await gateway.until("events_out_total", BATCHES)
        taking = asyncio.create_task(early.rest())
        try:
            yield here
        finally:
            taking.cancel()


async def follows(here: Shared, process: Process) -> None:
    """The program gets each event immediately, and sees a proper end of the response."""
    for _ in range(BATCHES):
        n = await here.say()
        [data] = await lines_with(process, "data: ", 1)
        assert json.loads(data)["n"] == n
    await here.shared_by(2)
    await here.say()
    await lines_with(process, "data: ", 1)
    await here.drain()
    await lines_with(process, "retry: ", 1)


QUERY = "?compress=gzip&heartbeat=checkpoint"


async def test_curl_decodes_a_shared_compressed_stream(embedded: Site) -> None:
    async with (
        shared(embedded) as here,
        running("curl", "-sN", "--compressed", here.url + QUERY) as curl,
    ):
        await lines_with(curl, ":ok", 1)
        await follows(here, curl)
        assert await curl.wait() == 0, "it saw an incomplete response"


async def test_node_fetch_decodes_a_shared_compressed_stream(embedded: Site) -> None:
    command = "node", "--input-type=module", "-e", NODE
    async with shared(embedded) as here, running(*command, here.url + QUERY) as node:
        assert await lines_with(node, "coding ", 1) == ["gzip"]
        await lines_with(node, ":ok", 1)
        await follows(here, node)
        await lines_with(node, "ended", 1)


async def test_httpx_decodes_a_shared_compressed_stream(embedded: Site) -> None:
    async with (
        shared(embedded) as here,
        httpx.AsyncClient(timeout=PATIENCE_S) as client,
        client.stream("GET", here.url + QUERY) as answer,
    ):
        assert answer.headers["content-encoding"] == "gzip"
        lines = answer.aiter_lines()

        async def next_with(begin: str) -> str:
            return await anext(line async for line in lines if line.startswith(begin))

        for _ in range(BATCHES):
            n = await here.say()
            assert json.loads((await next_with("data: ")).removeprefix("data: "))["n"] == n
        await here.shared_by(2)
        await here.drain()
        await next_with("retry: ")
        assert [line async for line in lines] == []


async def test_browsers_get_and_resume_compressed_streams_by_default(embedded: Site) -> None:
    async with shared(embedded) as here:
        script = f"""
          const stream = new EventSource("{here.url}");
          stream.onopen = () => report("open");
          stream.onmessage = ({{ data, lastEventId }}) =>
            report([JSON.parse(data).n, JSON.parse(lastEventId)[0].offset]);
        """
        async with asyncio.timeout(PATIENCE_S * 2), browser(script) as page:
            assert await page.reports(1) == ["open"]
            await expected(here, page, BATCHES)
            await here.shared_by(2)
            await expected(here, page, 1)
            here.gateway.server.drop_connections()
            missed = [await here.say() for _ in range(3)]
            assert await page.reports(4) == ["open", *([n, n] for n in missed)]
            await expected(here, page, 2)


async def expected(here: Shared, page: Any, count: int) -> None:
    for _ in range(count):
        n = await here.say()
        assert await page.reports(1) == [[n, n]]


async def test_later_clients_do_not_disturb_a_compressed_stream(embedded: Site) -> None:
    topic = await embedded.topic()
    async with embedded.gateway({"s": [topic]}) as gateway:
        async with gateway.stream("s", {"Accept-Encoding": "gzip"}, compress="gzip") as early:
            for n in range(6):
                async with gateway.stream("s", compress="gzip"):
                    await embedded.produce(topic, {"n": n})
                    await early.chunk()
            await gateway.parts.hub.drain(0)
            await early.rest()
        body = gzip.decompress(b"".join(early.chunks))
    assert [json.loads(x[6:])["n"] for x in body.split(b"\n") if x[:6] == b"data: "] == list(
        range(6)
    )
