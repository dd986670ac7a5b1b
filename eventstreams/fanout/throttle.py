"""Limits how fast one client's stream may read while it is not in a cohort.

There are two limits: how many bytes of past events may be sent to, or examined for, the client's
address in a minute; and the share of the event loop's time that the stream may use to select its
events. A stream above its share pauses until it is back within it. If it falls behind because of
that, so that it could never catch up, it ends with an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from eventstreams.errors import FilterTooCostly
from eventstreams.fanout.batch import EncodedBatch
from eventstreams.fanout.send import Allowance
from eventstreams.fanout.time_share import TimeShare

_BURST_S = 4.0
"""How many seconds' worth of its share a stream may use at once before it is slowed."""

_REST_S_MAX = 1.0
"""The longest pause. After each pause, the gateway checks whether the stream is too far behind."""


class Throttle:
    """The limits of one stream, and what it has used of them."""

    __slots__ = (
        "_allowance",
        "_behind",
        "_clock",
        "_looked_at",
        "_patience_s",
        "_time",
    )

    def __init__(
        self,
        *,
        allowance: Allowance | None,
        share: Callable[[], float],
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`share()` is the part of one processor that the stream may use on average.

        A slowed stream may fall behind for `patience_s` seconds.
        """
        self._allowance = allowance
        self._time = TimeShare(share, burst_s=_BURST_S, clock=clock)
        self._patience_s = patience_s
        self._clock = clock
        self._looked_at: float | None = None
        """When `_behind` was last recorded; None while the stream is not slowed."""
        self._behind = 0

    async def rest_s(self, behind: int | None) -> float:
        """Return how long to pause before the next events, in seconds; 0.0 for no pause.

        `behind` is the number of records by which the stream is behind; None for a stream with a
        stop condition, which may take as long as it needs. Raises FilterTooCostly.
        """
        if self._allowance is not None and (rest_s := await self._allowance.wait_s()) > 0:
            return rest_s
        rest_s = self._time.rest_s()
        if rest_s > 0 and behind is not None:
            self._check_progress(behind)
        return min(rest_s, _REST_S_MAX)

    def looked(self, portion: EncodedBatch) -> None:
        """Record the time spent on selecting these events, and the bytes that were not selected."""
        self._time.use(portion.selecting_s)
        if self._allowance is not None:
            self._allowance.used(portion.passed_bytes)

    def sent(self, size: int) -> None:
        """Record that `size` bytes were sent."""
        if self._allowance is not None:
            self._allowance.used(size)

    def caught_up(self) -> None:
        """Record that the stream has examined all events up to the end."""
        self._looked_at = None

    def _check_progress(self, behind: int) -> None:
        now_s = self._clock()
        if self._looked_at is not None:
            if now_s - self._looked_at < self._patience_s:
                return
            if behind >= self._behind:
                raise FilterTooCostly(
                    "Selecting the events of this stream takes more than its share of the "
                    f"gateway's time ({self._time.share():.4g} of a processor), and it has been "
                    f"behind for {self._patience_s:g} s. Resume from this id with a cheaper "
                    "filter: /v2/explain says what a filter costs"
                )
        self._looked_at, self._behind = now_s, behind
