"""Limits work on average to a share of one processor."""

from __future__ import annotations

import time
from collections.abc import Callable


class TimeShare:
    """A bucket of processor time, which fills at the rate of the share.

    Work may exceed what is left. It must then pause until the bucket is no longer below zero.
    """

    __slots__ = ("_burst_s", "_clock", "_filled_at", "_left_s", "share")

    def __init__(
        self,
        share: Callable[[], float],
        *,
        burst_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`share()` is the part of one processor that may be used, above 0.

        The bucket is full at first, and holds what `burst_s` seconds add.
        """
        self.share = share
        self._burst_s = burst_s
        self._clock = clock
        self._left_s = burst_s * share()
        self._filled_at = clock()

    def use(self, spent_s: float) -> None:
        """Record work that took `spent_s` seconds of processor time."""
        self._left_s -= spent_s

    def rest_s(self) -> float:
        """Return how long the work must pause, in seconds."""
        now_s, share = self._clock(), self.share()
        gained_s = (now_s - self._filled_at) * share
        self._left_s = min(self._burst_s * share, self._left_s + gained_s)
        self._filled_at = now_s
        return -self._left_s / share if self._left_s < 0 else 0.0
