"""The shared state keeps one contract, in memory and in a real Redis."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstreams.errors import QuotaUnavailable
from eventstreams.propagation.redis_state import RedisState
from eventstreams.propagation.rule_file import Limit
from eventstreams.propagation.state import Deduplicator, Limiters, MemoryState, SharedState
from tests.propagation.stage import event, write_rules
from tests.support.redis_server import RedisServer, redis

__all__ = ["redis"]

pytestmark = pytest.mark.anyio

NOW_MS = 1_000_000
OpenState = Callable[[], SharedState]


def over_redis(server: RedisServer) -> RedisState:
    return RedisState(url=server.url, password=None, prefix="t:", timeout_s=20.0)


@pytest.fixture(params=["memory", "redis"])
def open_state(request: pytest.FixtureRequest) -> OpenState:
    """Opens the same state each time."""
    if request.param == "memory":
        memory = MemoryState()
        return lambda: memory
    server: RedisServer = request.getfixturevalue("redis")
    return lambda: over_redis(server)


@contextlib.asynccontextmanager
async def opened(open_state: OpenState) -> AsyncIterator[SharedState]:
    state = open_state()
    try:
        yield state
    finally:
        await state.aclose()


async def test_a_number_is_stored_until_it_is_replaced(open_state: OpenState) -> None:
    async with opened(open_state) as state:
        assert await state.get("k", NOW_MS) is None
        await state.put("k", 2**53 - 1, 60_000, NOW_MS)
        assert await state.get("k", NOW_MS) == 2**53 - 1
        await state.put("k", -1, 60_000, NOW_MS)
        assert await state.get("k", NOW_MS) == -1
        assert await state.get("other", NOW_MS) is None


async def test_the_larger_number_is_kept(open_state: OpenState) -> None:
    async with opened(open_state) as state:
        assert await state.raise_to("k", 5, 60_000, NOW_MS) == 5
        assert await state.raise_to("k", 3, 60_000, NOW_MS) == 5
        assert await state.raise_to("k", 1_700_000_000_123, 60_000, NOW_MS) == 1_700_000_000_123
        assert await state.get("k", NOW_MS) == 1_700_000_000_123


async def test_times_are_counted_within_a_window(open_state: OpenState) -> None:
    async with opened(open_state) as state:
        for ms in (100, 200, 300):
            await state.record("k", 60_000, 10, ms)
        assert await state.count("k", 0, 300) == 3
        assert await state.count("k", 100, 300) == 2, "after, and not at"
        assert await state.count("k", 0, 200) == 2, "not what is to come"
        assert await state.count("other", 0, 300) == 0


async def test_no_more_times_are_kept_than_are_needed(open_state: OpenState) -> None:
    async with opened(open_state) as state:
        for ms in range(1, 21):
            await state.record("k", 60_000, 5, ms)
        assert await state.count("k", 0, 20) == 5
        assert await state.count("k", 15, 20) == 5, "the newest"
        await state.record("k", 100, 5, 1000)
        assert await state.count("k", 0, 1000) == 1, "older ones are gone"


async def test_numbers_in_memory_expire() -> None:
    state = MemoryState()
    await state.put("k", 1, 100, NOW_MS)
    assert await state.get("k", NOW_MS + 99) == 1
    assert await state.get("k", NOW_MS + 100) is None


async def test_in_redis_everything_expires(redis: RedisServer) -> None:
    from redis.asyncio import Redis  # noqa: PLC0415

    state, client = over_redis(redis), Redis.from_url(redis.url)
    await state.put("a", 1, 50_000, NOW_MS)
    await state.raise_to("b", 1, 50_000, NOW_MS)
    await state.record("c", 50_000, 5, NOW_MS)
    for key in ("a", "b", "c"):
        assert 0 < await client.pttl(f"t:{key}") <= 50_000
    await client.aclose()
    await state.aclose()


# Deduplication and limits over it.


async def test_instances_share_deduplication(open_state: OpenState, tmp_path: Path) -> None:
    [rule] = write_rules(tmp_path, "rules: {r: {topic: t}}").rules
    async with opened(open_state) as one, opened(open_state) as two:
        first, second = Deduplicator(one, service="s"), Deduplicator(two, service="s")
        made = event("t")
        made["meta"]["id"] = "id"
        assert await first.is_duplicate(rule, made, NOW_MS) is None
        assert await second.is_duplicate(rule, made, NOW_MS) is None
        await first.handled(rule, made, NOW_MS, NOW_MS)
        assert await second.is_duplicate(rule, made, NOW_MS) == "id"
        other = Deduplicator(two, service="other")
        assert await other.is_duplicate(rule, made, NOW_MS) is None


async def test_instances_share_limits_of_failures(open_state: OpenState) -> None:
    async with opened(open_state) as one, opened(open_state) as two:
        limits = {"x": (Limit(1.0, 3), Limit(100.0, 5))}
        first, second = (Limiters(each, service="s", limits=limits) for each in (one, two))
        for ms in (0, 10, 20):
            assert not await second.exceeds("x", "key", NOW_MS + ms)
            await first.failed("x", "key", NOW_MS + ms)
        assert await second.exceeds("x", "key", NOW_MS + 20)
        assert not await second.exceeds("x", "other", NOW_MS + 20)
        assert not await second.exceeds("unknown", "key", NOW_MS + 20)
        assert not await second.exceeds("x", "key", NOW_MS + 1100), "the short window is over"
        for ms in (1100, 1101):
            await second.failed("x", "key", NOW_MS + ms)
        assert await first.exceeds("x", "key", NOW_MS + 2500), "the long one is not"


async def test_without_redis_no_event_is_dropped(redis: RedisServer, tmp_path: Path) -> None:
    [rule] = write_rules(tmp_path, "rules: {r: {topic: t}}").rules
    state = over_redis(redis)
    redis.stop()
    with pytest.raises(QuotaUnavailable):
        await state.get("k", NOW_MS)
    made = event("t", sha1="s")
    made["meta"]["id"] = "id"
    deduplicator = Deduplicator(state, service="s")
    await deduplicator.handled(rule, made, NOW_MS, NOW_MS)
    assert await deduplicator.is_duplicate(rule, made, NOW_MS) is None
    limiters = Limiters(state, service="s", limits={"x": (Limit(1.0, 1),)})
    await limiters.failed("x", "k", NOW_MS)
    assert not await limiters.exceeds("x", "k", NOW_MS)
    with contextlib.suppress(QuotaUnavailable):
        await state.aclose()


@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(times=st.lists(st.integers(1, 1000), max_size=20), most=st.integers(1, 5))
async def test_counts_in_memory_equal_those_of_a_list(times: list[int], most: int) -> None:
    state, kept = MemoryState(), list[int]()
    now_ms = 0
    for step in times:
        now_ms += step
        await state.record("k", 500, most, now_ms)
        kept = [each for each in [*kept, now_ms] if each > now_ms - 500][-most:]
        assert await state.count("k", 0, now_ms) == len(kept)
