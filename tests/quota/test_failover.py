"""Redis fails over behind one address, answers with errors, or has its clock set."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from eventstreams.quota import redis_quota
from eventstreams.quota.counters import QuotaRequest, Rate
from eventstreams.quota.redis_quota import RedisQuota
from eventstreams.tasks import background
from tests.support.ports import free_port
from tests.support.programs import needed
from tests.support.redis_server import RedisServer
from tests.support.tcp_proxy import Proxy, connection
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

HOUR_S = 3600


@asynccontextmanager
async def sharing(url: str) -> AsyncIterator[RedisQuota]:
    shared = RedisQuota(url=url, password=None, prefix="t:", timeout_s=PATIENCE_S)
    try:
        yield shared
    finally:
        await shared.aclose()


@contextmanager
def server(folder: Path) -> Iterator[redis_py.Redis]:
    """Run a real Redis on its own port."""
    port = free_port()
    command = [needed("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    options = ["--repl-diskless-sync-delay", "0", "--dir", str(folder)]
    with (
        subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL) as process,
        closing(redis_py.Redis(port=port, retry=None)) as client,
    ):
        try:
            wait_for(client, client.ping)
            yield client
        finally:
            process.kill()


def wait_for(client: redis_py.Redis, met: Any) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            if met():
                return
        except redis_py.ConnectionError:
            pass
        assert time.monotonic() < until, client.info()
        time.sleep(0.02)


def port_of(client: redis_py.Redis) -> int:
    return int(client.get_connection_kwargs()["port"])


async def everything(shared: RedisQuota, n: int) -> None:
    """Make each call once. Raises QuotaUnavailable."""
    assert await shared.take([QuotaRequest(f"k{n}", 1, 2)], Rate(f"r{n}", 60)) == ""
    assert await shared.spend(f"s{n}", 1, 60) == 0.0
    await shared.settle({f"k{n}": 2})
    await shared.put(f"note{n}", b"x", 30)
    assert await shared.pop(f"note{n}") == b"x"
    await shared.renew({f"k{n}": 1})


async def test_a_failover_fails_no_call(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    door = socket.create_server(("127.0.0.1", 0))
    with door, server(tmp_path / "a") as first, server(tmp_path / "b") as second:
        second.replicaof("127.0.0.1", port_of(first))
        wait_for(second, lambda: second.info("replication")["master_link_status"] == "up")
        proxy = Proxy(door, port_of(first))
        url = f"redis://127.0.0.1:{door.getsockname()[1]}"
        async with proxy.open(), sharing(url) as shared:
            await asyncio.gather(*(everything(shared, n) for n in range(8)))
            for old, new in ((first, second), (second, first)):
                new.replicaof("NO", "ONE")
                old.replicaof("127.0.0.1", port_of(new))
                proxy.lead_to(port_of(new))
                with pytest.raises(redis_py.exceptions.ReadOnlyError):
                    old.set("x", "y")
                await asyncio.gather(*(everything(shared, n + 100) for n in range(8)))
                assert new.exists("t:holders")
                wait_for(old, lambda old=old: old.info("replication")["master_link_status"] == "up")
                new.delete(*new.keys("t:*"))


ERRORS = (
    "READONLY You can't write against a read only replica.",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN The cluster is down",
    "NOREPLICAS Not enough good replicas to write.",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "MISCONF Redis is configured to save RDB snapshots, but is unable to persist to disk.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "NOAUTH Authentication required.",
    "BUSY Redis is busy running a script.",
    "ERR an error of a proxy that no library knows",
)
_COMMAND = re.compile(rb"\*\d+\r\n\$")


class Switch:
    """Before a real server: connections made before `fall_ill` answer each command with an error
    from then on; new ones lead to the server."""

    def __init__(self, door: socket.socket, there: Path, error: str) -> None:
        self._door = door
        self._there = there
        self._error = f"-{error}\r\n".encode()
        self._generation = 0
        self.answered = 0

    def fall_ill(self) -> None:
        self._generation += 1

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self._door.setblocking(False)
        async with background(self._accept()):
            yield

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            while True:
                near, _ = await loop.sock_accept(self._door)
                tasks.create_task(self._serve(near))

    async def _serve(self, accepted: socket.socket) -> None:
        generation = self._generation
        there = socket.socket(socket.AF_UNIX)
        there.connect(str(self._there))
        async with (
            connection(sock=accepted) as (from_client, to_client),
            connection(sock=there) as (from_server, to_server),
            background(_pump(from_server, to_client)),
        ):
            while data := await from_client.read(1 << 16):
                if generation == self._generation:
                    to_server.write(data)
                else:
                    count = len(_COMMAND.findall(data))
                    self.answered += count
                    to_client.write(self._error * count)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)


@pytest.mark.parametrize("error", ERRORS, ids=[error.split()[0] for error in ERRORS])
async def test_a_connection_is_not_reused_after_an_error(redis: RedisServer, error: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        switch = Switch(door, redis.socket, error)
        url = f"redis://127.0.0.1:{door.getsockname()[1]}"
        async with switch.open(), sharing(url) as shared:
            await everything(shared, 0)
            for n in range(1, 4):
                switch.fall_ill()
                await everything(shared, n)
            switch.fall_ill()
            await shared.settle({"k": 1})
            switch.fall_ill()
            await shared.put("x", b"y", 30)
    assert switch.answered >= 5, "errors occurred"


@pytest.fixture
def clock(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis_py.Redis]:
    """Move the scripts' time ahead by the value of the key `ahead`, in s."""
    for name in ("_TAKE", "_SPEND"):
        script: str = getattr(redis_quota, name)
        real = "local t = redis.call('TIME')\n"
        assert script.count(real) == 1
        shifted = real + "  t[1] = t[1] + tonumber(redis.call('GET', 'ahead') or '0')\n"
        monkeypatch.setattr(redis_quota, name, script.replace(real, shifted))
    with closing(redis_py.Redis(unix_socket_path=str(redis.socket))) as client:
        yield client


