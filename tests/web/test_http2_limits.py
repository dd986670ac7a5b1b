"""What one connection of HTTP/2 may ask for and hold; beyond it, it alone pays."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import h2.settings
import pytest

from eventstreams.server import http2
from eventstreams.settings import LimitSettings
from tests.web.certificates import certificate
from tests.web.client import PATIENCE_S
from tests.web.gateway import Site
from tests.web.http2 import SSE, http2_client
from tests.web.http2_place import (
    CALM,
    PRIOR,
    REFUSED,
    connection_of,
    nothing_runs,
    served,
)

pytestmark = pytest.mark.anyio


async def test_more_streams_than_may_be_open_are_refused_and_may_come_again(
    embedded: Site,
) -> None:
    async with served(embedded) as (topic, _, client):
        assert (await client.answer("/healthz")).status == 200
        most = client.h2.remote_settings.max_concurrent_streams
        assert 100 <= most <= 128
        open_ = [client.ask("/v2/stream/s", SSE) for _ in range(most)]
        for stream in open_:
            await stream.opened()
        code = h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS
        client.h2.remote_settings[code] = 1000  # a client that does not listen
        client.h2.remote_settings.acknowledge()
        beyond = await client.answer("/v2/stream/s", headers=SSE)
        assert beyond.reset == REFUSED
        open_.pop().take_back()
        again = client.ask("/v2/stream/s", SSE)
        await again.opened()
        await embedded.produce(topic, {"n": 1})
        for stream in (*open_, again):
            assert [d["n"] for d in await stream.events(1)] == [1]


async def test_a_client_that_takes_back_too_much_is_told_to_go_elsewhere(embedded: Site) -> None:
    async with served(embedded) as (topic, gateway, client):
        stays = client.ask("/v2/stream/s", SSE)
        await stays.opened()
        while client.goaway is None:
            again = client.ask("/v2/stream/s", SSE)
            again.take_back()
            await client.heard()
        assert client.goaway.error_code == 0
        await embedded.produce(topic, {"n": 1})
        assert [d["n"] for d in await stays.events(1)] == [1]
        late = client.ask("/healthz")
        await late.over()
        assert late.reset == REFUSED
        stays.take_back()
        await client.end()
        await nothing_runs(gateway)
        assert client.goaways == 1


async def test_a_rapid_reset_makes_no_work_that_goes_on(embedded: Site) -> None:
    """As many requests as a client likes, each taken back in the same write (CVE-2023-44487)."""
    asked: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])

    async with served(embedded) as (_, gateway, client):
        assert (await client.answer("/healthz")).status == 200
        connection_of(gateway).app = app
        for _ in range(1000):
            number = client.h2.get_next_available_stream_id()
            pairs = [(":method", "GET"), (":scheme", "https"), (":authority", "gateway")]
            client.h2.send_headers(number, [*pairs, (":path", "/v2/stream/s")], end_stream=True)
            client.h2.reset_stream(number)
        client.flush()
        await client.end()
        assert client.goaway is not None
        assert len(asked) < 20, "but for those whose reset was not read with them"
        await nothing_runs(gateway)


async def test_a_connection_with_many_requests_is_renewed_without_a_loss(
    embedded: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http2, "REQUESTS_MAX", 10)
    async with served(embedded) as (topic, _, client):
        stays = client.ask("/v2/stream/s", SSE)
        await stays.opened()
        for _ in range(9):
            assert (await client.answer("/healthz")).status == 200
        await client.until(lambda: client.goaway is not None)
        await embedded.produce(topic, {"n": 1})
        assert [d["n"] for d in await stays.events(1)] == [1]
        stays.take_back()
        await client.end()


async def test_a_head_beyond_the_limit_is_refused_and_the_connection_lives(embedded: Site) -> None:
    limits = LimitSettings(head_bytes_max=1000)
    async with served(embedded, limits=limits) as (_, _, client):
        assert (await client.answer("/healthz", headers={"x": "y" * 2000})).status == 431
        assert (await client.answer("/healthz", headers={"x": "y" * 500})).status == 200


async def test_pings_that_nobody_reads_the_answers_of_end_the_connection(embedded: Site) -> None:
    async with served(embedded) as (_, gateway, client):
        stream = client.ask("/v2/stream/s", SSE)
        await stream.opened()
        client.writer.transport.pause_reading()
        ping = b"\0\0\x08\x06\0\0\0\0\0" + b"12345678"
        with suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE_S):  # much less than TCP gives it
                while not client.writer.transport.is_closing():
                    client.writer.write(ping * 5_000)
                    await client.writer.drain()
                    await asyncio.sleep(0)
        await nothing_runs(gateway)
        assert not gateway.server.server_state.connections


async def test_a_connection_that_asks_for_nothing_is_closed_whatever_it_says(
    embedded: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http2, "HEAD_S", 0.3)
    async with served(embedded) as (_, _, client):
        async with asyncio.timeout(PATIENCE_S):
            while not client.closed:
                client.h2.ping(b"12345678")
                client.flush()
                await asyncio.sleep(0.01)
        assert client.goaway is not None
        assert client.pings > 1


GARBAGE = [
    b"\0" * 100,
    b"\xff" * 100,
    b"GET / HTTP/1.1\r\n\r\n" * 10,
    b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0",  # credit of nothing
    b"\0\0\x04\x08\0\0\0\0\0\x7f\xff\xff\xff" * 2,  # credit beyond what can be
    b"\0\0\x05\x01\x05\0\0\0\x02hello",  # a stream of a number that is not a client's
    b"\0\0\x05\x01\x05\0\0\0\x01\xff\xff\xff\xff\xff",  # a head that can't be decoded
    b"\0\0\x05\x01\0\0\0\0\x01\x82\x82\x82\x82\x82",  # a head without an end
]


@pytest.mark.parametrize("said", GARBAGE)
async def test_garbage_after_the_preface_ends_its_own_connection_alone(
    embedded: Site, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http2, "HEAD_S", 0.3)
    async with served(embedded) as (topic, gateway, client):
        stream = client.ask("/v2/stream/s", SSE)
        await stream.opened()
        async with http2_client(gateway.port) as other:
            other.writer.write(said)
            await other.end()
        await embedded.produce(topic, {"n": 1})
        assert [d["n"] for d in await stream.events(1)] == [1]


async def test_a_path_that_is_not_ascii_costs_its_stream_alone(embedded: Site) -> None:
    async with served(embedded) as (_, _, client):
        odd = await client.answer("/\xff\xfe")
        assert odd.reset == 1
        assert (await client.answer("/healthz")).status == 200


@pytest.mark.parametrize("secret", [True, False])
async def test_beyond_the_most_connections_one_is_told_before_it_asks(
    embedded: Site, tmp_path: Path, *, secret: bool
) -> None:
    files = certificate(tmp_path)
    http = files.http() if secret else PRIOR
    tls = files.client("h2") if secret else None
    limits = LimitSettings(connections_max=1)
    async with (
        embedded.gateway({"s": ["t"]}, http=http, limits=limits) as gateway,
        http2_client(gateway.port, tls) as there,
    ):
        assert (await there.answer("/healthz")).status == 200
        async with http2_client(gateway.port, tls) as beyond:
            await beyond.end()
            assert beyond.goaway is not None
            assert (beyond.goaway.error_code, beyond.goaway.last_stream_id) == (CALM, 0)
        assert (await there.answer("/healthz")).status == 200
