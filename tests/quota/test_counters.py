"""Leases are counted over all holders, and rates hold in any order of requests."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from eventstreams.quota.counters import RATE, QuotaCounters, QuotaRequest, Rate

KEYS = st.sampled_from("ab")
HOLDERS = st.sampled_from("xyz")
STEPS = st.lists(st.tuples(HOLDERS, KEYS, st.sampled_from(["take", "give", "die"])), max_size=60)


@given(STEPS, st.integers(1, 4))
def test_limits_hold_and_returned_leases_are_free(
    steps: list[tuple[str, str, str]], most: int
) -> None:
    counters, held = QuotaCounters(), {holder: Counter[str]() for holder in "xyz"}
    for holder, key, what in steps:
        own = held[holder]
        if what == "take":
            free = sum(each[key] for each in held.values()) < most
            granted = (
                counters.take(holder, [QuotaRequest(key, own[key] + 1, most)], None, 0.0) == ""
            )
            assert granted == free
            own[key] += granted
        elif what == "give" and own[key]:
            own[key] -= 1
            counters.settle(holder, {key: own[key]})
            counters.settle(holder, {key: own[key]})  # reported twice, returned once
        elif what == "die":
            own.clear()
            counters.forget(holder)
        for each in "ab":
            assert counters.held(each) == sum(counts[each] for counts in held.values()) <= most


def test_leases_are_granted_for_all_keys_or_none() -> None:
    counters = QuotaCounters()
    assert counters.take("x", [QuotaRequest("all", 1, 1), QuotaRequest("a", 1, 5)], None, 0.0) == ""
    assert (
        counters.take("y", [QuotaRequest("b", 1, 5), QuotaRequest("all", 1, 1)], None, 0.0) == "all"
    )
    assert counters.held("b") == 0


@given(st.lists(st.floats(0, 300), max_size=200), st.integers(1, 20))
def test_a_rate_allows_a_burst_of_one_minute(times: list[float], per_minute: int) -> None:
    """GCRA: a burst of one minute, and then the rate."""
    counters = QuotaCounters()
    granted = [at for at in sorted(times) if not counters.take("x", [], Rate("k", per_minute), at)]
    for first in granted:
        for window in (60.0, 150.0):
            within = sum(first <= at <= first + window for at in granted)
            assert within <= per_minute * (1 + window / 60) + 1
    assert len(granted) >= min(len(times), per_minute)


def test_each_key_has_its_own_rate_which_refills() -> None:
    counters = QuotaCounters()
    assert [counters.take("x", [], Rate("k", 2), 0.0) for _ in range(3)] == ["", "", RATE]
    assert counters.take("y", [], Rate("k", 2), 1.0) == RATE, "whichever process asks"
    assert counters.take("x", [], Rate("other", 2), 1.0) == ""
    assert counters.take("x", [], Rate("k", 2), 31.0) == ""


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30))
def test_after_the_announced_wait_the_amount_is_granted(amounts: list[int]) -> None:
    counters, now = QuotaCounters(), 0.0
    for amount in amounts:
        wait_s = counters.spend("k", amount, 1000, now)
        assert 0 <= wait_s <= 60 + 1e-6
        if wait_s:
            now += wait_s + 1e-6
            assert counters.spend("k", amount, 1000, now) == 0.0


def test_a_note_is_returned_once_and_expires() -> None:
    counters = QuotaCounters()
    counters.put("a", b"1", 10, 0.0)
    counters.put("b", b"2", 10, 0.0)
    assert counters.pop("a", 5.0) == b"1"
    assert counters.pop("a", 5.0) is None
    assert counters.pop("b", 10.0) is None


def test_beyond_the_limit_the_oldest_note_is_dropped() -> None:
    counters = QuotaCounters()
    for n in range(10_001):
        counters.put(str(n), b"", 60, 0.0)
    assert counters.pop("0", 1.0) is None
    assert counters.pop("1", 1.0) == b""


def test_recovered_rates_are_forgotten() -> None:
    counters = QuotaCounters()
    for n in range(5000):
        counters.spend(str(n), 1, 60, float(n))
    assert len(counters._due) <= 1100
