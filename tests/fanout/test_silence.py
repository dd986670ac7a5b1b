"""Streams that have fewer events than they should: told, whoever reads them or not."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.fanout.silence import Silence, Window
from eventstreams.log.memory import MemoryLog
from eventstreams.metrics import Metrics
from eventstreams.model.event import Record
from eventstreams.model.minimum_rate import MinimumRate
from eventstreams.model.stream import Stream
from tests.fanout.gateway import PATIENCE_S, Gateway, serving

pytestmark = pytest.mark.anyio

RATE = MinimumRate(events=3, per_s=100.0)


def stream(rate: MinimumRate | None, *topics: str) -> Stream:
    return Stream("s", topics, frozenset(topics), (), None, None, minimum_rate=rate)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 5))))
def test_a_window_counts_what_came_in_it_to_a_twentieth(steps: list[tuple[float, int]]) -> None:
    window = Window(RATE, frozenset(), 0.0)
    now, came = 0.0, list[tuple[float, int]]()
    for wait_s, count in steps:
        now += wait_s
        window.came(count, now)
        came.append((now, count))
        counted = window.events(now)
        assert counted >= sum(n for at, n in came if now - at <= 100)
        assert counted <= sum(n for at, n in came if now - at <= 110.001)
        assert len(window._steps) <= 24


def test_a_stream_is_silent_only_after_a_whole_window_with_too_few_events() -> None:
    window = Window(RATE, frozenset(), 0.0)
    assert not window.look(99)
    assert window.look(100), "nothing ever came"
    for _ in range(3):
        window.came(1, 110)
    assert not window.look(110)
    assert not window.look(200)
    assert window.look(220)


def test_what_is_declared_the_same_again_is_counted_on() -> None:
    silence = Silence(Metrics())
    silence.declare({"s": stream(RATE, "t")})
    window = silence._windows["s"]
    silence.declare({"s": stream(RATE, "t"), "other": stream(None, "t")})
    assert silence._windows == {"s": window}
    silence.declare({"s": stream(RATE, "u")})
    assert silence._windows["s"] is not window
    silence.declare({})
    assert not silence._windows


async def until_silent(gateway: Gateway, value: float) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while gateway.count("stream_silent", stream="s") != value:
            await asyncio.sleep(0.01)


async def produce(log: MemoryLog, *values: object) -> None:
    await log.append([Record("t", json.dumps(v).encode(), None, None, 0) for v in values])


async def test_a_stream_that_falls_silent_raises_a_metric_and_canaries_do_not_lower_it() -> None:
    log = MemoryLog()
    await log.create_topic("t", 1)
    canary = {"meta": {"domain": "canary"}}
    async with serving(log, ["t"]) as gateway:
        gateway.hub.silence.declare({"s": stream(MinimumRate(events=2, per_s=1.0), "t")})
        await until_silent(gateway, 1)
        seen = gateway.count("events_in_total")
        await produce(log, canary, canary, canary)
        async with asyncio.timeout(PATIENCE_S):
            while gateway.count("events_in_total") < seen + 3:
                await asyncio.sleep(0.01)
        assert gateway.hub.silence._windows["s"].events(time.monotonic()) == 0
        await produce(log, {"n": 1}, {"n": 2, "text": "canary"})
        await until_silent(gateway, 0)
        await until_silent(gateway, 1)
        gateway.hub.silence.declare({})
        found = gateway.metrics.registry.get_sample_value(
            "eventstreams_stream_silent", {"stream": "s"}
        )
        assert found is None
