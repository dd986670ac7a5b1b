"""Deliberately slow clients are disconnected in time, others are served meanwhile, and
nothing is left behind.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from eventstreams.config.settings import FanoutSettings
from tests.hostile.raw import answers
from tests.hostile.requests import GET
from tests.hostile.sent import STREAM
from tests.support.client import Client, connected
from tests.support.gateway import ask
from tests.support.target import Target, target
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

MANY = 300
TIMEOUT_S = 0.5
POST = b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
PAGES = b"GET /?spec HTTP/1.1\r\nHost: a\r\n\r\n" * 17


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[Target]:
    connections = {"head_s": TIMEOUT_S}
    fanout = FanoutSettings(stall_timeout_s=TIMEOUT_S)
    # Other tests check the limits of concurrent posts.
    room = {
        "in_flight_bytes_max": 2**32,
        "client_in_flight_bytes_max": 2**32,
        "client_bodies_max": 2**16,
    }
    async with target(
        tmp_path, fanout=fanout, connections=connections, body_timeout_s=TIMEOUT_S, **room
    ) as it:
        yield it


@asynccontextmanager
async def many(
    on: Target, sent: bytes = b"", *, count: int = MANY, **how: int
) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(count if sent != PAGES else count // 3):
            client = await stack.enter_async_context(connected(on.port, **how))
            client.writer.write(sent)
            clients.append(client)
        yield clients


async def all_are_ended(on: Target, each_turn: Callable[[], None] = lambda: None) -> None:
    """Wait until all are disconnected; each turn is one request of another client."""
    connections = on.served.server.server_state.connections
    async with asyncio.timeout(PATIENCE_S):
        while True:
            # On a busy machine the other client may be slow too, and is then disconnected as well.
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                async with connected(on.port) as other:
                    assert (await ask(other, "GET", "/healthz")).status == 200
                    while len(connections) > 1:
                        each_turn()
                        assert (await ask(other, "GET", "/healthz")).status == 200
                    return


def write_all(clients: list[Client], data: bytes) -> None:
    for client in clients:
        if not client.writer.transport.is_closing():
            client.writer.write(data)


def endless(text: bytes) -> Iterator[bytes]:
    while True:
        for byte in text:
            yield bytes([byte])


SLOW = {
    "a head": (b"GET /healthz HTTP/1.1\r\nHost: a\r\n", b"X: y\r\n"),
    "a target": (b"GET /", b"a"),
    "a head behind an answer": (GET + b"GET /healthz HTTP/1.1\r\n", b"X: y\r\n"),
    "a body": (POST + b"Content-Length: 1000000\r\n\r\n", b" "),
    "chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "a chunk's extension": (POST + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a"),
    "trailers": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    "a body nobody asked for": (
        b"PUT /no HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n",
        b"a",
    ),
    "nothing": (b"", b""),
    "line ends": (b"", b"\r\n"),
}


@pytest.mark.parametrize("name", SLOW)
async def test_slow_senders_are_disconnected(impatient: Target, name: str) -> None:
    start, rest = SLOW[name]
    bytes_ = endless(rest) if rest else itertools.repeat(b"")
    async with many(impatient, start) as clients:
        await all_are_ended(impatient, lambda: write_all(clients, next(bytes_)))
        async with asyncio.timeout(PATIENCE_S):
            for client in clients:
                found = [answer.status for answer in answers(await client.rest())]
                assert found in ([], [200], [408], [404]), name
    await impatient.is_unharmed()


async def test_slow_readers_are_disconnected(impatient: Target) -> None:
    async with many(impatient, PAGES, receive_buffer=4096) as clients:
        for client in clients:
            client.pause()
        await all_are_ended(impatient)
    await impatient.is_unharmed()


async def test_a_body_does_not_keep_a_stream_from_ending(
    impatient: Target,
) -> None:
    sent = (
        b"GET " + STREAM + b"?max_seconds=0.5 HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n"
    )
    async with many(impatient, sent) as clients:
        await all_are_ended(impatient, lambda: write_all(clients, b"a"))
    await impatient.is_unharmed()


async def test_disconnects_during_long_responses_are_no_errors(impatient: Target) -> None:
    """Clients leave before the first byte of a response, during it, or after it was sent."""
    body = b"[%b]" % b",".join([b"{}"] * 4000)
    request = POST + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    for taken in (0, 1, 40_000):
        async with many(impatient, request, count=8) as clients:
            for client in clients:
                if taken:
                    with suppress(ConnectionError):  # on a busy machine, it read too slowly
                        await client.some(taken)
            for client in clients:
                client.writer.transport.abort()
            await all_are_ended(impatient)
    await impatient.is_unharmed()
