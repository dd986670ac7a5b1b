"""Streams with fewer events than declared are reported, with or without readers."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.fanout.rates import Activity, RateWatch, Window
from eventstreams.log.memory import MemoryLog
from eventstreams.metrics import Metrics
from eventstreams.model.catalogue import MinimumRate, Stream
from eventstreams.model.event import Record
from tests.support.fanout import Gateway, serving
from tests.support.waiting import PATIENCE_S

pytestmark = pytest.mark.anyio

RATE = MinimumRate(events=3, per_s=100.0)


def stream(rate: MinimumRate | None, *topics: str) -> Stream:
    return Stream("s", topics, frozenset(topics), (), None, None, minimum_rate=rate)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 5))))
def test_a_window_counts_its_events_with_a_small_error(steps: list[tuple[float, int]]) -> None:
    window = Window(RATE, frozenset(), 0.0)
    now, counts = 0.0, list[tuple[float, int]]()
    for wait_s, count in steps:
        now += wait_s
        window.on_events(count, now)
        counts.append((now, count))
        counted = window.events(now)
        assert counted >= sum(n for at, n in counts if now - at <= 100)
        assert counted <= sum(n for at, n in counts if now - at <= 110.001)
        assert len(window._steps) <= 24


def test_a_stream_is_silent_only_after_a_whole_window_with_too_few_events() -> None:
    window = Window(RATE, frozenset(), 0.0)
    assert not window.look(99)
    assert window.look(100), "no event ever arrived"
    for _ in range(3):
        window.on_events(1, 110)
    assert not window.look(110)
    assert not window.look(200)
    assert window.look(220)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 40), st.integers(1, 5))))
def test_activity_is_the_number_of_records_in_each_complete_step(
    steps: list[tuple[str, float, int]],
) -> None:
    now, arrived = 0.0, list[tuple[str, int]]()
    activity = Activity(lambda: now)
    for topic, wait_s, count in steps:
        now += wait_s
        activity.on_events(topic, count)
        arrived += [(topic, int(now // Activity.STEP_S))] * count
    current = int(now // Activity.STEP_S)
    shown = range(max(0, current - Activity.STEPS), current)
    assert activity.counts(["a"]) == [arrived.count(("a", step)) for step in shown]
    both = [sum(at == step for _, at in arrived) for step in shown]
    assert activity.counts(["a", "b", "never seen"]) == both


def test_declaring_a_stream_again_keeps_its_counts() -> None:
    rate_watch = RateWatch(Metrics())
    rate_watch.declare({"s": stream(RATE, "t")})
    window = rate_watch._windows["s"]
    rate_watch.declare({"s": stream(RATE, "t"), "other": stream(None, "t")})
    assert rate_watch._windows == {"s": window}
    rate_watch.declare({"s": stream(RATE, "u")})
    assert rate_watch._windows["s"] is not window
    rate_watch.declare({})
    assert not rate_watch._windows


async def until_silent(gateway: Gateway, value: float) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while gateway.count("stream_silent", stream="s") != value:
            await asyncio.sleep(0.01)


async def produce(log: MemoryLog, *values: object) -> None:
    await log.append([Record("t", json.dumps(v).encode(), None, None, 0) for v in values])


async def test_a_silent_stream_sets_a_metric_that_canaries_do_not_clear() -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    canary = {"meta": {"domain": "canary"}}
    async with serving(log, ["t"]) as gateway:
        gateway.hub.rate_watch.declare({"s": stream(MinimumRate(events=2, per_s=1.0), "t")})
        await until_silent(gateway, 1)
        seen = gateway.count("events_in_total")
        await produce(log, canary, canary, canary)
        async with asyncio.timeout(PATIENCE_S):
            while gateway.count("events_in_total") < seen + 3:
                await asyncio.sleep(0.01)
        assert gateway.hub.rate_watch._windows["s"].events(time.monotonic()) == 0
        await produce(log, {"n": 1}, {"n": 2, "text": "canary"})
        await until_silent(gateway, 0)
        await until_silent(gateway, 1)
        gateway.hub.rate_watch.declare({})
        found = gateway.metrics.registry.get_sample_value(
            "eventstreams_stream_silent", {"stream": "s"}
        )
        assert found is None
