"""Streams and posts through real proxies, with the configurations that we ship."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventstreams.config.settings import LimitSettings
from tests.support.gateway import Site
from tests.support.intake import TEST, event, place
from tests.support.programs import running
from tests.support.proxies import KINDS, Proxy, before, replaced
from tests.support.waiting import PATIENCE_S
from tests.support.wire import Frame, frames_of

pytestmark = pytest.mark.anyio
BEATS = {"heartbeat_s": 0.2}
"""HAProxy notices a disconnected client only when it writes."""
FIRST_BYTE_S = 0.2
STREAMS = 12
"""Twice as many connections as a browser opens to a host over HTTP/1.1."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Reader:
    """A client that accepts any division into pieces."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._pieces = answer.aiter_bytes()
        self.body = b""

    async def frames(self, count: int) -> list[Frame]:
        async with asyncio.timeout(PATIENCE_S):
            while len(found := self._events()) < count:
                self.body += await anext(self._pieces)
        return found

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while text not in self.body:
                self.body += await anext(self._pieces)

    async def rest(self) -> list[Frame]:
        """Return everything that still arrives from a stopped proxy."""
        async with asyncio.timeout(PATIENCE_S):
            with suppress(httpx.HTTPError):
                async for piece in self._pieces:
                    self.body += piece
        return self._events()

    def _events(self) -> list[Frame]:
        return [frame for frame in frames_of(self.body) if frame.event == "message"]


@asynccontextmanager
async def reading(
    proxy: Proxy, target: str, *, secure: bool = False, **headers: str
) -> AsyncIterator[Reader]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    url = proxy.tls_url if secure else proxy.url
    sent = {"accept": "text/event-stream", "accept-encoding": "identity", **names}
    async with (
        httpx.AsyncClient(timeout=PATIENCE_S, verify=proxy.trusting()) as client,
        client.stream("GET", url + target, headers=sent) as answer,
    ):
        yield Reader(answer)


def numbers(frames: list[Frame]) -> list[int]:
    return [json.loads(frame.data)["n"] for frame in frames]


@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_proxies_pass_each_event_immediately(
    embedded: Site, tmp_path: Path, kind: str, coding: str
) -> None:
    topic = await embedded.topic()
    async with (
        embedded.gateway({"s": [topic]}) as gateway,
        before(kind, gateway, tmp_path) as proxy,
        reading(
            proxy,
            f"/v2/stream/s?compress={coding.replace('identity', 'none')}",
            accept_encoding=coding,
        ) as reader,
    ):
        assert reader.answer.headers.get("content-encoding", "identity") == coding
        assert reader.answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        await reader.until(b":ok")
        for n in range(3):
            await embedded.produce(topic, {"n": n})
            assert numbers(await reader.frames(n + 1)) == list(range(n + 1))


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
async def test_proxies_add_less_than_200_ms(
    embedded: Site, tmp_path: Path, kind: str, *, secure: bool
) -> None:
    """A busy machine delays some of the answers, a buffering proxy all of them."""
    topic = await embedded.topic()
    first_s, event_s = [math.inf], [math.inf]
    async with (
        embedded.gateway({"s": [topic]}) as gateway,
        before(kind, gateway, tmp_path) as proxy,
        asyncio.timeout(PATIENCE_S),
    ):
        for n in itertools.count():
            if min(first_s) < FIRST_BYTE_S and min(event_s) < FIRST_BYTE_S:
                break
            asked = time.monotonic()
            async with reading(proxy, "/v2/stream/s", secure=secure) as reader:
                await reader.until(b":ok")
                first_s.append(time.monotonic() - asked)
                produced = time.monotonic()
                await embedded.produce(topic, {"n": n})
                assert numbers(await reader.frames(1)) == [n]
                event_s.append(time.monotonic() - produced)


async def test_http_2_streams_share_a_connection_without_delay(
    embedded: Site, tmp_path: Path, kind: str
) -> None:
    topic = await embedded.topic()
    async with (
        embedded.gateway({"s": [topic]}, **BEATS) as gateway,
        before(kind, gateway, tmp_path) as proxy,
    ):
        urls = [f"{proxy.tls_url}/v2/stream/s?max_seconds=30&_={n}" for n in range(STREAMS)]
        trust = ("--cacert", str(proxy.certificate))
        command = ("curl", "-sS", "-N", "-i", "-Z", "--http2", *trust, *urls)
        async with running(*command) as curl, asyncio.timeout(PATIENCE_S):
            assert curl.stdout is not None
            await gateway.until("clients", STREAMS)
            seen = b""
            for n in range(3):
                await embedded.produce(topic, {"n": n})
                while len(re.findall(rb"^data: ", seen, re.MULTILINE)) < STREAMS * (n + 1):
                    seen += await curl.stdout.read(1 << 16)
            assert seen.count(b"HTTP/2 200") == STREAMS
        await gateway.until("clients", 0)


async def test_the_selftest_passes_through_proxies(
    embedded: Site, tmp_path: Path, kind: str
) -> None:
    async with (
        embedded.gateway({"s": [await embedded.topic()]}) as gateway,
        before(kind, gateway, tmp_path) as proxy,
    ):
        assert not await is_held_back(proxy)


async def test_the_selftest_detects_a_buffering_proxy(embedded: Site, tmp_path: Path) -> None:
    def buffering(text: str) -> str:
        packed = "gzip on; gzip_types text/event-stream; gzip_proxied any;"
        return replaced(text, "gzip off;", f"{packed} proxy_ignore_headers X-Accel-Buffering;")

    async with (
        embedded.gateway({"s": [await embedded.topic()]}) as gateway,
        before("nginx", gateway, tmp_path, buffering) as proxy,
    ):
        assert await is_held_back(proxy)


async def is_held_back(proxy: Proxy) -> bool:
    """Return whether the first event arrived before the last was sent."""
    async with reading(proxy, "/v2/selftest", accept_encoding="gzip") as reader:
        await reader.frames(1)
        came_ms = time.time() * 1000
        frames = await reader.frames(10)
    return bool(came_ms >= json.loads(frames[-1].data)["sent_ms"])


async def test_proxies_pass_posts_unchanged(tmp_path: Path, kind: str) -> None:
    """Post bodies of the greatest size, with a length and in chunks; larger ones are refused."""
    async with place(tmp_path, error_stream=None) as intake:
        (tmp_path / "proxy").mkdir()
        async with (
            before(kind, intake.served, tmp_path / "proxy") as proxy,
            httpx.AsyncClient(base_url=proxy.url, timeout=PATIENCE_S) as http,
        ):
            texts = [f"{n} {'x' * 1000}" for n in range(3000)]
            body = json.dumps([event(text) for text in texts]).encode()
            assert 3_000_000 < len(body) < 4 << 20

            async def pieces() -> AsyncIterator[bytes]:
                for at in range(0, len(body), 100_000):
                    yield body[at : at + 100_000]

            kind_ = {"content-type": "application/json"}
            for content in (body, pieces()):
                answer = await http.post("/v1/events", content=content, headers=kind_)
                assert answer.status_code == 201
            url = f"{proxy.url}/v1/events"
            assert await asyncio.to_thread(_status_of_post, url, body * 2, kind_) == 413
        assert [document["test"] for document in await intake.documents(TEST)] == 2 * texts


def _status_of_post(url: str, body: bytes, headers: dict[str, str]) -> int:
    """Return the status of a post whose answer comes before its body is read.

    Caddy resets such a connection half a second after it answered. A blocking client still gets the
    answer then; asyncio drops what it has not read when a write fails.
    """
    return httpx.post(url, content=body, headers=headers, timeout=PATIENCE_S).status_code


async def test_heartbeats_keep_streams_open_through_proxies(
    embedded: Site, tmp_path: Path, kind: str
) -> None:
    async with (
        embedded.gateway({"s": [await embedded.topic()]}, heartbeat_s=0.2) as gateway,
        before(kind, gateway, tmp_path) as proxy,
        reading(proxy, "/v2/stream/s") as reader,
    ):
        await reader.until(b":ok\n\n:\n:\n")


async def test_a_restarted_proxy_loses_no_event(embedded: Site, tmp_path: Path, kind: str) -> None:
    topic = await embedded.topic()
    got: list[int] = []
    async with (
        embedded.gateway({"s": [topic]}) as gateway,
        before(kind, gateway, tmp_path) as proxy,
    ):
        headers: dict[str, str] = {}
        target = "/v2/stream/s?since=earliest"
        for round_ in range(4):
            async with reading(proxy, target, **headers) as reader:
                await embedded.produce(topic, *({"n": 10 * round_ + n} for n in range(10)))
                frames = await reader.frames(7)
                await proxy.kill()
                frames = await reader.rest()
            got += numbers(frames)
            headers = {"last_event_id": frames[-1].id or ""}
            await proxy.start()
        async with reading(proxy, target, **headers) as reader:
            got += numbers(await reader.frames(40 - len(got))) if len(got) < 40 else []
    assert got == list(range(40))


async def test_limits_use_the_real_address_behind_proxies(
    embedded: Site, tmp_path: Path, kind: str
) -> None:
    limits = LimitSettings(client_ip_connections=1)
    invented: list[dict[str, Any]] = [
        {"x_client_ip": "192.0.2.1"},
        {"x_forwarded_for": "192.0.2.2"},
        {},
    ]
    async with (
        embedded.gateway({"s": [await embedded.topic()]}, limits=limits, **BEATS) as gateway,
        before(kind, gateway, tmp_path) as proxy,
    ):
        async with reading(proxy, "/v2/stream/s", x_client_ip="192.0.2.9") as first:
            await first.until(b":ok")
            for headers in invented:
                async with reading(proxy, "/v2/stream/s", **headers) as other:
                    assert other.answer.status_code == 429
        await gateway.until("clients", 0)


async def test_a_disconnect_is_noticed_behind_proxies(
    embedded: Site, tmp_path: Path, kind: str
) -> None:
    topic = await embedded.topic()
    async with (
        embedded.gateway({"s": [topic]}, **BEATS) as gateway,
        before(kind, gateway, tmp_path) as proxy,
    ):
        async with reading(proxy, "/v2/stream/s") as reader:
            await reader.until(b":ok")
            assert gateway.count("clients") == 1
        await gateway.until("clients", 0)
