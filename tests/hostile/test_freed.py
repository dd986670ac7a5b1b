"""What requests and connections hold is freed with them, before a garbage collection."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eventstreams.server.http1 import HttpConnection
from tests.support.client import connected
from tests.support.intake import event
from tests.support.target import Target, target
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

COUNT = 8_765
"""No other list is that long."""
HEAD = (
    b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n"
)
BODY = b"[" + b",".join([b"1"] * COUNT) + b"]"
POST = HEAD % len(BODY) + BODY


@pytest.fixture
async def uncollected(tmp_path: Path) -> AsyncIterator[Target]:
    """Run a gateway without garbage collections."""
    async with target(tmp_path) as it:
        gc.collect()
        gc.disable()
        try:
            yield it
        finally:
            gc.enable()


def requests() -> int:
    """Return how many lists there are that hold all events of a request, or all rejections."""
    return sum(type(each) is list and len(each) == COUNT for each in gc.get_objects())


async def all_are_freed(target: Target) -> None:
    state = target.served.server.server_state

    def connections() -> int:
        found = [each for each in gc.get_objects() if isinstance(each, HttpConnection)]
        return sum(each.server_state is state for each in found)

    async with asyncio.timeout(PATIENCE_S):
        while requests() or connections():
            await asyncio.sleep(0.2)  # looking at all objects takes long; the gateway needs time


async def test_events_that_become_error_events_are_freed(uncollected: Target) -> None:
    unknown = json.dumps([event(stream="nowhere")] * COUNT).encode()
    for body in (BODY, unknown):
        async with connected(uncollected.port) as client:
            client.writer.write(HEAD % len(body) + body)
            head = await client.head()
            assert head.status == 400
            await client.body(head)
    await all_are_freed(uncollected)


@pytest.mark.parametrize(
    "data",
    [
        POST,
        POST * 3,
        POST[:-1],
        b"GET /?spec HTTP/1.1\r\nHost: a\r\n\r\n" * 8,
        b"GET /?spec HTTP/1.1\r\nHost: a\r\n",
    ],
    ids=["post", "three posts", "part of a post", "requests sent ahead", "part of a head"],
)
async def test_lost_connections_are_freed(uncollected: Target, data: bytes) -> None:
    seen = uncollected.served.server.server_state.connections
    async with connected(uncollected.port) as client, asyncio.timeout(PATIENCE_S):
        client.writer.write(data)
        while not seen:
            await asyncio.sleep(0.01)
    await all_are_freed(uncollected)


async def test_a_request_whose_client_is_gone_does_not_wait_for_its_turn(
    uncollected: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, seen = uncollected.served.parts.turns, uncollected.served.server.server_state
    monkeypatch.setattr(turns, "_pass_s", 0.0)  # no turn begins
    async with connected(uncollected.port) as client, asyncio.timeout(PATIENCE_S):
        client.writer.write(b"GET /?spec HTTP/1.1\r\nHost: a\r\n\r\n")
        while not turns.waiting:
            await asyncio.sleep(0.01)
        assert seen.tasks
    async with asyncio.timeout(PATIENCE_S):
        while seen.tasks:
            await asyncio.sleep(0.01)
    monkeypatch.undo()
