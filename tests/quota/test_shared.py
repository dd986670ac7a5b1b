"""Processes share limits through their parent and through a real Redis; both behave alike."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from multiprocessing.connection import wait
from typing import Any

import pytest

from eventstreams.errors import QuotaUnavailable
from eventstreams.metrics import Metrics
from eventstreams.quota.counters import RATE, QuotaCounters, Rate, Usage
from eventstreams.quota.quota import Quota, QuotaBackend
from eventstreams.quota.redis_quota import RedisQuota
from eventstreams.quota.workers import QuotaClient, QuotaServer, WorkerQuota
from tests.support.redis_server import RedisServer
from tests.support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio

Share = Callable[[], QuotaBackend]


class Parent:
    """Runs the parent process's loop on a thread."""

    def __init__(self) -> None:
        self.counters = QuotaCounters()
        self.servers: list[QuotaServer] = []
        self.lines: list[QuotaClient] = []
        self._wakes, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        stopping = False
        while not stopping or self.servers:
            servers = {server.line: server for server in self.servers}
            for ready in wait([*servers] if stopping else [self._wakes, *servers]):
                if ready is self._wakes:
                    stopping = not self._wakes.recv(100)
                elif not servers[ready].answer():  # type: ignore[index]
                    self.servers.remove(servers[ready])  # type: ignore[index]
                    servers[ready].close()  # type: ignore[index]

    def line(self) -> QuotaClient:
        """Return the connection of another worker."""
        server = QuotaServer(self.counters, str(len(self.lines)), lambda: self.servers)
        self.servers.append(server)
        self._wake.send(b".")
        self.lines.append(QuotaClient(server.far, PATIENCE_S))
        return self.lines[-1]

    def share(self) -> QuotaBackend:
        return _Owned(self.line())

    def join(self) -> None:
        self._wake.close()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self._wakes.close()


class _Owned(WorkerQuota):
    """Also closes its connection."""

    def __init__(self, line: QuotaClient) -> None:
        super().__init__(line)
        self._own = line

    async def aclose(self) -> None:
        self._own.close()


@pytest.fixture
def parent() -> Iterator[Parent]:
    parent = Parent()
    yield parent
    parent.join()


@pytest.fixture(params=["parent", "redis"])
def share(request: pytest.FixtureRequest) -> Iterator[Share]:
    if request.param == "parent":
        parent: Parent = request.getfixturevalue("parent")
        yield parent.share
    else:
        server: RedisServer = request.getfixturevalue("redis")
        yield lambda: redis_shared(server)


def redis_shared(server: RedisServer) -> RedisQuota:
    return RedisQuota(url=server.url, password=None, prefix="t:", timeout_s=PATIENCE_S)


@contextlib.asynccontextmanager
async def quota(shared: QuotaBackend) -> AsyncIterator[tuple[Quota, Metrics]]:
    metrics = Metrics()
    quota = Quota(shared, metrics)
    async with quota.running():
        yield quota, metrics


async def can_take(quota: Quota, most: int) -> bool:
    if await quota.take({"k": most}, None):
        return False
    quota.give({"k": most})
    return True


async def test_a_limit_holds_over_all_processes(share: Share) -> None:
    async with quota(share()) as (one, _), quota(share()) as (two, _):
        assert await one.take({"k": 2}, None) == ""
        assert await two.take({"k": 2}, None) == ""
        assert await one.take({"k": 2}, None) == "k"
        assert await two.take({"k": 2, "other": 9}, None) == "k"
        one.give({"k": 2})
        await until(lambda: can_take(two, 2))


async def test_what_is_used_is_known_to_all_processes(share: Share) -> None:
    async with quota(share()) as (one, _), quota(share()) as (two, _):
        assert await two.usage("k") == Usage(0, 0.0, 0.0)
        assert await one.take({"k": 3}, Rate("k", 2)) == ""
        assert await two.take({"k": 3}, Rate("k", 2)) == ""
        assert await one.spend("k", 500, 1000) == 0.0
        for each in (one, two):
            held, connects_s, bytes_s = await each.usage("k")
            assert held == 2
            assert 0 < connects_s <= 60
            assert 0 < bytes_s <= 30
        one.give({"k": 3})
        await until(lambda: holds(two, 1))


async def holds(quota: Quota, count: int) -> bool:
    return (await quota.usage("k")).held == count


async def test_concurrent_requests_never_exceed_the_limit(share: Share) -> None:
    async with quota(share()) as (one, _), quota(share()) as (two, _):
        asked = [each.take({"k": 7}, None) for each in (one, two) * 20]
        assert sorted(await asyncio.gather(*asked)).count("") <= 7
        assert one.held("k") + two.held("k") <= 7
        await until(lambda: can_take(one, one.held("k") + two.held("k") + 1))


async def test_a_process_that_ends_releases_its_leases(share: Share) -> None:
    async with quota(share()) as (one, _):
        async with quota(share()) as (two, _):
            assert await two.take({"k": 1}, None) == ""
            assert await one.take({"k": 1}, None) == "k"
        await until(lambda: can_take(one, 1))


async def test_a_rate_holds_over_all_processes(share: Share) -> None:
    async with quota(share()) as (one, _), quota(share()) as (two, _):
        answers = [await each.take({}, Rate("k", 4)) for each in (one, two) * 3]
        assert answers.count(RATE) == 2
        assert await one.spend("k", 600, 1000) == 0.0
        wait_s = await two.spend("k", 600, 1000)
        assert 0 < wait_s <= 12


