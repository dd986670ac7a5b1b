"""Decisions about retries, failing hosts, samples and loops."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.propagation.breaker import HOSTS_MAX, BreakerPolicy, CircuitBreakers
from eventstreams.propagation.retry import (
    DELAY_MS_MAX,
    Conditions,
    Response,
    RetryPolicy,
    compile_conditions,
    retry_after_ms,
)
from eventstreams.propagation.sampling import is_sampled
from eventstreams.propagation.trigger import CHAIN_CHARACTERS_MAX, chain_of, times_in_chain


@pytest.mark.parametrize(
    ("condition", "status", "holds"),
    [
        ({"status": ["50x"]}, 503, True),
        ({"status": ["50x"]}, 510, False),
        ({"status": "5xx"}, 510, True),
        ({"status": 404}, 404, True),
        ({"status": [404, "412"]}, 412, True),
        ({"status": [404]}, 405, False),
        ({}, 500, False),
        ({"status": []}, 500, False),
    ],
)
def test_conditions_name_statuses_with_wildcards(
    condition: dict[str, Any], status: int, holds: bool
) -> None:
    assert compile_conditions(condition).holds(Response(status)) is holds


def test_conditions_compare_whole_fields_of_a_response() -> None:
    condition = compile_conditions({"status": "5xx", "body": {"b": 1, "a": [True]}})
    assert condition.holds(Response(500, {}, {"a": [True], "b": 1}))
    assert not condition.holds(Response(500, {}, {"a": [1], "b": 1}))
    assert not condition.holds(Response(400, {}, {"a": [True], "b": 1}))
    assert not Conditions().holds(Response(500))


@pytest.mark.parametrize("value", ["500", {"status": "abc"}, {"status": [True]}, {"code": 1}])
def test_meaningless_conditions_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"must be|is not|unknown"):
        compile_conditions(value)


def test_delays_grow_by_the_factor() -> None:
    policy = RetryPolicy(limit=2, jitter=0)
    assert [policy.wait_ms(left, 0.5) for left in (2, 1)] == [60_000, 360_000]


@given(st.integers(0, 1000), st.floats(0, 1), st.integers(0, 10**12))
def test_a_wait_is_never_shorter_than_asked_for_and_never_over_a_week(
    left: int, chance: float, asked_ms: int
) -> None:
    policy = RetryPolicy(limit=1000, factor=10)
    wait_ms = policy.wait_ms(left, chance, asked_ms)
    assert wait_ms == DELAY_MS_MAX or (wait_ms >= asked_ms and wait_ms >= policy.delay_ms)
    assert wait_ms <= DELAY_MS_MAX


@pytest.mark.parametrize(
    ("text", "wait_ms"),
    [
        ("120", 120_000),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 50_000),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0),
        ("soon", None),
        ("", None),
        ("-1", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, wait_ms: int | None) -> None:
    assert retry_after_ms({"retry-after": text}, now_ms=10_000) == wait_ms


@pytest.mark.parametrize(
    ("text", "is_in"),
    [("en.wikipedia.org-rpiwQuPlA", True), ("en.wikipedia.org-N0ryO6Lrp", False)],
)
def test_samples_are_those_of_change_propagation(text: str, is_in: bool) -> None:
    assert is_sampled(text, 0.5) is is_in


def test_a_sample_of_a_fifth_is_a_fifth_within_one_percent() -> None:
    taken = sum(is_sampled(f"en.wikipedia.org-{n}", 0.2) for n in range(10_000))
    assert abs(taken / 10_000 - 0.2) < 0.01


def test_the_hash_is_that_of_the_utf_8_text() -> None:
    assert is_sampled("héllo", 3164577896 / 0xFFFFFFFF)
    assert not is_sampled("héllo", 3164577895 / 0xFFFFFFFF)


# Circuit breakers.


def test_a_circuit_opens_after_failures_and_admits_one_probe() -> None:
    breakers = CircuitBreakers(BreakerPolicy(failures=3, pause_ms=100))
    for _ in range(2):
        breakers.failed("a", 0)
    breakers.succeeded("a")
    for _ in range(3):
        assert breakers.admit("a", 0)
        breakers.failed("a", 0)
    assert not breakers.admit("a", 99)
    assert breakers.admit("b", 99)
    assert breakers.admit("a", 100)
    assert not breakers.admit("a", 100), "one at a time"
    breakers.failed("a", 150)
    assert not breakers.admit("a", 249)
    assert breakers.admit("a", 250)
    breakers.succeeded("a")
    assert breakers.admit("a", 250)
    assert breakers.open_hosts() == []


def test_an_inconclusive_probe_admits_another() -> None:
    breakers = CircuitBreakers(BreakerPolicy(failures=1, pause_ms=10))
    breakers.failed("a", 0)
    assert breakers.admit("a", 10)
    breakers.released("a")
    assert breakers.admit("a", 10)


def test_many_failing_hosts_take_bounded_memory() -> None:
    breakers = CircuitBreakers(BreakerPolicy(failures=1, pause_ms=10))
    for n in range(HOSTS_MAX + 100):
        breakers.failed(f"host-{n}", 0)
    assert len(breakers) == HOSTS_MAX


# Chains.


def event(stream: str, uri: str, triggered_by: str | None = None) -> dict[str, Any]:
    made: dict[str, Any] = {"meta": {"stream": stream, "uri": uri, "request_id": "r"}}
    return made if triggered_by is None else made | {"triggered_by": triggered_by}


def test_a_chain_begins_with_the_request_and_grows_by_each_event() -> None:
    first = chain_of(event("s", "/a"))
    assert first == "req:r,s:/a"
    assert chain_of(event("t", "/b", first)) == "req:r,s:/a,t:/b"
    assert chain_of({}) == ":"


def test_rounds_of_a_loop_are_counted() -> None:
    chain = None
    for rounds in range(4):
        made = event("s", "/a", chain)
        assert times_in_chain(made) == rounds
        chain = chain_of(event("t", "/b", chain_of(made)))
    assert times_in_chain(event("s", "/b", chain)) == 0


def test_a_chain_has_a_bounded_length_and_keeps_its_newest_links() -> None:
    chain = None
    for _ in range(3000):
        chain = chain_of(event("some.stream", "/wiki/Some_Page", chain))
    assert chain is not None
    assert len(chain) <= CHAIN_CHARACTERS_MAX
    assert chain.endswith("some.stream:/wiki/Some_Page")
    assert set(chain.split(",")) == {"some.stream:/wiki/Some_Page"}
