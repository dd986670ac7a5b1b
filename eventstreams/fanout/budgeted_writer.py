"""Writes to cohorts whose filters take processor time, within a budget.

One such writer serves the cohorts whose filters an index finds, another one those whose filters
must be evaluated for every event. A writer rests as soon as it has used its share of a processor,
so more filters delay only the events of its own streams. If it falls behind for too long, or if
events that it has not examined yet are about to leave memory, it ends the streams whose filters
take the most time: as many as it must end so that it keeps up with the others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

from eventstreams.config.settings import FanoutSettings
from eventstreams.errors import FilterTooCostly
from eventstreams.fanout.cohort_writer import CohortWriter
from eventstreams.fanout.filter_budget import Usage, costliest
from eventstreams.fanout.group import CohortGroup
from eventstreams.fanout.time_share import TimeShare

_BURST_S = 0.1
"""How many seconds' worth of its share the writer may use at once before it rests."""
_REST_S_MAX = 0.25
"""The longest rest in one go, so that heartbeats are sent and the lag is checked."""
_ROUND_S = 0.25
"""How long a round of writes takes at most, so that subscriptions can join between two rounds."""
_PAUSE_S = 0.001
_MARGIN = 0.9
"""The largest part of the writer's capacity that the remaining filters may need."""
_LAG_MIN_S = 2.0
"""The shortest time over which the writer's capacity is measured."""


class _Progress(NamedTuple):
    at_s: float
    groups: tuple[CohortGroup, ...]
    examined: int
    """The sum of the groups' offsets."""
    ends: int
    """The sum of the offsets at which their tails end."""


class BudgetedWriter(CohortWriter):
    def __init__(
        self,
        *,
        usage: Usage,
        share: Callable[[], float],
        settings: FanoutSettings,
        **others: Any,
    ) -> None:
        """Create a writer that may fall behind for `settings.filter_patience_s`.

        `share()` is the share of one processor that it may use, above 0; what it uses is added to
        `usage`.
        """
        super().__init__(settings=settings, **others)
        self._usage = usage
        self._time = TimeShare(share, burst_s=_BURST_S)
        self._patience_s = settings.filter_patience_s
        self._since: _Progress | None = None
        """The progress when the writer began to be behind, or was last checked; None while it has
        caught up."""

    def _round_ends_at(self) -> float:
        return time.monotonic() + _ROUND_S

    def _used(self, spent_s: float) -> None:
        self._usage.add(spent_s)
        self._time.use(spent_s)

    def _rest_s(self) -> float:
        return min(self._time.rest_s(), _REST_S_MAX)

    async def _end_round(self) -> None:
        self._on_round()
        if not self.is_behind:
            self._since = None
            return
        self.news.set()
        await self._check_progress()
        await asyncio.sleep(_PAUSE_S)  # subscriptions at the position of their group join now

    async def _check_progress(self) -> None:
        """End the costliest filters if the writer has been behind for too long."""
        now = self._progress()
        since = self._since
        if since is None or since.groups != now.groups:
            self._begin(now)
            return
        lag_s = now.at_s - since.at_s
        if lag_s < self._patience_s and not (lag_s >= _LAG_MIN_S and self.is_about_to_lose):
            return
        done, due = now.examined - since.examined, now.ends - since.ends
        if done < due:  # it is falling further behind
            await self._end_costliest(_MARGIN * done / due, lag_s)
            now = self._progress()
        self._begin(now)

    def _begin(self, now: _Progress) -> None:
        """Measure progress and costs from now on."""
        self._since = now
        self.window += 1

    def _progress(self) -> _Progress:
        groups = tuple(self.groups)
        return _Progress(
            time.monotonic(),
            groups,
            sum(sum(group.position.offsets) for group in groups),
            sum(sum(group.ends) for group in groups),
        )

    async def _end_costliest(self, kept: float, lag_s: float) -> None:
        error = FilterTooCostly(
            "This stream's filter is evaluated together with others. They need more than their "
            f"limit, {self._time.share():.2g} of a processor, and have been behind for "
            f"{lag_s:.0f} s. This filter is among the costliest. Resume from this id with a "
            "cheaper filter, or add a condition that can be indexed: /v2/explain says how a filter "
            "is evaluated"
        )
        gone = costliest(self.costs(), kept)
        for n, _ in enumerate(chain.from_iterable(cohort.end(error) for cohort in gone), 1):
            if n % self._timing.ends_at_once == 0:
                await self._yield_to_loop()
