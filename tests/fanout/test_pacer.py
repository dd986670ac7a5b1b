"""Pacing with a simulated loop: immediate writes while idle, batches under load."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventstreams.fanout.pacer import Pacer

MAX_S = 0.1
costs = st.floats(0, 0.2)
intervals = st.floats(0.001, 1.0)


def simulate(interval_s: float, cost_s: float, rounds: int = 160) -> tuple[list[float], float]:
    """Simulate events every `interval_s` and rounds of writes that take `cost_s` each.

    Returns the rests of the later half, and the share of its time that was spent on writing.
    """
    pacer = Pacer(pace_max_s=MAX_S)
    now = interval_s
    arrived = 0
    rests: list[float] = []
    spent = began_s = 0.0
    for n in range(rounds):
        now = max(now, (arrived + 1) * interval_s)
        while (arrived + 1) * interval_s <= now + 1e-9:
            arrived += 1
            pacer.arrived()
        began = now
        now += cost_s
        rest = pacer.rest(began, cost_s)
        now += rest
        if n == rounds // 2:
            began_s, spent = began, 0.0
        spent += cost_s
        rests.append(rest)
    return rests[rounds // 2 :], spent / (now - began_s)


@given(intervals, st.floats(0, 0.45))
def test_an_idle_gateway_writes_immediately(interval_s: float, share: float) -> None:
    rests, _ = simulate(interval_s, interval_s * share)
    assert rests == [0.0] * len(rests)


@given(st.floats(0.001, 0.04), st.floats(1.0, 20.0))
def test_a_loaded_gateway_collects_batches(interval_s: float, load: float) -> None:
    cost_s = min(interval_s * load, 0.04)
    rests, share = simulate(interval_s, cost_s)
    assert min(rests) > 0
    assert share <= 0.67


@given(st.lists(st.tuples(intervals, costs, st.integers(0, 50)), max_size=60))
def test_events_never_wait_longer_than_the_longest_pace(
    rounds: list[tuple[float, float, int]],
) -> None:
    pacer = Pacer(pace_max_s=MAX_S)
    now = 0.0
    for interval_s, cost_s, arrivals in rounds:
        for _ in range(arrivals):
            pacer.arrived()
        rest = pacer.rest(now, cost_s)
        assert 0 <= rest <= MAX_S
        now += cost_s + rest + interval_s


def test_after_load_events_are_written_immediately_again() -> None:
    pacer = Pacer(pace_max_s=MAX_S)
    now = 0.0
    rest = 0.0
    for n in range(200):
        pacer.arrived()
        rest = pacer.rest(now, 0.02 if n < 100 else 0.0001)
        now += 0.03
        if n == 99:
            assert rest > 0
    assert rest == 0.0
