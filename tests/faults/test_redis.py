"""While Redis is dead, unreachable or slow, each process counts alone, clients are accepted, and
streams continue. Afterwards, limits are shared again.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import pytest

from eventstreams.config.settings import LimitSettings, SharedSettings
from tests.support.backends import Sqlite
from tests.support.gateway import Served, site_of
from tests.support.ports import free_port
from tests.support.programs import needed
from tests.support.tcp_proxy import Proxy
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

CLIENTS = 40
MOST = 3
"""The limit of streams of one address."""


class Redis:
    """A server that loses all data when it is killed, behind a proxy."""

    def __init__(self) -> None:
        self.door = socket.create_server(("127.0.0.1", 0))
        self._port = free_port()
        self.proxy = Proxy(self.door, self._port)
        self.process: Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.door.getsockname()[1]}"

    async def start(self) -> None:
        command = ("--port", str(self._port), "--bind", "127.0.0.1", "--save", "")
        self.process = await asyncio.create_subprocess_exec(
            needed("redis-server"), *command, stdout=DEVNULL
        )
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.transport.abort()
                    return

    async def kill(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            await process.wait()


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    redis = Redis()
    with redis.door:
        async with redis.proxy.open():
            await redis.start()
            yield redis
            await redis.kill()


@asynccontextmanager
async def killed(redis: Redis) -> AsyncIterator[None]:
    await redis.kill()
    yield
    await redis.start()


@asynccontextmanager
async def hung(redis: Redis) -> AsyncIterator[None]:
    assert redis.process is not None
    redis.process.send_signal(signal.SIGSTOP)
    yield
    redis.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def cut_off(redis: Redis) -> AsyncIterator[None]:
    with redis.proxy.cut():
        yield


@asynccontextmanager
async def made_slow(redis: Redis) -> AsyncIterator[None]:
    """Make it slower than any timeout."""
    with redis.proxy.slow(latency_s=0.5, chunk_bytes=1024):
        yield


def address(n: int) -> dict[str, str]:
    return {"X-Client-IP": f"192.0.2.{n}"}


async def shares(one: Served, other: Served, who: dict[str, str]) -> None:
    """Wait until streams of one gateway count at the other."""
    async with AsyncExitStack() as stack:
        for _ in range(MOST):
            await stack.enter_async_context(one.stream("s", who))
        async with asyncio.timeout(PATIENCE_S):
            while (await other.ask("HEAD", "/v2/stream/s", who)).status != 429:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("fault", [killed, hung, cut_off, made_slow])
async def test_clients_are_served_while_redis_fails(
    redis: Redis, fault: Callable[[Redis], AbstractAsyncContextManager[None]]
) -> None:
    limits = LimitSettings(client_ip_connections=MOST)
    shared = SharedSettings(redis_url=redis.url, timeout_s=0.25)
    async with AsyncExitStack() as stack, site_of(Sqlite) as site:
        topic = await site.topic()
        one, other = [
            await stack.enter_async_context(
                site.gateway({"s": [topic]}, limits=limits, shared=shared)
            )
            for _ in range(2)
        ]
        await shares(one, other, address(251))
        there = await stack.enter_async_context(one.stream("s", address(1)))
        await there.opened()
        async with fault(redis):

            async def comes(n: int) -> None:
                async with one.stream("s", address(n % 20 + 2), since="earliest") as stream:
                    assert (await stream.frame()).document["n"] == 0

            await site.produce(topic, {"n": 0})
            assert (await there.frame()).document["n"] == 0
            async with asyncio.TaskGroup() as tasks:
                for n in range(CLIENTS):
                    tasks.create_task(comes(n))
            await one.until("quota_reachable", 0)
            async with AsyncExitStack() as crowd:
                for _ in range(MOST):
                    await crowd.enter_async_context(one.stream("s", address(252)))
                assert (await one.ask("HEAD", "/v2/stream/s", address(252))).status == 429
        await shares(one, other, address(253))
        await one.until("quota_reachable", 1)
