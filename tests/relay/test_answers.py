"""Delays that servers request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.relay.answers import Backoff, retry_after_s


def test_retry_0_does_not_cause_a_flood_of_requests() -> None:
    backoff = Backoff()
    backoff.base_s = 0
    waits = [backoff.next_s() for _ in range(10)]
    assert waits[:2] == [0, 0], "the server may request that"
    assert min(waits[2:]) >= 0.1
    assert waits[-1] > 10


def test_a_retry_field_sets_the_first_delay() -> None:
    backoff = Backoff()
    backoff.base_s = 4
    assert 2 <= backoff.next_s() <= 4


@pytest.mark.parametrize("header", ["99999999999", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_retry_after_is_limited_to_an_hour(header: str) -> None:
    assert retry_after_s(header) == 3600


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [(None, 0), ("", 0), ("soon", 0), ("7", 7), ("Thu, 26 Nov 1970 20:00:00 GMT", 0)],
)
def test_retry_after_is_in_seconds_or_a_date(header: str | None, wait_s: float) -> None:
    assert retry_after_s(header) == wait_s


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3)), min_size=11))
def test_no_server_gets_more_attempts_in_a_time_than_allowed(
    connections: list[tuple[bool, float]],
) -> None:
    now_s = 1000.0
    backoff = Backoff(base_s=0.0, attempts=5, attempts_s=10.0, clock=lambda: now_s)
    attempts_s: list[float] = []
    for succeeds, lasts_s in connections:
        if succeeds:  # with `retry: 0` and one event
            backoff.reset()
        now_s += backoff.next_s()
        attempts_s.append(now_s)
        now_s += lasts_s
    for first_s, sixth_s in zip(attempts_s, attempts_s[5:], strict=False):
        assert sixth_s - first_s >= 10.0 - 1e-6
