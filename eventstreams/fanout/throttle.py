"""How fast one client's stream may go while it pulls alone.

Two things slow it: what its client's address may be sent, or have looked at, of the past in a
minute; and how much of the event loop's time it may take to choose its events. A stream that takes
more time rests until it is back at its share. If that makes it fall behind, so that it would never
have all of its events, it is ended, and told why.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from eventstreams.errors import FilterTooCostly
from eventstreams.fanout.chunk import Portion
from eventstreams.fanout.connection import Allowance

_BURST_S = 4.0
"""A stream may take its share of so long at once, before it is slowed."""

_REST_S_MAX = 1.0
"""After this a resting stream is looked at again: it may have fallen too far behind."""


class Throttle:
    __slots__ = (
        "_allowance",
        "_behind",
        "_clock",
        "_left_s",
        "_looked_at",
        "_patience_s",
        "_seen_at",
        "_share",
    )

    def __init__(
        self,
        *,
        allowance: Allowance | None,
        share: float,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`share` of one processor. A slowed stream may fall behind for `patience_s`."""
        self._allowance = allowance
        self._share = share
        self._patience_s = patience_s
        self._clock = clock
        self._left_s = _BURST_S * share
        self._seen_at = clock()
        self._looked_at: float | None = None
        """When it was last noted how far behind the slowed stream was."""
        self._behind = 0

    async def rest_s(self, behind: int | None) -> float:
        """How long to rest before the next events; 0.0 where that is not needed.

        `behind` by so many records; None for a stream that ends by itself, which may take its time.
        Raises FilterTooCostly.
        """
        if self._allowance is not None and (rest_s := await self._allowance.wait_s()) > 0:
            return rest_s
        now_s = self._clock()
        gained_s = (now_s - self._seen_at) * self._share
        self._left_s = min(_BURST_S * self._share, self._left_s + gained_s)
        self._seen_at = now_s
        if self._left_s >= 0:
            return 0.0
        if behind is not None:
            self._check_progress(behind, now_s)
        return min(-self._left_s / self._share, _REST_S_MAX)

    def looked(self, portion: Portion) -> None:
        """Record what it took to choose these events, and the bytes that are not sent of them."""
        self._left_s -= portion.selecting_s
        if self._allowance is not None:
            self._allowance.used(portion.passed_bytes)

    def sent(self, size: int) -> None:
        """Record that so many bytes were sent."""
        if self._allowance is not None:
            self._allowance.used(size)

    def caught_up(self) -> None:
        """Record that there is nothing left to look at."""
        self._looked_at = None

    def _check_progress(self, behind: int, now_s: float) -> None:
        if self._looked_at is not None:
            if now_s - self._looked_at < self._patience_s:
                return
            if behind >= self._behind:
                raise FilterTooCostly(
                    "Choosing the events of this stream takes more than its share of the gateway's "
                    f"time ({self._share:.4g} of a processor), and it has fallen behind for "
                    f"{self._patience_s:g} s. Go on from this id with a cheaper filter: "
                    "/v2/explain says what a filter costs"
                )
        self._looked_at, self._behind = now_s, behind
