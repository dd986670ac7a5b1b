"""Requests for protocol upgrades, and clients of HTTP/1.0."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.gateway import Served, Site
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

UPGRADES = {
    "curl": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n",
    "HTTP/2": b"Upgrade: h2c\r\nConnection: upgrade\r\n",
    "a socket": b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n",
    "TLS": b"Connection: Upgrade\r\nUpgrade: TLS/1.0, HTTP/1.1\r\n",
    "nothing": b"Connection: Upgrade\r\n",
    "no connection": b"Upgrade: h2c\r\n",
}
FRAMINGS = {
    "length": (b"Content-Length: %d\r\n\r\n", b"%b", b""),
    "chunks": (b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n", b"0\r\nTrailer: x\r\n\r\n"),
}


@asynccontextmanager
async def opened(
    served: Served,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def everything(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        return await reader.read()


async def exchange(served: Served, *parts: bytes) -> bytes:
    """Send parts, each after reading what arrived; return everything until the connection ends."""
    async with opened(served) as (reader, writer):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        return await everything(reader)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_upgrades_do_not_affect_bodies(embedded: Site, upgrade: str, framing: str) -> None:
    body = b'{"$schema":"/nope/1.0.0","meta":{"stream":"nope"}}'
    head, piece, end = FRAMINGS[framing]
    if framing == "length":
        head, sent = head % len(body), body
    else:
        sent = piece % (5, body[:5]) + piece % (len(body) - 5, body[5:]) + end
    request = (
        b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        + UPGRADES[upgrade]
        + head
    )
    close = b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        for parts in (
            (request + sent + close,),
            (request, sent, close),
            (request[:30], request[30:] + sent[:7], sent[7:] + close),
        ):
            said = await exchange(gateway, *parts)
            assert b"empty" not in said
            first = said.partition(b"\r\n\r\n")[0]
            assert b"No event was accepted" in first or b"nope" in said, said
            assert b"Switching" not in said


@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_upgrades_do_not_affect_streams(embedded: Site, upgrade: str) -> None:
    topic = await embedded.topic()
    await embedded.produce(topic, {"n": 1})
    request = b"GET /v2/stream/s?since=0 HTTP/1.1\r\nHost: a\r\n" + UPGRADES[upgrade] + b"\r\n"
    async with (
        embedded.gateway({"s": [topic]}) as gateway,
        opened(gateway) as (reader, writer),
        asyncio.timeout(PATIENCE_S),
    ):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert head.count(b"connection: ") == 1
        assert b'"n":1' in await reader.readuntil(b"id: ")


async def old(served: Served, target: bytes, headers: bytes = b"") -> tuple[bytes, bytes]:
    said = await exchange(served, b"GET " + target + b" HTTP/1.0\r\n" + headers + b"\r\n")
    head, _, body = said.partition(b"\r\n\r\n")
    return head.lower(), body


@pytest.mark.parametrize(
    "headers", [b"", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n"]
)
@pytest.mark.parametrize("accept", [b"text/event-stream", b"application/json"])
@pytest.mark.parametrize("compress", [b"none", b"gzip"])
async def test_http_1_0_gets_no_chunks_and_one_connection_close(
    embedded: Site, headers: bytes, accept: bytes, compress: bytes
) -> None:
    topic = await embedded.topic()
    await embedded.produce(topic, *({"n": n} for n in range(300)))
    headers += b"Accept: " + accept + b"\r\nAccept-Encoding: gzip\r\n"
    async with embedded.gateway({"s": [topic]}, batch_bytes_max=1000) as gateway:
        head, body = await old(
            gateway, b"/v2/stream/s?since=0&limit=300&compress=" + compress, headers
        )
    assert head.startswith(b"http/1.1 200")
    assert b"transfer-encoding" not in head
    assert head.count(b"connection: ") == head.count(b"connection: close") == 1
    if compress == b"gzip":
        body = zlib.decompressobj(31).decompress(body)
    lines = body.split(b"\n")
    prefix = b"{" if accept == b"application/json" else b"data: {"
    events = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(prefix)]
    assert [event["n"] for event in events] == list(range(300))
    known = (b"", b":", b":ok")
    assert all(line in known or line.startswith((prefix, b"id: ", b"event: ")) for line in lines), (
        lines[:4]
    )


async def test_http_1_0_follows_a_stream_live_beside_others(embedded: Site) -> None:
    topic = await embedded.topic()
    async with (
        embedded.gateway({"s": [topic]}) as gateway,
        gateway.stream("s") as newer,
        opened(gateway) as (reader, writer),
        asyncio.timeout(PATIENCE_S),
    ):
        await newer.opened()
        writer.write(b"GET /v2/stream/s HTTP/1.0\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).lower().count(b"connection: ") == 1
        assert await reader.readexactly(5) == b":ok\n\n"
        await gateway.until("cohorts", 1)
        for n in range(3):
            await embedded.produce(topic, {"n": n})
            frame = await reader.readuntil(b"\n\n")
            assert frame.startswith(b"event: message\ndata: {")
            assert (await newer.frame()).document["n"] == n


@pytest.mark.parametrize(
    "target", [b"/?spec", b"/v2/ui/", b"/v2/selftest", b"/nope", b"/v2/stream/nope", b"/healthz"]
)
async def test_http_1_0_gets_every_page_without_chunks(embedded: Site, target: bytes) -> None:
    async with embedded.gateway({"s": [await embedded.topic()]}) as gateway:
        head, body = await old(gateway, target)
    assert b"transfer-encoding" not in head
    assert head.count(b"connection: ") == head.count(b"connection: close") == 1
    assert body
    assert not body.endswith(b"0\r\n\r\n")


async def test_a_final_response_does_not_promise_keep_alive(embedded: Site) -> None:
    topic = await embedded.topic()
    await embedded.produce(topic, {"n": 1})
    request = b"GET /v2/stream/s?since=0&limit=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    async with embedded.gateway({"s": [topic]}) as gateway:
        head = (await exchange(gateway, request)).partition(b"\r\n\r\n")[0]
    assert b"transfer-encoding: chunked" in head
    assert head.count(b"connection: ") == head.count(b"connection: close") == 1
