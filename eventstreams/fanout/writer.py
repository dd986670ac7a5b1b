"""What the tasks that write to cohorts go by: which cohorts are theirs, and when to write."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from eventstreams.fanout.cohort import Cohort
from eventstreams.fanout.pacer import Pacer
from eventstreams.turns import PIECE_S


class Writer:
    """What one of the tasks that write to cohorts goes by."""

    def __init__(self, selects: bool, pace_max_s: float) -> None:
        self.selects = selects
        """Whether the events of its cohorts are chosen."""
        self.pacer = Pacer(pace_max_s=pace_max_s)
        self.news = asyncio.Event()
        self._gave_way_at = time.monotonic()

    def cohorts_of(self, cohorts: Iterable[Cohort]) -> list[Cohort]:
        """Those that it writes to."""
        return [each for each in cohorts if (each.want.selector is not None) is self.selects]

    async def give_way(self) -> None:
        """Lets the rest of the loop have its turn, if this has worked long enough."""
        if time.monotonic() - self._gave_way_at >= PIECE_S:
            await asyncio.sleep(0)
            self._gave_way_at = time.monotonic()
