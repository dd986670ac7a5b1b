"""When every connection has a request, the client with the most of them makes room for others."""

from __future__ import annotations

from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.config.settings import HttpSettings, LimitSettings
from eventstreams.server.busy import FEW, BusyConnections
from tests.support.client import Client, connected
from tests.support.gateway import ask
from tests.support.intake import TEST
from tests.support.target import target

pytestmark = pytest.mark.anyio

MANY = FEW + 4
POST = (
    b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n"
)
SLOWLY = {"body_timeout_s": 3600, "body_bytes_per_s_min": 1}
"""A body of 900 bytes may take a quarter of an hour."""


async def busy_connection(stack: AsyncExitStack, port: int) -> Client:
    """Return a connection that waits for the body of a post."""
    client = await stack.enter_async_context(connected(port, address="127.0.0.2"))
    client.writer.write(POST)
    assert (await client.head()).status == 100
    client.writer.write(b" " * 900)
    return client


class Connection:
    def make_way(self) -> None:
        raise NotImplementedError


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("ab"), st.integers(0, 40)), max_size=200))
def test_the_newest_connection_of_the_largest_client_is_closed(
    steps: list[tuple[bool, str, int]],
) -> None:
    connections = defaultdict[tuple[str, int], Connection](Connection)
    expected: dict[str, list[Connection]] = {"a": [], "b": [], "c": []}
    busy = BusyConnections()
    for adds, client, number in [*((True, "a", n) for n in range(FEW)), *steps]:
        connection, counted = connections[client, number], expected[client]
        if adds:
            busy.add(connection, client)
            counted += [] if connection in counted else [connection]
        else:
            busy.remove(connection, client)
            expected[client] = [each for each in counted if each is not connection]
        most = max(map(len, expected.values()))
        newest = [each[-1] for each in expected.values() if each and len(each) == most]
        for newcomer, own in expected.items():
            closed = busy.to_close_for(newcomer)
            if most > FEW and most > 2 * len(own):
                assert closed in newest
            else:
                assert closed is None


async def test_busy_connections_of_one_client_lock_out_no_others(tmp_path: Path) -> None:
    async with (
        target(
            tmp_path,
            http=HttpSettings(trusted_proxies=()),
            limits=LimitSettings(connections_max=MANY),
            **SLOWLY,
        ) as it,
        it.served.stream(TEST) as stream,
        AsyncExitStack() as stack,
    ):
        await stream.opened()
        busy = [await busy_connection(stack, it.port) for _ in range(MANY - 1)]
        async with connected(it.port, address="127.0.0.2") as another:
            assert (await ask(another, "GET", "/healthz")).status == 503
        async with connected(it.port, address="127.0.0.3") as other:
            assert (await ask(other, "GET", "/healthz")).status == 200
        assert await busy[-1].some(1) == b"", "the newest connection has ended"
        assert it.served.count("clients") == 1


async def test_no_connection_of_a_proxy_is_closed(tmp_path: Path) -> None:
    async with (
        target(tmp_path, limits=LimitSettings(connections_max=MANY), **SLOWLY) as it,
        AsyncExitStack() as stack,
    ):
        for _ in range(MANY):
            await busy_connection(stack, it.port)
        async with connected(it.port, address="127.0.0.3") as other:
            assert (await ask(other, "GET", "/healthz")).status == 503
