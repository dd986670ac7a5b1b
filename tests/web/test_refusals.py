"""Connections beyond the limit get the reason, and are soon closed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal, cast

import pytest

from eventstreams.config.settings import HttpSettings, LimitSettings
from eventstreams.server.http1 import HttpConnection
from eventstreams.server.rejection import Rejection
from tests.support.client import Client, Head, connected
from tests.support.gateway import Served, Site, ask
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

ONE = LimitSettings(connections_max=1)
REQUEST = b"GET /v2/stream/s HTTP/1.1\r\nHost: gateway\r\n\r\n"


def refusals(gateway: Served) -> Rejection:
    return cast("type[HttpConnection]", gateway.server.config.http_protocol_class).common.refusals


async def refused(client: Client) -> Head:
    head = await client.head()
    assert head.status == 503
    assert (await client.body(head)).startswith(b'{"status":503,')
    return head


async def nobody_lingers(gateway: Served) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while refusals(gateway).lingering:
            await asyncio.sleep(0)


@asynccontextmanager
async def full(
    site: Site, http: HttpSettings | None = None, **connections: float
) -> AsyncIterator[tuple[Served, Head]]:
    """Run a gateway at its connection limit; yield it, and the head of a response of its client."""
    streams = {"s": [await site.topic()]}
    async with (
        site.gateway(streams, limits=ONE, http=http, connections=connections) as gateway,
        connected(gateway.port) as there,
    ):
        head = (await ask(there, "GET", "/healthz")).head
        await there.send("GET", "/v2/stream/s")  # an idle connection would be closed
        assert (await there.head()).status == 200
        yield gateway, head


@pytest.mark.parametrize("size", [len(REQUEST), 150_000])
async def test_unread_bytes_do_not_lose_a_refusal(embedded: Site, size: int) -> None:
    async with full(embedded) as (gateway, _), connected_after(gateway, REQUEST.ljust(size)) as out:
        await refused(out)
        assert await out.some(1) == b"", "the connection ended without a reset"
    await nobody_lingers(gateway)


async def test_bytes_after_a_refusal_cause_no_reset(embedded: Site) -> None:
    async with full(embedded, linger_s=PATIENCE_S) as (gateway, _):
        async with connected(gateway.port) as out:
            await refused(out)
            assert await out.some(1) == b""
            [lingering] = refusals(gateway)._lingering
            for sent in range(len(REQUEST), 10 * len(REQUEST), len(REQUEST)):
                out.writer.write(REQUEST)
                async with asyncio.timeout(PATIENCE_S):
                    while lingering._bytes < sent:
                        await asyncio.sleep(0)
            assert refusals(gateway).lingering == 1
        await nobody_lingers(gateway)


async def test_the_number_of_refused_connections_is_limited(embedded: Site) -> None:
    few = {"lingering_max": 2, "linger_s": PATIENCE_S}
    async with full(embedded, **few) as (gateway, _), AsyncExitStack() as stack:
        held = []
        for count in range(1, 6):
            out = await stack.enter_async_context(connected(gateway.port))
            await refused(out)
            assert refusals(gateway).lingering == min(count, 2)
            newest, held = held[-1:], list(refusals(gateway)._lingering)
            assert held[:-1] == newest, "the oldest was dropped"
        assert len(gateway.server.server_state.connections) == 1


async def test_a_refused_client_that_sends_forever_is_dropped(embedded: Site) -> None:
    async with full(embedded) as (gateway, _), connected(gateway.port) as out:
        await refused(out)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(ConnectionError):
                await _send_for_ever(out.writer)
        assert not refusals(gateway).lingering


async def test_a_refused_client_that_never_disconnects_is_dropped(embedded: Site) -> None:
    async with full(embedded, linger_s=0.05) as (gateway, _), connected(gateway.port) as out:
        await refused(out)
        await nobody_lingers(gateway)


async def test_refused_connections_do_not_count(embedded: Site) -> None:
    streams, long = {"s": [await embedded.topic()]}, {"linger_s": PATIENCE_S}
    async with (
        embedded.gateway(streams, limits=ONE, connections=long) as gateway,
        AsyncExitStack() as stack,
    ):
        async with gateway.stream("s"):
            for _ in range(3):
                await refused(await stack.enter_async_context(connected(gateway.port)))
        async with asyncio.timeout(PATIENCE_S):
            while gateway.server.server_state.connections:
                await asyncio.sleep(0)
        assert refusals(gateway).lingering == 3
        async with gateway.stream("s") as stream:
            await stream.opened()


async def test_a_stop_drops_refused_connections(embedded: Site) -> None:
    async with full(embedded, linger_s=PATIENCE_S) as (gateway, _), connected(gateway.port) as out:
        await refused(out)
        assert refusals(gateway).lingering == 1
        await gateway.parts.hub.reachable.wait()
        await gateway.server.drain()
        assert not refusals(gateway).lingering


@pytest.mark.parametrize("said", [b"", b"GET /", b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"])
async def test_the_oldest_idle_connection_is_closed_first(embedded: Site, said: bytes) -> None:
    limits = LimitSettings(connections_max=4)
    async with (
        embedded.gateway({"s": [await embedded.topic()]}, limits=limits) as gateway,
        gateway.stream("s") as stream,
        AsyncExitStack() as stack,
    ):
        await stream.opened()
        idle = [await stack.enter_async_context(connected(gateway.port)) for _ in range(3)]
        for one in idle:
            one.writer.write(said)
            if said.endswith(b"\r\n\r\n"):
                await one.body(await one.head())
        for left in (2, 1):
            client = await stack.enter_async_context(connected(gateway.port))
            assert (await ask(client, "GET", "/healthz")).status == 200
            assert await idle[2 - left].some(1) == b"", "the connection ended"
        idle[2].writer.write(b"\r\n")
        assert len(gateway.server.server_state.connections) == 4
        assert gateway.count("refused_total", code="GatewayFull") == 0
        assert len(gateway.parts.hub.subscriptions) == 1


EVENT_SOURCE = (
    b"GET /v2/stream/s HTTP/1.1\r\nHost: gateway\r\nAccept: text/event-stream\r\n"
    b"Sec-Fetch-Site: cross-site\r\n\r\n"
)


@pytest.mark.parametrize("pieces", [1, 3])
async def test_event_source_survives_a_refused_connection(embedded: Site, pieces: int) -> None:
    async with (
        full(embedded, refused_head_s=PATIENCE_S) as (gateway, _),
        connected(gateway.port) as out,
    ):
        size = len(EVENT_SOURCE) // pieces + 1
        for begin in range(0, len(EVENT_SOURCE), size):
            out.writer.write(EVENT_SOURCE[begin : begin + size])
            await out.writer.drain()
        head = await out.head()
        body = (await out.body(head)).decode()
        assert head.status == 200
        assert (head.get("content-type") or "").startswith("text/event-stream")
        assert head.get("access-control-allow-origin") == "*"
        assert "event: error\n" in body
        assert "id:" not in body
        assert body.splitlines()[-1].startswith("retry: ")
        assert await out.some(1) == b"", "the connection ended without a reset"
        assert gateway.count("refused_total", code="GatewayFull") == 1


async def test_other_refused_clients_get_the_status(embedded: Site) -> None:
    library = EVENT_SOURCE.replace(b"Sec-Fetch-Site: cross-site\r\n", b"")
    posting = EVENT_SOURCE.replace(b"GET", b"POST")
    for sent in (library, posting, REQUEST, b"", b"GET /", b"\r\n\r\n", b"\0:\xff\r\n\r\n"):
        async with full(embedded) as (gateway, _), connected(gateway.port) as out:
            out.writer.write(sent)
            await refused(out)
    http = HttpSettings(event_source_refusals="status")
    async with full(embedded, http) as (gateway, _), connected(gateway.port) as out:
        out.writer.write(EVENT_SOURCE)
        await refused(out)


@pytest.mark.parametrize("cors", ["*", "https://example.org", False])
@pytest.mark.parametrize("csp", [HttpSettings().csp, False])
async def test_refusals_have_the_common_headers(
    embedded: Site, cors: str | Literal[False], csp: str | Literal[False]
) -> None:
    http = HttpSettings(cors=cors, csp=csp)
    async with full(embedded, http) as (gateway, other), connected(gateway.port) as out:
        head = await refused(out)
    own = {"content-type", "content-length", "retry-after", "connection", "date"}
    assert sorted((n, v) for n, v in head.headers if n not in own) == sorted(
        (n, v) for n, v in other.headers if n not in own
    )
    assert {name for name, _ in head.headers} >= own
    assert head.get("access-control-allow-origin") == (cors or None)


async def _send_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 10_000)
        await writer.drain()
        await asyncio.sleep(0)


@asynccontextmanager
async def connected_after(gateway: Served, data: bytes) -> AsyncIterator[Client]:
    """A client that has sent this, as far as it fits, before the gateway can see that it came."""
    sock = socket.create_connection(("127.0.0.1", gateway.port))
    sock.setblocking(False)
    sent = sock.send(data)
    reader, writer = await asyncio.open_connection(sock=sock, limit=2**24)
    writer.write(data[sent:])
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()
