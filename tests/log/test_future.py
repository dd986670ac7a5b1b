"""Every log stores records that are dated too far ahead with the time of appending."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.config.settings import LogSettings
from eventstreams.log.base import Log
from eventstreams.log.future import FUTURE_MAX_S, FutureLimit
from eventstreams.metrics import Metrics
from eventstreams.model.event import Partition, Placed, Record
from tests.support.backends import Backend, over_all_backends
from tests.support.kafka_tools import read_all

HOUR_MS = 3_600_000


@over_all_backends
@pytest.mark.anyio
@pytest.mark.parametrize("ahead_ms", [2 * HOUR_MS, 24 * 365 * HOUR_MS], ids=["hours", "a-year"])
async def test_a_record_dated_ahead_does_not_affect_searches_by_time(
    backend: Backend, log: Log, ahead_ms: int
) -> None:
    topic = await backend.topic(log, 1)
    partition = Partition(topic, 0)
    before_ms = int(time.time() * 1000)
    ahead = Record(topic, b"ahead", timestamp_ms=before_ms + ahead_ms)
    near = Record(topic, b"near", timestamp_ms=before_ms + HOUR_MS // 2)
    await log.append([ahead])
    [outcome] = await log.offer([ahead])
    assert isinstance(outcome, Placed)
    await log.append([near])
    events = await read_all(log, partition)
    after_ms = int(time.time() * 1000)
    assert [event.value for event in events] == [b"ahead", b"ahead", b"near"]
    assert all(before_ms <= event.timestamp_ms <= after_ms for event in events[:2])
    assert events[2].timestamp_ms == near.timestamp_ms, "a timestamp within the limit is kept"
    assert await log.offset_at({partition: after_ms + 1}) == {partition: 2}


@given(
    st.lists(st.none() | st.integers(-(2**63), 2**64), max_size=8),
    st.floats(0, 10**9),
    st.floats(0, 10**10),
)
def test_only_timestamps_beyond_the_limit_are_replaced(
    times: list[int | None], future_max_s: float, now_s: float
) -> None:
    metrics = Metrics()
    limit = FutureLimit(future_max_s=future_max_s, metrics=metrics, clock=lambda: now_s)
    records = [Record("t", b"%d" % n, b"k", at, n, n) for n, at in enumerate(times)]
    latest_ms = round(now_s * 1000) + round(future_max_s * 1000)
    within = [at if at is None or at <= latest_ms else None for at in times]
    expected = [
        Record(r.topic, r.value, r.key, at, r.partition, r.place_span)
        for r, at in zip(records, within, strict=True)
    ]
    assert list(limit.apply(records)) == expected
    changed = sum(old != new for old, new in zip(times, within, strict=True))
    assert metrics.registry.get_sample_value("eventstreams_timestamps_limited_total") == changed


def test_a_flood_of_records_dated_ahead_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    limit = FutureLimit(clock=lambda: 0.0)
    for _ in range(100):
        limit.apply([Record("some.topic", b"secret", timestamp_ms=2 * HOUR_MS)])
    [line] = caplog.messages
    assert "some.topic" in line
    assert "secret" not in line


def test_the_setting_has_the_default_of_the_limit() -> None:
    assert LogSettings().future_max_s == FUTURE_MAX_S
