"""Decides when to write next: at once while that is cheap, otherwise in batches.

Writing one event to N clients costs N system calls whatever its size. Under load, events are
therefore collected: writing ten costs hardly more than writing one. Pure; the caller reads the
clock.
"""

from __future__ import annotations

_EASY = 0.5
"""The share of the loop's time that writing may take before events are collected."""
_FULL = 1.0
"""The share of the loop's time at which the pause reaches its maximum."""
_WEIGHT = 0.2
"""The weight of the newest measurement in the moving averages."""


class Pacer:
    """Computes how long to pause between writes, up to `pace_max_s` seconds."""

    def __init__(self, *, pace_max_s: float) -> None:
        self._pace_max_s = pace_max_s
        self._cost_s = 0.0
        self._interval_s = 1.0
        self._arrivals = 0
        self._round_began: float | None = None

    def arrived(self) -> None:
        """Record that events arrived that could be written now."""
        self._arrivals += 1

    def rest(self, began_s: float, spent_s: float) -> float:
        """Return how long to collect events after a round of writes, in seconds.

        `began_s` is when the round began, by the monotonic clock. `spent_s` is the processor time
        that it took, which does not grow when other processes use the machine.
        """
        if self._round_began is not None and self._arrivals:
            interval = (began_s - self._round_began) / self._arrivals
            self._interval_s += _WEIGHT * (interval - self._interval_s)
            self._arrivals = 0
        self._round_began = began_s
        self._cost_s += _WEIGHT * (spent_s - self._cost_s)
        load = self._cost_s / max(self._interval_s, 1e-6)
        if load <= _EASY:
            return 0.0
        pace = self._pace_max_s * min(1.0, (load - _EASY) / (_FULL - _EASY))
        return min(max(pace - spent_s, spent_s), self._pace_max_s)