async def test_setting_the_clock_grants_at_most_one_minute(
    redis: RedisServer, clock: redis_py.Redis
) -> None:
    async with sharing(redis.url) as shared:
        assert await shared.spend("k", 30, 60) == 0.0
        for ahead_s in (-HOUR_S, -30, -24 * HOUR_S):
            clock.incrby("ahead", ahead_s)
            assert await shared.spend("k", 5, 60) == 0.0
        for ahead_s in (-HOUR_S, 10 * HOUR_S, -HOUR_S, 10, -10):
            clock.incrby("ahead", ahead_s)
            granted = 0
            while (wait_s := await shared.spend("k", 1, 60)) == 0.0:
                granted += 1
            assert granted <= 62, "the allowance of a minute, and of the time meanwhile"
            assert wait_s <= 1.0, "one more is allowed within a second"
            if ahead_s == 10 * HOUR_S:
                assert granted >= 60
            assert await shared.take([], Rate(f"r{ahead_s}", 1)) == ""


async def test_rates_recover_after_the_clock_is_set_back(
    redis: RedisServer, clock: redis_py.Redis
) -> None:
    async with sharing(redis.url) as shared:
        assert await shared.spend("k", 60, 60) == 0.0
        clock.set("ahead", -HOUR_S)
        assert 58 < await shared.spend("k", 60, 60) <= 60
        clock.set("ahead", -HOUR_S + 30)
        assert 28 < await shared.spend("k", 60, 60) <= 30
        clock.set("ahead", -HOUR_S + 61)
        assert await shared.spend("k", 60, 60) == 0.0


async def test_a_clock_set_back_does_not_prolong_dead_leases(
    redis: RedisServer, clock: redis_py.Redis
) -> None:
    async with sharing(redis.url) as dead, sharing(redis.url) as other:
        assert await dead.take([QuotaRequest("k", 1, 1)], None) == ""
        held = f"t:held:{dead._me}"
        clock.pexpire(held, HOUR_S * 1000)  # as after the clock was set back
        assert await other.take([QuotaRequest("k", 1, 1)], None) == "k"
        assert 0 < clock.pttl(held) <= 30_000