async def test_only_one_process_gets_a_note(share: Share) -> None:
    async with quota(share()) as (one, _), quota(share()) as (two, _):
        await one.put("note", b"\x00text", 30)
        found = await asyncio.gather(*(each.pop("note") for each in (one, two) * 10))
        assert [note for note in found if note is not None] == [b"\x00text"]


async def test_a_cancelled_request_holds_no_lease(share: Share) -> None:
    async with quota(share()) as (one, _), quota(share()) as (two, _):
        asking = asyncio.create_task(one.take({"k": 1}, None))
        await asyncio.sleep(0)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        await until(lambda: can_take(two, 1))
        assert one.held("k") == 0


async def test_without_redis_each_process_counts_alone(
    redis: RedisServer,
) -> None:
    one_s, two_s = redis_shared(redis), redis_shared(redis)
    async with quota(one_s) as (one, metrics), quota(two_s) as (two, _):
        assert await one.take({"k": 2}, None) == ""
        redis.stop()
        assert await one.take({"k": 2}, None) == ""
        assert await one.take({"k": 2}, None) == "k", "it still counts its own leases"
        assert await two.take({"k": 1}, None) == "", "but not those of others"
        assert metrics.registry.get_sample_value("eventstreams_quota_reachable") == 0
        with pytest.raises(QuotaUnavailable):
            await one.pop("note")
        redis.start()  # with no data
        one.give({"k": 2})
        await until(lambda: metrics.registry.get_sample_value("eventstreams_quota_reachable") == 1)
        two.give({"k": 1})

        async def two_counts_leases_of_one() -> bool:
            if not await two.take({"k": 1}, None):
                two.give({"k": 1})
                return False
            return True

        await until(two_counts_leases_of_one)


async def test_a_wave_of_clients_does_not_exhaust_connections_to_redis(
    redis: RedisServer,
) -> None:
    async with (
        quota(redis_shared(redis)) as (one, metrics),
        quota(redis_shared(redis)) as (two, _),
    ):
        for _ in range(5):
            assert await one.take({"k": 5}, None) == ""
        answers = await asyncio.gather(*(two.take({"k": 5}, None) for _ in range(300)))
        assert set(answers) == {"k"}
        notes = [one.put(f"note {n}", b"x", 60) for n in range(300)]
        await asyncio.gather(*notes)
        assert metrics.registry.get_sample_value("eventstreams_quota_reachable") == 1


async def test_the_latest_count_is_stored(redis: RedisServer) -> None:
    shared, reader = redis_shared(redis), redis_shared(redis)
    async with quota(shared) as (one, _):

        async def connects_and_leaves(n: int) -> None:
            assert await one.take({"k": 1000}, None) == ""
            if n % 5:
                one.give({"k": 1000})

        await asyncio.gather(*(connects_and_leaves(n) for n in range(200)))
        assert one.held("k") == 40

        async def is_stored() -> bool:
            return [await reader._redis.hget(f"t:held:{shared._me}", "k")] == [b"40"]

        await until(is_stored)
    await reader.aclose()


async def test_a_renewal_corrects_wrong_counts_in_redis(redis: RedisServer) -> None:
    shared = redis_shared(redis)
    async with quota(shared) as (one, _):
        assert await one.take({"k": 3}, None) == ""
        name = f"t:held:{shared._me}"
        await shared._redis.hset(name, mapping={"k": 7, "stale": 1})
        await shared.renew({"k": 1})
        assert await shared._redis.hgetall(name) == {b"k": b"1"}
        assert await shared._redis.pttl(name) > 0


async def test_redis_errors_contain_neither_keys_nor_addresses(redis: RedisServer) -> None:
    shared = redis_shared(redis)
    redis.stop()
    with pytest.raises(QuotaUnavailable) as lost:
        await shared.put("secret", b"secret", 1)
    assert "secret" not in str(lost.value)
    with contextlib.suppress(QuotaUnavailable):
        await shared.aclose()


async def test_all_other_workers_answer_a_question(parent: Parent) -> None:
    lines = [parent.line() for _ in range(3)]
    large = "x" * 1_000_000

    def answering(name: int) -> Callable[[Any], Awaitable[Any]]:
        async def answer(question: Any) -> Any:
            return [name, question, large]

        return answer

    for name, line in enumerate(lines):
        line.answer_with = answering(name)
    for name, line in enumerate(lines):
        answers, missing = await line.ask_others({"what": name})
        others = [other for other in range(3) if other != name]
        assert sorted(answers) == [[other, {"what": name}, large] for other in others]
        assert missing == 0
    for line in lines:
        line.close()


async def test_a_silent_worker_is_reported_as_missing(parent: Parent) -> None:
    asking, silent = parent.line(), parent.line()
    never = asyncio.Event()

    async def answer(_: Any) -> Any:
        await never.wait()

    silent.answer_with = answer
    asking._timeout_s = 0.1
    assert await asking.ask_others("?") == ([], 1)
    asking._timeout_s = PATIENCE_S
    assert await asking.ask("pop", "note") is None, "the connection still works"
    silent.close()
    await until(lambda: len(parent.servers) == 1)
    assert await asking.ask_others("?") == ([], 0)
    asking.close()
