"""Limits the processor time of filters: of all together, and of each of the costliest ones.

Filters that an index finds are evaluated for few events and rarely use their half of the budget.
The others share the rest equally: those that a `BudgetedWriter` evaluates once for all their
clients, and those that take so long that each stream evaluates them in its own turns. What one side
does not use, the others may.

Easy to get wrong: which side a filter is on depends on the filter alone, never on what it has used.
Clients with equal filters must find each other in one cohort.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Generic, NamedTuple, TypeVar

from eventstreams.filters.selector import Selector, is_costly

T = TypeVar("T")

_AVERAGED_S = 5.0
_INDEXED_PART = 0.5
"""The part of the budget that indexed filters may always use together."""
_LEAST_PART = 0.01
"""The part of the budget that each side may always use, so that it never stops entirely."""


class Usage:
    """A moving average of the processor time that one kind of work uses."""

    __slots__ = ("_at", "_clock", "_sum_s")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock()
        self._sum_s = 0.0

    def add(self, spent_s: float) -> None:
        """Record that this much processor time was used, in seconds."""
        self._decay()
        self._sum_s += spent_s

    @property
    def share(self) -> float:
        """The share of one processor that was used over the last few seconds."""
        self._decay()
        return self._sum_s / _AVERAGED_S

    def _decay(self) -> None:
        now = self._clock()
        self._sum_s *= math.exp((self._at - now) / _AVERAGED_S)
        self._at = now


class FilterBudget:
    """Divides the processor time between filters, as the counts `shared` and `alone` require."""

    def __init__(
        self, share: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`share()` is the share of one processor that all filters may use together."""
        self._share = share
        self.indexed = Usage(clock)
        """The time used by filters that an index finds."""
        self.examined = Usage(clock)
        """The time used by filters that a writer evaluates for every event."""
        self.streams = Usage(clock)
        """The time used by filters that streams evaluate on their own."""
        self.shared = 0
        """How many cohorts have a filter that a writer evaluates for every event."""
        self.alone = 0
        """How many streams evaluate a costly filter on their own."""

    @property
    def indexed_share(self) -> float:
        """The share that the writer of indexed filters may use."""
        total = self._share()
        return max(total * _INDEXED_PART, total - self.examined.share - self.streams.share)

    @property
    def examined_share(self) -> float:
        """The share that the writer may use that evaluates filters for every event."""
        left = self._left
        fair = left * self.shared / max(1, self.shared + self.alone)
        return max(fair, left - self.streams.share, self._share() * _LEAST_PART)

    @property
    def stream_share(self) -> float:
        """The share that each stream may use that evaluates a costly filter on its own."""
        left = self._left
        fair = left / max(1, self.shared + self.alone)
        return max(fair, (left - self.examined.share) / max(1, self.alone))

    @property
    def _left(self) -> float:
        total = self._share()
        return total - min(self.indexed.share, total * _INDEXED_PART)


def is_indexed(selector: Selector) -> bool:
    """Return whether the selector is evaluated only for the events that an index finds, or has no
    filter, so that evaluating it is cheap."""
    return selector.filter is None or bool(selector.covers)


def pulls_alone(selector: Selector | None) -> bool:
    """Return whether each stream evaluates the filter in its own turns and never joins a cohort."""
    return selector is not None and is_costly(selector) and not selector.covers


class Cost(NamedTuple, Generic[T]):
    """The time that evaluating one filter has taken."""

    item: T
    seconds: float
    clients: Collection[str]
    """The addresses or networks of the clients that use it, each once."""


def costliest(costs: Sequence[Cost[T]], kept: float) -> list[T]:
    """Return the items without which the others cost at most `kept` of the total.

    `costs` are in the order in which the items were added. The cost of an item is divided among its
    clients. Until the rest costs little enough, the client with the highest cost loses the item in
    which it has the largest part; of equal items, the newest is chosen.
    """
    left = sum(cost.seconds for cost in costs)
    limit = left * kept
    totals: dict[str, float] = {}
    parts: dict[str, list[tuple[float, int]]] = {}
    for n, cost in enumerate(costs):
        part = cost.seconds / max(1, len(cost.clients))
        for client in cost.clients or ("",):
            totals[client] = totals.get(client, 0.0) + part
            parts.setdefault(client, []).append((part, n))
    for mine in parts.values():
        mine.sort()
    queue = [
        (-total, -max(n for _, n in parts[client]), client) for client, total in totals.items()
    ]
    heapq.heapify(queue)
    found: dict[int, T] = {}
    while left > limit and queue:
        total, newest, client = heapq.heappop(queue)
        mine = parts[client]
        while mine and mine[-1][1] in found:
            mine.pop()
        if not mine:
            continue
        if -total > totals[client]:  # it shared items that have gone since it was queued
            heapq.heappush(queue, (-totals[client], newest, client))
            continue
        part, n = mine.pop()
        found[n] = costs[n].item
        left -= costs[n].seconds
        for other in costs[n].clients or ("",):
            totals[other] -= part
        heapq.heappush(queue, (-totals[client], newest, client))
    return list(found.values())
