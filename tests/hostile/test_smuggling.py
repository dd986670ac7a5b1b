"""A proxy and the gateway see the same requests.

The proxies are real, with the configurations that we ship. Whatever a client writes, it gets a
response to every request that reaches the application, and no part of a body is a request.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.hostile.raw import Pulse, answers, exchange
from tests.hostile.requests import EVERY, HOST, LAST
from tests.support.intake import TEST
from tests.support.proxies import before
from tests.support.target import Target

pytestmark = pytest.mark.anyio

QUIET_S = 0.2
"""A proxy may wait for the rest of an incomplete request."""
CHECKS = ("GET /readyz",)
"""Requests of the proxy and of the test itself."""
FORGED = b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@pytest.fixture(params=["nginx", "haproxy"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def through(port: int, pulse: Pulse, data: bytes) -> bytes:
    """Return what is received until the proxy ends the connection or is silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await pulse.received(reader, QUIET_S)
    finally:
        writer.transport.abort()


def served(on: Target) -> list[str]:
    """Return the requests that reached the application since the last call."""
    found = [request for request in on.requests if request not in CHECKS]
    on.requests.clear()
    return found


async def test_no_request_is_smuggled_past_a_proxy(
    everything: Target, tmp_path: Path, kind: str
) -> None:
    (tmp_path / kind).mkdir()
    async with (
        before(kind, everything.served, tmp_path / kind) as proxy,
        Pulse(proxy.port).running() as pulse,
    ):
        served(everything)
        passed = 0
        for name, case in EVERY:
            said = await through(proxy.port, pulse, case.data)
            reached = served(everything)
            count = said.count(b"HTTP/1.1 ") + said.count(b"HTTP/1.0 ")
            assert len(reached) <= max(count, 1), (name, reached, said[:300])
            passed += len(reached)
        assert passed > 10, "the proxy passes requests"
        everything.requests.clear()
        assert b"200" in (await exchange(proxy.port, LAST)).partition(b"\r\n")[0]
    await everything.is_unharmed()


async def test_a_request_in_a_body_is_never_executed(
    everything: Target, tmp_path: Path, kind: str
) -> None:
    (tmp_path / kind).mkdir()
    forged = json.dumps(
        [{"$schema": "/test/event/1.0.0", "meta": {"stream": TEST}, "test": "forged"}]
    )
    inner = FORGED + b"Content-Length: %d\r\n\r\n%b" % (len(forged), forged.encode())
    size = b"%d" % len(inner)
    heads = [
        b"Content-Length: " + size,
        b"Content-Length: " + size + b"\r\nContent-Length: 0",
        b"Content-Length: " + size + b"\r\nTransfer-Encoding: xchunked",
        b"Content-Length: " + size + b"\r\nTransfer-Encoding: chunked",
        b"Content-Length: " + size + b"\r\nTransfer-Encoding : chunked",
        b"Content-Length: " + size + b"\r\nTransfer-Encoding:\x0bchunked",
        b"Content-Length: " + size + b"\r\nConnection: Content-Length",
        b"Content-Length: " + size + b"\r\nExpect: 100-continue",
        b"Content-Length: " + size + b"\r\nUpgrade: h2c\r\nConnection: Upgrade",
        b"Content-Length: " + size + b"\r\nUpgrade: websocket\r\nConnection: Upgrade",
    ]
    async with (
        before(kind, everything.served, tmp_path / kind) as proxy,
        Pulse(proxy.port).running() as pulse,
    ):
        for line in heads:
            for first in (b"POST /nope", b"GET /v2/ui/", b"PUT /v1/events", b"HEAD /healthz"):
                outer = first + b" HTTP/1.1\r\n" + HOST + line + b"\r\n\r\n" + inner
                await asyncio.gather(*(through(proxy.port, pulse, outer) for _ in range(4)))
                said = await exchange(proxy.port, LAST)
                assert [answer.status for answer in answers(said)] == [200], (
                    "the next client's request"
                )
        assert b"forged" not in await _log_of(everything)
        assert "POST /v1/events" not in everything.requests
    await everything.is_unharmed()


async def _log_of(on: Target) -> bytes:
    [partition] = (await on.log.partitions([TEST]))[TEST]
    slice_ = await on.log.read(partition, 0, 2**20)
    return b"".join(event.value or b"" for event in slice_.events)
