"""How filters share processor time, and which filters end if it is not enough."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstreams.fanout.filter_budget import (
    Cost,
    FilterBudget,
    Usage,
    costliest,
    is_indexed,
    pulls_alone,
)
from eventstreams.filters.selector import Selector, parse_selector

COSTLY = "event.l.exists(x, x > 1 && x < 5)"


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def selector(filter_: str | None, **others: str | None) -> Selector:
    found = parse_selector(filter_, others.get("fields"), others.get("sample"))
    assert found is not None
    return found


def test_usage_approaches_the_actual_use() -> None:
    clock = Clock()
    usage = Usage(clock)
    for _ in range(1_000):
        clock.now_s += 0.1
        usage.add(0.03)
    assert usage.share == pytest.approx(0.3, rel=0.02)
    clock.now_s += 60
    assert usage.share < 1e-5


@given(*[st.integers(0, 50)] * 2, *[st.floats(0, 1)] * 3)
def test_each_kind_may_use_a_fair_share_and_the_unused_rest(
    shared: int, alone: int, indexed: float, examined: float, streamed: float
) -> None:
    clock = Clock()
    budget = FilterBudget(lambda: 0.5, clock)
    budget.shared, budget.alone = shared, alone
    budget.indexed.add(indexed * 5)
    budget.examined.add(examined * 5)
    budget.streams.add(streamed * 5)
    left = 0.5 - min(indexed, 0.25)
    fair = left / max(1, shared + alone)
    assert budget.indexed_share == pytest.approx(max(0.25, 0.5 - examined - streamed))
    assert budget.stream_share == pytest.approx(max(fair, (left - examined) / max(1, alone)))
    assert budget.examined_share == pytest.approx(max(fair * shared, left - streamed, 0.005))


@given(st.floats(0.001, 1), *[st.floats(0, 100)] * 3)
def test_every_kind_always_has_a_share(
    total: float, indexed: float, examined: float, streamed: float
) -> None:
    budget = FilterBudget(lambda: total, Clock())
    budget.indexed.add(indexed)
    budget.examined.add(examined)
    budget.streams.add(streamed)
    assert min(budget.indexed_share, budget.examined_share) >= total / 100


clients = st.sets(st.sampled_from("abcde"), min_size=1)


@given(st.lists(st.tuples(st.floats(0, 10), clients), max_size=20), st.floats(0, 1))
def test_as_few_filters_end_as_needed(found: list[tuple[float, set[str]]], kept: float) -> None:
    costs = [Cost(n, seconds, owners) for n, (seconds, owners) in enumerate(found)]
    gone = costliest(costs, kept)
    total = sum(cost.seconds for cost in costs)
    left = total - sum(costs[n].seconds for n in gone)
    assert len(set(gone)) == len(gone)
    assert left <= total * kept + 1e-6
    if gone:
        assert left + costs[gone[-1]].seconds > total * kept - 1e-6


def test_the_newest_of_equal_filters_end_first() -> None:
    costs = [Cost(name, 1.0, ["a"]) for name in "wxyz"]
    assert costliest(costs, 0.5) == ["z", "y"]


def test_filters_of_the_costliest_client_end_first() -> None:
    many = [Cost(f"many {n}", 1.0, ["attacker"]) for n in range(10)]
    costs = [Cost("one", 4.0, ["innocent"]), *many]
    assert costliest(costs, 0.6) == [f"many {n}" for n in range(9, 3, -1)]


def test_shared_filters_end_after_those_of_one_client() -> None:
    shared = Cost("shared", 3.0, ["attacker", "innocent"])
    assert costliest([shared, Cost("own", 2.0, ["attacker"])], 0.7) == ["own"]


@pytest.mark.parametrize(
    ("selected", "indexed", "alone"),
    [
        (selector("event.n == 1"), True, False),
        (selector("event.n > 1"), False, False),
        (selector(COSTLY), False, True),
        (selector(f"event.n == 1 && {COSTLY}"), True, False),
        (selector(None, fields="a"), True, False),
        (selector(None, sample="0.1"), True, False),
    ],
)
def test_a_costly_filter_that_is_indexed_is_evaluated_once_for_all(
    selected: Selector, *, indexed: bool, alone: bool
) -> None:
    assert is_indexed(selected) is indexed
    assert pulls_alone(selected) is alone
