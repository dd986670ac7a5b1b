"""Memory for large heads and unread responses is limited, for each client and in total."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.server.held import SMALL_BYTES, Held, Holder
from eventstreams.server.http1 import HttpConnection
from tests.support.client import Client, connected
from tests.support.gateway import ask
from tests.support.target import Target
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

MB = 2**20
LONG = b"GET /v2/stream/nowhere?" + b"x" * 60_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
"""A request whose response repeats it."""


class Connection:
    """A holder that records whether it was dropped."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.dropped = False

    def abort(self) -> None:
        self.dropped = True


@given(
    st.lists(
        st.tuples(
            st.integers(0, 19), st.sampled_from([0, SMALL_BYTES, SMALL_BYTES + 1, 90_000, 400_000])
        ),
        max_size=60,
    )
)
def test_beyond_the_limit_the_largest_holder_is_dropped(
    steps: list[tuple[int, int]],
) -> None:
    held = Held(bytes_max=MB, client_bytes_max=MB // 2)
    connections = [Connection(f"client {n % 4}") for n in range(20)]
    sizes: dict[Connection, int] = {}
    for number, size in steps:
        connection = connections[number]
        if connection.dropped:
            continue
        held.count(connection, connection.client, size)
        sizes[connection] = size if size > SMALL_BYTES else 0
        for gone in [each for each in sizes if each.dropped]:
            del sizes[gone]
        assert held.size == sum(sizes.values()) <= MB
        for client in {each.client for each in connections}:
            assert sum(s for c, s in sizes.items() if c.client == client) <= MB // 2
    for connection in connections:
        held.release(connection)
    assert held.size == 0


def test_small_holders_are_not_dropped() -> None:
    held = Held(bytes_max=MB, client_bytes_max=MB)
    little = Connection("little")
    held.count(little, "little", 100_000)
    many = [Connection("much") for _ in range(100)]
    for connection in many:
        held.count(connection, "much", 100_000)
    assert not little.dropped
    assert sum(not each.dropped for each in many) == (MB - 100_000) // 100_000


@pytest.fixture
def held(everything: Target) -> Iterator[Held]:
    common = everything.served.server._common
    before, common.held = common.held, Held(bytes_max=2 * MB, client_bytes_max=MB)
    yield common.held
    common.held = before


@contextlib.asynccontextmanager
async def deaf(port: int) -> AsyncGenerator[Client]:
    """Connect a client whose buffers hold only a few KB."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def test_endless_heads_use_bounded_memory(everything: Target, held: Held) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(everything.port)) for _ in range(40)]
        for client in clients:
            client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000)
        connections = everything.served.server.server_state.connections
        async with asyncio.timeout(PATIENCE_S):
            while len(connections) > 15:
                await asyncio.sleep(0)
        assert MB // 2 < held.size <= MB
        assert (await everything.served.get("/healthz")).status == 200
    async with asyncio.timeout(PATIENCE_S):
        while held.size:
            await asyncio.sleep(0.01)
    await everything.is_unharmed()


async def test_unread_responses_use_bounded_memory(everything: Target, held: Held) -> None:
    most = 0
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(deaf(everything.port)) for _ in range(20)]
        for client in clients:
            for _ in range(60):
                client.writer.write(LONG)
        connections = everything.served.server.server_state.connections
        async with asyncio.timeout(PATIENCE_S):
            while len(connections) == 20 or held.size > MB:
                most = max(most, held.size)
                await asyncio.sleep(0)
        assert most <= MB
        assert (await everything.served.get("/healthz")).status == 200
    await everything.is_unharmed()


async def test_large_pipelined_responses_are_complete(everything: Target) -> None:
    async with deaf(everything.port) as client, asyncio.timeout(PATIENCE_S):
        for _ in range(12):
            client.writer.write(LONG)
        for _ in range(12):
            head = await client.head()
            assert head.status == 400
            assert b"x" * 60_000 in await client.body(head)
        assert (await ask(client, "GET", "/healthz")).status == 200
    await everything.is_unharmed()


async def test_an_idle_connection_keeps_no_head(everything: Target) -> None:
    async with connected(everything.port) as client, asyncio.timeout(PATIENCE_S):
        for _ in range(2):
            client.writer.write(LONG)
            await client.body(await client.head())
            connections = everything.served.server.server_state.connections
            while [bytes(c.url) for c in connections if isinstance(c, HttpConnection)] != [b""]:
                await asyncio.sleep(0)
        assert [c.cycle for c in connections if isinstance(c, HttpConnection)] == [None]


async def test_pipelined_bodies_are_counted_and_bounded(everything: Target, held: Held) -> None:
    post = b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    post += b"Content-Length: 30000\r\n\r\n" + b" " * 30_000
    ahead = 14
    sizes = [0]
    count = held.count

    def counted(holder: Holder, client: str, size: int) -> None:
        count(holder, client, size)
        sizes.append(held.size)

    held.count = counted  # type: ignore[method-assign]
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(deaf(everything.port)) for _ in range(10)]
        connections = everything.served.server.server_state.connections
        async with asyncio.timeout(PATIENCE_S):
            while len(connections) < 10:
                await asyncio.sleep(0)
            clients[0].writer.write(LONG + post * ahead)
            while max(sizes) < ahead * 30_000:  # without the bodies it would be 300 KB at most
                await asyncio.sleep(0)
            assert len(connections) == 10
            for client in clients[1:]:
                client.writer.write(LONG + post * ahead)
            while len(connections) == 10:
                await asyncio.sleep(0)
        assert MB // 2 < max(sizes) <= MB
        assert (await everything.served.get("/healthz")).status == 200
    await everything.is_unharmed()


async def test_a_lost_connection_keeps_no_requests_that_were_sent_ahead(
    everything: Target,
) -> None:
    """They refer to the connection, so they would stay until a garbage collection."""
    connections = everything.served.server.server_state.connections
    async with deaf(everything.port) as client, asyncio.timeout(PATIENCE_S):
        for _ in range(60):
            client.writer.write(LONG)
        while not (
            ahead := [c for c in connections if isinstance(c, HttpConnection) and c.pipeline]
        ):
            await asyncio.sleep(0)
        [connection] = ahead
    async with asyncio.timeout(PATIENCE_S):
        while connection in connections:
            await asyncio.sleep(0)
    assert not connection.pipeline
    await everything.is_unharmed()
